// SPDX-License-Identifier: Apache-2.0

/**
 * Reads log segments. A sealed one is read from its directory and batch tables alone; an active
 * one (or one whose end was lost) is walked batch by batch up to the first that does not hold.
 * All calls are synchronous: they belong into worker threads, or to small files.
 */

import * as fs from 'node:fs';

import { crc32 } from '../../common/crc.js';
import { toEverpointError } from '../../common/errors.js';
import { readAtSync } from '../../common/files.js';
import {
  PAGE_BYTES,
  SECTOR_BYTES,
  SEGMENT_ENTRIES_MAX,
  TABLE_READ_BYTES_MAX,
} from '../../common/limits.js';
import { corruption, MapsError } from '../errors.js';
import { SegmentEntries } from './entries.js';
import {
  BATCH_HEADER_BYTES,
  batchTableBytes,
  batchTableCrc,
  decodeBatchHeader,
  decodeGap,
  decodeGeometry,
  decodeMarker,
  decodeSegmentHeader,
  decodeSegmentTrailer,
  DIRECTORY_ENTRY_BYTES,
  EntryType,
  HEADER_BYTES,
  TRAILER_BYTES,
  type BatchHeader,
  type GapPayload,
  type GeometryPayload,
  type MarkerPayload,
  type SegmentHeader,
  type SegmentTrailer,
} from './format.js';

export interface OpenSegmentOptions {
  /**
   * The manifest says that the segment is sealed: a missing or bad trailer is damage then, where
   * it would otherwise mean that the segment is still being written.
   */
  readonly expectSealed?: boolean;
  /**
   * For active segments: the data plane has published the log up to this LSN, so payloads of
   * batches up to it are not summed while the chain is walked. Without it every payload is.
   */
  readonly durableLsn?: number;
}

/** Where one batch stands; everything here is covered by a checksum that was checked. */
export interface BatchPlace {
  readonly offset: number;
  readonly entries: number;
  readonly crc: number;
  readonly firstLsn: number;
}

/** One payload in a segment file, with the sum that the batch table has for it. */
export interface PayloadPlace {
  readonly lsn: number;
  readonly address: number;
  readonly sectors: number;
  readonly crc: number;
}

/** The payloads of one batch as columns, in file order. */
export interface PayloadColumns {
  readonly count: number;
  readonly lsn: Float64Array;
  readonly address: Uint32Array;
  readonly sectors: Uint32Array;
  readonly crc: Uint32Array;
}

/** A marker, a geometry change or a gap's beginning or end, with the LSN and time of its entry. */
export type SegmentLabel =
  | {
      readonly kind: 'marker';
      readonly lsn: number;
      readonly timeNs: bigint;
      readonly marker: MarkerPayload;
    }
  | {
      readonly kind: 'geometry';
      readonly lsn: number;
      readonly timeNs: bigint;
      readonly volume: number;
      readonly geometry: GeometryPayload;
    }
  | {
      readonly kind: 'gap';
      readonly lsn: number;
      readonly timeNs: bigint;
      readonly gap: GapPayload;
    };

const READ = 'read segment';
/** 1 for the types of entries whose payloads are labels. */
const LABELS = Uint8Array.from([0, 0, 0, 0, 0, 1, 1, 0, 0, 1]);

/** One open segment file. Not shared between threads. */
export class SegmentFile {
  readonly header: SegmentHeader;
  readonly trailer: SegmentTrailer | undefined;
  /** In file order. For an active segment: as far as it was when it was opened. */
  readonly batches: readonly BatchPlace[];
  readonly fileBytes: number;
  readonly entryCount: number;
  private readonly headerCrc: number;

  private constructor(
    readonly path: string,
    private readonly fd: number,
    options: OpenSegmentOptions,
  ) {
    this.fileBytes = fs.fstatSync(fd).size;
    const page = Buffer.allocUnsafeSlow(HEADER_BYTES);
    const got = readAtSync(fd, page, 0);
    const { header, crc } = decodeSegmentHeader(page.subarray(0, got), path);
    this.header = header;
    this.headerCrc = crc;
    this.trailer = this.readTrailer();
    if (!this.trailer && options.expectSealed) {
      const at = Math.max(0, this.fileBytes - TRAILER_BYTES);
      throw corruption(READ, path, at, 'a sealed segment without a good trailer');
    }
    this.batches = this.trailer ? this.readDirectory(this.trailer) : this.walk(options.durableLsn);
    this.entryCount = this.batches.reduce((sum, batch) => sum + batch.entries, 0);
  }

