// SPDX-License-Identifier: Apache-2.0

/**
 * Log payloads by their place, always verified: a piece of an entry is only given out of the whole
 * entry, read and summed. Holds a bounded number of open files, batch tables and entries.
 */

import { OPEN_SEGMENTS_MAX, PAYLOAD_CACHE_BYTES, TABLE_CACHE_BYTES } from '../common/limits.js';
import { corruption, MapsError } from './errors.js';
import type { SegmentReference } from './extents.js';
import { SegmentFile, type PayloadColumns, type PayloadPlace } from './segment/reader.js';

/** Where the file of a segment lies now. */
export interface SegmentLocation extends SegmentReference {
  readonly path: string;
  readonly sealed: boolean;
  /** For an active segment: how far the data plane has published the log. */
  readonly durableLsn?: number | undefined;
}

/** A map of bounded weight that forgets what was used longest ago. */
export class LruCache<K, V> {
  private readonly entries = new Map<K, { readonly value: V; readonly weight: number }>();
  private weight = 0;

  constructor(
    private readonly weightMax: number,
    private readonly onEvict?: (value: V) => void,
  ) {}

  get(key: K): V | undefined {
    const found = this.entries.get(key);
    if (!found) return undefined;
    this.entries.delete(key);
    this.entries.set(key, found);
    return found.value;
  }

  set(key: K, value: V, weight: number): void {
    this.drop(key);
    this.entries.set(key, { value, weight });
    this.weight += weight;
    for (const oldest of this.entries.keys()) {
      if (this.weight <= this.weightMax || oldest === key) break;
      this.drop(oldest);
    }
  }

  clear(): void {
    for (const key of [...this.entries.keys()]) this.drop(key);
  }

  private drop(key: K): void {
    const found = this.entries.get(key);
    if (!found) return;
    this.entries.delete(key);
    this.weight -= found.weight;
    this.onEvict?.(found.value);
  }
}

interface OpenSegment {
  readonly file: SegmentFile;
  readonly tables: Map<number, PayloadColumns>;
  tableBytes: number;
}

const PAYLOAD_ROW_BYTES = 20;

export class SegmentStore {
  private readonly locations = new Map<string, SegmentLocation>();
  private readonly open = new LruCache<string, OpenSegment>(OPEN_SEGMENTS_MAX, (segment) => {
    this.tableBytes -= segment.tableBytes;
    segment.file.close();
  });
  private tableBytes = 0;
  private readonly payloads = new LruCache<string, Buffer>(PAYLOAD_CACHE_BYTES);

  constructor(locations: readonly SegmentLocation[]) {
    for (const location of locations) this.locations.set(nameOf(location), location);
  }

  close(): void {
    this.open.clear();
    this.payloads.clear();
  }

  /** The open file of a segment; valid until the next call. @throws NOT_FOUND, CORRUPTION */
  file(reference: SegmentReference): SegmentFile {
    return this.segment(reference).file;
  }

  /** The entry whose payload holds sector `address` of a segment. @throws CORRUPTION */
  placeAt(reference: SegmentReference, address: number): PayloadPlace {
    const segment = this.segment(reference);
    const table = this.table(segment, segment.file.batchOfAddress(address));
    let low = 0;
    let high = table.count - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (table.address[middle]! <= address) low = middle;
      else high = middle - 1;
    }
    const start = table.address[low];
    if (start === undefined || address < start || address >= start + table.sectors[low]!) {
      throw corruption('read log', segment.file.path, address * 512, 'no entry has its data here');
    }
    return {
      lsn: table.lsn[low]!,
      address: start,
      sectors: table.sectors[low]!,
      crc: table.crc[low]!,
    };
  }

  /** A verified payload that was kept, if it still is. */
  kept(reference: SegmentReference, place: PayloadPlace): Buffer | undefined {
    return this.payloads.get(`${nameOf(reference)}/${place.address}`);
  }

  /** Keeps a copy of a verified payload that others may want a part of. */
  keep(reference: SegmentReference, place: PayloadPlace, payload: Buffer): void {
    const key = `${nameOf(reference)}/${place.address}`;
    this.payloads.set(key, Buffer.from(payload), payload.length);
  }

  private segment(reference: SegmentReference): OpenSegment {
    const name = nameOf(reference);
    const known = this.open.get(name);
    if (known) return known;
    const location = this.locations.get(name);
    if (!location) {
      throw new MapsError('NOT_FOUND', `segment ${reference.segment} is not known`, {
        operation: 'read log',
        hint: `device ${reference.device} has to be present for this point`,
      });
    }
    const { path, sealed, durableLsn } = location;
    const options = durableLsn === undefined ? {} : { durableLsn };
    const file = SegmentFile.open(path, { expectSealed: sealed, ...options });
    const { device, segment } = file.header;
    if (device !== reference.device || segment !== reference.segment) {
      file.close();
      throw corruption('read log', path, 0, `segment ${segment} of device ${device} in its place`);
    }
    const opened: OpenSegment = { file, tables: new Map(), tableBytes: 0 };
    this.open.set(name, opened, 1);
    return opened;
  }

  private table(segment: OpenSegment, batch: number): PayloadColumns {
    const known = segment.tables.get(batch);
    if (known) return known;
    const table = segment.file.payloadsOfBatch(batch);
    const bytes = table.count * PAYLOAD_ROW_BYTES;
    if (this.tableBytes + bytes > TABLE_CACHE_BYTES) {
      this.tableBytes -= segment.tableBytes;
      segment.tableBytes = 0;
      segment.tables.clear();
    }
    // Where other segments hold all the room, this one works without keeping its tables.
    if (this.tableBytes + bytes <= TABLE_CACHE_BYTES) {
      segment.tables.set(batch, table);
      segment.tableBytes += bytes;
      this.tableBytes += bytes;
    }
    return table;
  }
}

function nameOf({ device, segment }: SegmentReference): string {
  return `${device}/${segment}`;
}
