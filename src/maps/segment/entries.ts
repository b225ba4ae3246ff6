// SPDX-License-Identifier: Apache-2.0

import { VOLUME_SECTORS_MAX } from '../../common/limits.js';
import { ENTRY_BYTES, EntryType } from './format.js';

/** Whether entries of a type have a payload, by type; 0xff marks types that do not exist. */
const PAYLOAD_OF_TYPE = Uint8Array.from([0xff, 1, 0, 0, 0, 1, 1, 0, 0, 1]);
const WORDS = ENTRY_BYTES / 4;

export interface EntriesIdentity {
  readonly group: string;
  readonly device: string;
  readonly segment: number;
  readonly epoch: number;
}

/**
 * Entries of one segment as columns: entry i has LSN `firstLsn + i`. Filled batch by batch; only
 * rows below `count` mean something.
 */
export class SegmentEntries {
  count = 0;
  readonly type: Uint8Array;
  readonly flags: Uint8Array;
  readonly volume: Uint16Array;
  readonly sectors: Uint32Array;
  /** Start on the volume, or an LSN for flush and error entries; below 2^53. */
  readonly sector: Float64Array;
  readonly timeNs: BigUint64Array;
  readonly crc: Uint32Array;
  /** First payload sector in the segment file, 0 without a payload. */
  readonly address: Uint32Array;
  private readonly timeWords: Uint32Array;

  constructor(
    readonly identity: EntriesIdentity,
    readonly file: string,
    readonly firstLsn: number,
    capacity: number,
  ) {
    this.type = new Uint8Array(capacity);
    this.flags = new Uint8Array(capacity);
    this.volume = new Uint16Array(capacity);
    this.sectors = new Uint32Array(capacity);
    this.sector = new Float64Array(capacity);
    this.timeNs = new BigUint64Array(capacity);
    this.timeWords = new Uint32Array(this.timeNs.buffer);
    this.crc = new Uint32Array(capacity);
    this.address = new Uint32Array(capacity);
  }

  get capacity(): number {
    return this.type.length;
  }

  get lastLsn(): number {
    return this.firstLsn + this.count - 1;
  }

  lsn(index: number): number {
    return this.firstLsn + index;
  }

  /** The row of an LSN, -1 when it is not among these entries. */
  indexOf(lsn: number): number {
    const index = lsn - this.firstLsn;
    return index >= 0 && index < this.count ? index : -1;
  }

  hasPayload(index: number): boolean {
    return PAYLOAD_OF_TYPE[this.type[index] ?? 0] === 1;
  }

  /**
   * Appends rows [from, to) of a batch's table, which starts at `table[at]` (a multiple of 32).
   * The whole table is checked, also the rows that are left out.
   * @param dataSector where the batch's payloads start
   * @returns what is wrong with the table, or nothing
   */
  append(
    table: Buffer,
    at: number,
    rows: number,
    from: number,
    to: number,
    dataSector: number,
    dataSectors: number,
  ): string | undefined {
    const words = new Uint32Array(table.buffer, table.byteOffset + at, rows * WORDS);
    let address = dataSector;
    let out = this.count;
    for (let row = 0, w = 0; row < rows; row += 1, w += WORDS) {
      const head = words[w]!;
      const type = head & 0xff;
      const flags = (head >>> 8) & 0xff;
      const sectors = words[w + 1]!;
      const sectorHigh = words[w + 3]!;
      const crc = words[w + 6]!;
      const place = words[w + 7]!;
      const payload = type < PAYLOAD_OF_TYPE.length ? PAYLOAD_OF_TYPE[type]! : 0xff;
      if (payload === 0xff) return `unknown entry type ${type}`;
      if (flags > 3) return `unknown entry flags ${flags}`;
      if (sectorHigh >= 0x20_0000) return 'an entry beyond the end of any volume';
      const sector = sectorHigh * 0x1_0000_0000 + words[w + 2]!;
      if (payload === 1) {
        if (place !== address) return 'payloads do not stand one behind the other';
        address += sectors;
      } else if (place !== 0 || crc !== 0) {
        return 'an entry without payload has an address';
      }
      const shape = checkShape(type, sectors, sector);
      if (shape !== undefined) return shape;
      if (row < from || row >= to) continue;
      this.type[out] = type;
      this.flags[out] = flags;
      this.volume[out] = head >>> 16;
      this.sectors[out] = sectors;
      this.sector[out] = sector;
      this.timeWords[2 * out] = words[w + 4]!;
      this.timeWords[2 * out + 1] = words[w + 5]!;
      this.crc[out] = crc;
      this.address[out] = place;
      out += 1;
    }
    if (address !== dataSector + dataSectors) return 'the payloads do not fill the batch';
    this.count = out;
    return undefined;
  }
}

function checkShape(type: number, sectors: number, sector: number): string | undefined {
  switch (type) {
    case EntryType.flush:
    case EntryType.error:
      return sectors === 0 ? undefined : 'a flush or error entry with a length';
    case EntryType.marker:
    case EntryType.geometry:
    case EntryType.gap:
      return sectors === 1 && sector === 0
        ? undefined
        : 'a marker, geometry or gap entry with a range';
    default:
      if (sectors === 0) return 'an empty range';
      return sector + sectors <= VOLUME_SECTORS_MAX
        ? undefined
        : 'a range beyond the end of any volume';
  }
}