  /** @throws NOT_FOUND, CORRUPTION, UNSUPPORTED, IO_ERROR */
  static open(path: string, options: OpenSegmentOptions = {}): SegmentFile {
    let fd: number;
    try {
      fd = fs.openSync(path, 'r');
    } catch (error) {
      throw toEverpointError(error, READ, path);
    }
    try {
      return new SegmentFile(path, fd, options);
    } catch (error) {
      fs.closeSync(fd);
      throw toEverpointError(error, READ, path);
    }
  }

  close(): void {
    fs.closeSync(this.fd);
  }

  get sealed(): boolean {
    return this.trailer !== undefined;
  }

  get firstLsn(): number {
    return this.header.firstLsn;
  }

  /** One below `firstLsn` while there are no entries. */
  get lastLsn(): number {
    return this.header.firstLsn + this.entryCount - 1;
  }

  /** What its entries have as payloads, all together. */
  get payloadBytes(): number {
    if (this.trailer) return this.trailer.dataBytes;
    let sectors = 0;
    this.forEachTable(0, this.batches.length, (_table, _batch, header) => {
      sectors += header.dataSectors;
    });
    return sectors * SECTOR_BYTES;
  }

  /**
   * The entries with first ≤ LSN ≤ last (the whole segment without a range), from the tables of
   * the batches that hold them. An LSN that the segment does not have is INVALID_ARGUMENT.
   */
  readEntries(first = this.firstLsn, last = this.lastLsn): SegmentEntries {
    if (last >= first && (first < this.firstLsn || last > this.lastLsn)) {
      throw new MapsError(
        'INVALID_ARGUMENT',
        `${this.path} holds LSN ${this.firstLsn} to ${this.lastLsn}, not ${first} to ${last}`,
        { operation: READ, file: this.path, lsnRange: { first, last } },
      );
    }
    const entries = new SegmentEntries(
      this.header,
      this.path,
      first,
      Math.max(0, last - first + 1),
    );
    if (last < first) return entries;
    const from = this.batchOfLsn(first);
    const to = this.batchOfLsn(last) + 1;
    this.forEachTable(from, to, (table, batch, header) => {
      const lower = Math.max(0, first - header.firstLsn);
      const upper = Math.min(header.entries, last - header.firstLsn + 1);
      const problem = entries.append(
        table,
        BATCH_HEADER_BYTES,
        header.entries,
        lower,
        upper,
        header.dataSector,
        header.dataSectors,
      );
      if (problem !== undefined) throw this.damaged(batch.offset, problem, header);
    });
    this.checkTimes(entries);
    return entries;
  }

  /** The number of the batch that reaches over sector `address`. @throws CORRUPTION for none */
  batchOfAddress(address: number): number {
    return this.batchOfOffset(address * SECTOR_BYTES);
  }

  /** Where every payload of one batch stands, in file order. */
  payloadsOfBatch(batchNumber: number): PayloadColumns {
    let found: PayloadColumns | undefined;
    this.forEachTable(batchNumber, batchNumber + 1, (table, batch, header) => {
      const rows = new SegmentEntries(this.header, this.path, header.firstLsn, header.entries);
      const problem = rows.append(
        table,
        BATCH_HEADER_BYTES,
        header.entries,
        0,
        header.entries,
        header.dataSector,
        header.dataSectors,
      );
      if (problem !== undefined) throw this.damaged(batch.offset, problem, header);
      found = payloadColumns(rows);
    });
    return found!;
  }

  /** Reads one entry's payload and checks its sum. @throws CORRUPTION */
  readPayloadVerified(entries: SegmentEntries, index: number): Buffer {
    if (!entries.hasPayload(index)) {
      throw new MapsError('INVALID_ARGUMENT', `LSN ${entries.lsn(index)} has no payload`, {
        operation: READ,
        file: this.path,
      });
    }
    return this.readPlaceVerified({
      lsn: entries.lsn(index),
      address: entries.address[index]!,
      sectors: entries.sectors[index]!,
      crc: entries.crc[index]!,
    });
  }

  readPlaceVerified(place: PayloadPlace): Buffer {
    const payload = Buffer.allocUnsafeSlow(place.sectors * SECTOR_BYTES);
    this.readRaw(place.address * SECTOR_BYTES, payload);
    this.checkPayload(place, payload);
    return payload;
  }

  /** @throws CORRUPTION when the bytes are not those that the table has the sum of */
  checkPayload(place: PayloadPlace, payload: Uint8Array): void {
    if (crc32(payload) === place.crc) return;
    throw corruption(READ, this.path, place.address * SECTOR_BYTES, 'payload checksum mismatch', {
      lsnRange: { first: place.lsn, last: place.lsn },
    });
  }

  /** Reads bytes as they are, unverified. @throws CORRUPTION when the file ends before */
  readRaw(offset: number, into: Uint8Array): void {
    if (readAtSync(this.fd, into, offset) !== into.byteLength) {
      throw corruption(READ, this.path, offset, 'the file ends within a payload');
    }
  }

  /** Markers, geometry changes and gaps among the entries, their payloads verified. */
  readLabels(entries: SegmentEntries): SegmentLabel[] {
    const labels: SegmentLabel[] = [];
    for (let i = 0; i < entries.count; i += 1) {
      const type = entries.type[i]!;
      if (LABELS[type] !== 1) continue;
      const payload = this.readPayloadVerified(entries, i);
      const common = { lsn: entries.lsn(i), timeNs: entries.timeNs[i]! };
      const offset = entries.address[i]! * SECTOR_BYTES;
      if (type === EntryType.marker) {
        const marker = decodeMarker(payload);
        if (typeof marker === 'string') throw corruption(READ, this.path, offset, marker);
        labels.push({ kind: 'marker', ...common, marker });
      } else if (type === EntryType.gap) {
        const gap = decodeGap(payload);
        if (typeof gap === 'string') throw corruption(READ, this.path, offset, gap);
        if (gap.toLsn !== 0 && gap.toLsn !== common.lsn) {
          throw corruption(READ, this.path, offset, 'a gap that ends at another LSN than its own');
        }
        labels.push({ kind: 'gap', ...common, gap });
      } else {
        const geometry = decodeGeometry(payload);
        if (typeof geometry === 'string') throw corruption(READ, this.path, offset, geometry);
        labels.push({ kind: 'geometry', ...common, volume: entries.volume[i]!, geometry });
      }
    }
    return labels;
  }

  /** The batch whose header and table cover the LSN; the range was checked by the caller. */
  private batchOfLsn(lsn: number): number {
    let low = 0;
    let high = this.batches.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.batches[middle]!.firstLsn <= lsn) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  private batchOfOffset(offset: number): number {
    let low = 0;
    let high = this.batches.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.batches[middle]!.offset <= offset) low = middle;
      else high = middle - 1;
    }
    const batch = this.batches[low];
    if (!batch || batch.offset > offset) {
      throw corruption(READ, this.path, offset, 'no batch of the segment holds this address');
    }
    return low;
  }

  /**
   * Calls `visit` with header and table of batches [from, to), every sum and every link checked.
   * Tables that stand close together come from one read.
   */
  private forEachTable(
    from: number,
    to: number,
    visit: (headerAndTable: Buffer, batch: BatchPlace, header: BatchHeader) => void,
  ): void {
    // Tables start at multiples of 4096 in the file, so they are aligned in this buffer too.
    const buffer = Buffer.allocUnsafeSlow(TABLE_READ_BYTES_MAX);
    for (let next = from; next < to;) {
      const start = this.batches[next]!.offset;
      let end = next;
      let length = 0;
      while (end < to) {
        const batch = this.batches[end]!;
        const reach = batch.offset - start + batchTableBytes(batch.entries);
        if (reach > TABLE_READ_BYTES_MAX) break;
        length = reach;
        end += 1;
      }
      const window = buffer.subarray(0, length);
      if (readAtSync(this.fd, window, start) !== length) {
        throw corruption(READ, this.path, start, 'the file ends within a batch table');
      }
      for (; next < end; next += 1) {
        const batch = this.batches[next]!;
        const at = batch.offset - start;
        const table = window.subarray(at, at + batchTableBytes(batch.entries));
        const previous = next === 0 ? this.headerCrc : this.batches[next - 1]!.crc;
        const header = decodeBatchHeader(table);
        if (typeof header === 'string') throw this.damaged(batch.offset, header);
        const problem =
          this.linkProblem(header, next, previous, batch.firstLsn) ??
          (header.crc !== batch.crc || header.entries !== batch.entries
            ? 'the batch is not the one that the directory names'
            : batchTableCrc(table) !== header.crc
              ? 'batch table checksum mismatch'
              : this.placeProblem(header, batch.offset));
        if (problem !== undefined) throw this.damaged(batch.offset, problem, header);
        visit(table, batch, header);
      }
    }
  }

  private linkProblem(
    header: BatchHeader,
    number: number,
    chain: number,
    firstLsn: number,
  ): string | undefined {
    if (header.group !== this.header.group) return 'a batch of another group';
    if (header.segment !== this.header.segment) return 'a batch of another segment';
    if (header.epoch !== this.header.epoch) return 'a batch of another epoch';
    if (header.batch !== number) return `batch ${header.batch} in the place of batch ${number}`;
    if (header.chain !== chain) return 'the batch does not continue the chain';
    if (header.firstLsn !== firstLsn) return 'the LSNs do not continue';
    return undefined;
  }

  private placeProblem(header: BatchHeader, offset: number): string | undefined {
    const dataStart =
      offset / SECTOR_BYTES + Math.ceil(batchTableBytes(header.entries) / SECTOR_BYTES);
    if (header.dataSectors > 0 && header.dataSector !== dataStart) return 'data in a wrong place';
    const end = this.trailer?.directoryOffset ?? this.fileBytes;
    if (offset + header.pages * PAGE_BYTES > end) return 'a batch beyond the end';
    return undefined;
  }

  private checkTimes(entries: SegmentEntries): void {
    const words = new Uint32Array(entries.timeNs.buffer);
    for (let i = 1; i < entries.count; i += 1) {
      const high = words[2 * i + 1]!;
      const before = words[2 * i - 1]!;
      if (high > before || (high === before && words[2 * i]! > words[2 * i - 2]!)) continue;
      const lsn = entries.lsn(i);
      const batch = this.batches[this.batchOfLsn(lsn)]!;
      throw corruption(READ, this.path, batch.offset, `the time of LSN ${lsn} does not rise`);
    }
  }

  private readTrailer(): SegmentTrailer | undefined {
    const offset = this.fileBytes - TRAILER_BYTES;
    if (offset < HEADER_BYTES || offset % PAGE_BYTES !== 0) return undefined;
    const page = Buffer.allocUnsafeSlow(TRAILER_BYTES);
    if (readAtSync(this.fd, page, offset) !== TRAILER_BYTES) return undefined;
    const trailer = decodeSegmentTrailer(page, this.path, offset);
    if (!trailer) return undefined;
    const bad = (what: string) => corruption(READ, this.path, offset, what);
    const { header } = this;
    if (trailer.group !== header.group || trailer.device !== header.device) {
      throw bad('the trailer names another group or device');
    }
    if (trailer.segment !== header.segment || trailer.epoch !== header.epoch) {
      throw bad('the trailer names another segment or epoch');
    }
    if (
      trailer.firstLsn !== header.firstLsn ||
      trailer.lastLsn !== trailer.firstLsn + trailer.entries - 1 ||
      trailer.entries > SEGMENT_ENTRIES_MAX
    ) {
      throw bad('the trailer has wrong LSNs');
    }
    return trailer;
  }

  private readDirectory(trailer: SegmentTrailer): BatchPlace[] {
    const at = trailer.directoryOffset;
    const bytes = trailer.batches * DIRECTORY_ENTRY_BYTES;
    const bad = (what: string) => corruption(READ, this.path, at, what);
    if (at % PAGE_BYTES !== 0 || at < HEADER_BYTES || at + bytes > this.fileBytes - TRAILER_BYTES) {
      throw bad('the directory does not stand in the file');
    }
    const directory = Buffer.allocUnsafeSlow(bytes);
    if (readAtSync(this.fd, directory, at) !== bytes || crc32(directory) !== trailer.directoryCrc) {
      throw bad('directory checksum mismatch');
    }
    const batches: BatchPlace[] = [];
    let lsn = trailer.firstLsn;
    let offset = HEADER_BYTES;
    for (let i = 0; i < bytes; i += DIRECTORY_ENTRY_BYTES) {
      const place = directory.readUInt32LE(i) * PAGE_BYTES;
      const entries = directory.readUInt32LE(i + 4);
      const firstLsn = trailer.firstLsn + directory.readUInt32LE(i + 12);
      const tableEnd = place + batchTableBytes(entries);
      if (place < offset || tableEnd > at) throw bad('batches overlap in the directory');
      if (firstLsn !== lsn) throw bad('the LSNs of the directory do not continue');
      batches.push({ offset: place, entries, crc: directory.readUInt32LE(i + 8), firstLsn });
      lsn += entries;
      offset = tableEnd;
    }
    if (lsn !== trailer.lastLsn + 1) throw bad('the directory does not hold every entry');
    if ((batches.at(-1)?.crc ?? this.headerCrc) !== trailer.lastChain) {
      throw bad('the chain does not end where the trailer says');
    }
    return batches;
  }

  /** The published part of a segment without a trailer: everything before the first bad batch. */
  private walk(durableLsn: number | undefined): BatchPlace[] {
    const batches: BatchPlace[] = [];
    const head = Buffer.allocUnsafeSlow(BATCH_HEADER_BYTES);
    let chain = this.headerCrc;
    let lsn = this.header.firstLsn;
    let entries = 0;
    for (let offset = HEADER_BYTES; offset + BATCH_HEADER_BYTES <= this.fileBytes;) {
      if (readAtSync(this.fd, head, offset) !== BATCH_HEADER_BYTES) break;
      const header = decodeBatchHeader(head);
      if (typeof header === 'string') break;
      if (this.linkProblem(header, batches.length, chain, lsn) !== undefined) break;
      if (this.placeProblem(header, offset) !== undefined) break;
      const table = Buffer.allocUnsafeSlow(batchTableBytes(header.entries));
      if (readAtSync(this.fd, table, offset) !== table.length) break;
      if (batchTableCrc(table) !== header.crc) break;
      const known = durableLsn !== undefined && lsn + header.entries - 1 <= durableLsn;
      if (!this.batchHolds(header, table, known)) break;
      entries += header.entries;
      if (entries > SEGMENT_ENTRIES_MAX) break;
      batches.push({ offset, entries: header.entries, crc: header.crc, firstLsn: lsn });
      chain = header.crc;
      lsn += header.entries;
      offset += header.pages * PAGE_BYTES;
    }
    return batches;
  }

  private batchHolds(header: BatchHeader, table: Buffer, payloadsKnown: boolean): boolean {
    const { entries: count, dataSector, dataSectors } = header;
    const rows = new SegmentEntries(this.header, this.path, header.firstLsn, count);
    if (rows.append(table, BATCH_HEADER_BYTES, count, 0, count, dataSector, dataSectors)) {
      return false;
    }
    if (payloadsKnown) return true;
    const data = Buffer.allocUnsafeSlow(dataSectors * SECTOR_BYTES);
    if (readAtSync(this.fd, data, dataSector * SECTOR_BYTES) !== data.length) return false;
    for (let i = 0; i < count; i += 1) {
      if (!rows.hasPayload(i)) continue;
      const at = (rows.address[i]! - dataSector) * SECTOR_BYTES;
      const payload = data.subarray(at, at + rows.sectors[i]! * SECTOR_BYTES);
      if (crc32(payload) !== rows.crc[i]) return false;
    }
    return true;
  }

  private damaged(offset: number, what: string, header?: BatchHeader): MapsError {
    return corruption(READ, this.path, offset, what, {
      lsnRange: header && {
        first: header.firstLsn,
        last: header.firstLsn + header.entries - 1,
      },
    });
  }
}

function payloadColumns(rows: SegmentEntries): PayloadColumns {
  let count = 0;
  for (let i = 0; i < rows.count; i += 1) if (rows.hasPayload(i)) count += 1;
  const columns = {
    count,
    lsn: new Float64Array(count),
    address: new Uint32Array(count),
    sectors: new Uint32Array(count),
    crc: new Uint32Array(count),
  };
  for (let i = 0, out = 0; i < rows.count; i += 1) {
    if (!rows.hasPayload(i)) continue;
    columns.lsn[out] = rows.lsn(i);
    columns.address[out] = rows.address[i]!;
    columns.sectors[out] = rows.sectors[i]!;
    columns.crc[out] = rows.crc[i]!;
    out += 1;
  }
  return columns;
}
