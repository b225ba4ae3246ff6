// SPDX-License-Identifier: Apache-2.0

/**
 * Constants and codecs of the log segment. The layout's one home is
 * `native/format/segment-format.md`; both sides are proven by the same golden files.
 */

import { crc32, crc32WithoutField } from '../../common/crc.js';
import {
  BATCH_BYTES_MAX,
  BATCH_ENTRIES_MAX,
  MARKER_LABEL_BYTES_MAX,
  PAGE_BYTES,
  SECTOR_BYTES,
  VOLUME_BYTES_MAX,
  VOLUME_NAME_BYTES_MAX,
} from '../../common/limits.js';
import { uuidFromBytes } from '../../common/uuid.js';
import { corruption, unsupported } from '../errors.js';

export const SEGMENT_MAGIC = Buffer.from('EPSEGMNT', 'latin1');
export const TRAILER_MAGIC = Buffer.from('EPSEGEND', 'latin1');
/** `EPBT` as a little-endian number. */
export const BATCH_MAGIC = 0x54425045;
export const SEGMENT_VERSION = 1;
export const HEADER_BYTES = PAGE_BYTES;
export const TRAILER_BYTES = PAGE_BYTES;
export const BATCH_HEADER_BYTES = 128;
export const ENTRY_BYTES = 32;
export const DIRECTORY_ENTRY_BYTES = 16;

/** Stored in files: frozen. */
export const EntryType = {
  write: 1,
  discard: 2,
  writeZeroes: 3,
  flush: 4,
  marker: 5,
  geometry: 6,
  error: 7,
  unknown: 8,
  gap: 9,
} as const;
export type EntryType = (typeof EntryType)[keyof typeof EntryType];

/** Stored in files: frozen. */
export const ENTRY_FLAG_RESYNC = 1;
export const ENTRY_FLAG_SECONDARY = 2;

/** Stored in files: frozen. */
export const SealReason = {
  size: 1,
  time: 2,
  entries: 3,
  request: 4,
  recovery: 5,
  close: 6,
  gap: 7,
} as const;
export type SealReason = (typeof SealReason)[keyof typeof SealReason];

/** Stored in files: frozen. */
export const GeometryAction = { add: 1, grow: 2, remove: 3 } as const;
export type GeometryAction = (typeof GeometryAction)[keyof typeof GeometryAction];

export const KEEP_FOREVER = 0xffff_ffff_ffff_ffffn;

export interface SegmentHeader {
  readonly group: string;
  readonly device: string;
  readonly segment: number;
  readonly epoch: number;
  readonly firstLsn: number;
  readonly createdNs: bigint;
  readonly capacityBytes: number;
}

export interface SegmentTrailer {
  readonly group: string;
  readonly device: string;
  readonly segment: number;
  readonly epoch: number;
  readonly firstLsn: number;
  readonly lastLsn: number;
  readonly firstTimeNs: bigint;
  readonly lastTimeNs: bigint;
  readonly directoryOffset: number;
  readonly directoryCrc: number;
  readonly entries: number;
  readonly dataBytes: number;
  readonly batches: number;
  readonly lastChain: number;
  readonly sealedNs: bigint;
  readonly reason: SealReason;
}

export interface BatchHeader {
  readonly crc: number;
  readonly chain: number;
  readonly entries: number;
  readonly group: string;
  readonly segment: number;
  readonly epoch: number;
  readonly batch: number;
  readonly pages: number;
  readonly firstLsn: number;
  readonly dataSector: number;
  readonly dataSectors: number;
}

export interface MarkerPayload {
  /** Wall time until which the snapshot is kept; 0: as policy has it; KEEP_FOREVER: for ever. */
  readonly keepUntilNs: bigint;
  readonly label: string;
}

/** History is good up to fromLsn and again after toLsn. */
export interface GapPayload {
  readonly fromLsn: number;
  readonly fromNs: bigint;
  /** 0 in the first entry of an epoch that begins in the gap; else the entry's own LSN. */
  readonly toLsn: number;
  readonly toNs: bigint;
  readonly reason: string;
}

export interface GeometryPayload {
  readonly action: GeometryAction;
  readonly blockBytes: number;
  readonly sizeBytes: number;
  readonly name: string;
}

/** A u64 that must fit a JavaScript number; nothing when it does not. */
export function readUint53(from: Buffer, at: number): number | undefined {
  const high = from.readUInt32LE(at + 4);
  return high < 0x20_0000 ? high * 0x1_0000_0000 + from.readUInt32LE(at) : undefined;
}

/** @throws CORRUPTION, UNSUPPORTED */
export function decodeSegmentHeader(
  page: Buffer,
  file: string,
): { header: SegmentHeader; crc: number } {
  const operation = 'read segment header';
  const bad = (what: string) => corruption(operation, file, 0, what);
  if (page.length < HEADER_BYTES) throw bad('it is shorter than a segment header');
  if (!page.subarray(0, 8).equals(SEGMENT_MAGIC)) throw bad('no log segment (wrong magic)');
  const crc = page.readUInt32LE(16);
  const crcHolds = crc32WithoutField(page.subarray(0, HEADER_BYTES), 16) === crc;
  checkVersion(page, crcHolds, operation, file, 0);
  if (page.readUInt32LE(20) !== HEADER_BYTES) throw bad('wrong header length');
  const header = {
    group: uuidFromBytes(page, 24),
    device: uuidFromBytes(page, 40),
    segment: readUint53(page, 56),
    epoch: readUint53(page, 64),
    firstLsn: readUint53(page, 72),
    createdNs: page.readBigUInt64LE(80),
    capacityBytes: readUint53(page, 88),
  };
  if (!allKnown(header)) throw bad('a number in the header is out of range');
  if (header.segment === 0) throw bad('segment number 0');
  return { header, crc };
}

/** Nothing when no good trailer stands there: the segment counts as active then. */
export function decodeSegmentTrailer(
  page: Buffer,
  file: string,
  offset: number,
): SegmentTrailer | undefined {
  if (page.length !== TRAILER_BYTES || !page.subarray(0, 8).equals(TRAILER_MAGIC)) return undefined;
  if (crc32WithoutField(page, 16) !== page.readUInt32LE(16)) return undefined;
  const operation = 'read segment trailer';
  checkVersion(page, true, operation, file, offset);
  const trailer = {
    directoryCrc: page.readUInt32LE(20),
    group: uuidFromBytes(page, 24),
    device: uuidFromBytes(page, 40),
    segment: readUint53(page, 56),
    epoch: readUint53(page, 64),
    firstLsn: readUint53(page, 72),
    lastLsn: readUint53(page, 80),
    firstTimeNs: page.readBigUInt64LE(88),
    lastTimeNs: page.readBigUInt64LE(96),
    directoryOffset: readUint53(page, 104),
    entries: readUint53(page, 112),
    dataBytes: readUint53(page, 120),
    batches: page.readUInt32LE(128),
    lastChain: page.readUInt32LE(132),
    sealedNs: page.readBigUInt64LE(136),
    reason: page[144] as SealReason,
  };
  if (!allKnown(trailer)) {
    throw corruption(operation, file, offset, 'a number in the trailer is out of range');
  }
  return trailer;
}

function checkVersion(
  page: Buffer,
  crcHolds: boolean,
  operation: string,
  file: string,
  offset: number,
): void {
  if (!crcHolds) throw corruption(operation, file, offset, 'checksum mismatch');
  const version = page.readUInt32LE(8);
  if (version !== SEGMENT_VERSION) throw unsupported(operation, file, `segment version ${version}`);
  const flags = page.readUInt32LE(12);
  if (flags !== 0) throw unsupported(operation, file, `segment flags 0x${flags.toString(16)}`);
}

type Known<T> = { [K in keyof T]: Exclude<T[K], undefined> };

function allKnown<T extends object>(fields: T): fields is T & Known<T> {
  return Object.values(fields).every((value) => value !== undefined);
}

/**
 * A batch header's fields, its sizes and bounds checked and its checksum not (the table has to be
 * there for that).
 * @returns the header, or in words what is wrong with it
 */
export function decodeBatchHeader(from: Buffer): BatchHeader | string {
  if (from.length < BATCH_HEADER_BYTES) return 'it ends within a batch header';
  if (from.readUInt32LE(0) !== BATCH_MAGIC) return 'no batch (wrong magic)';
  const entries = from.readUInt32LE(12);
  if (entries < 1 || entries > BATCH_ENTRIES_MAX) return `a batch of ${entries} entries`;
  const pages = from.readUInt32LE(52);
  const dataSectors = from.readUInt32LE(68);
  const tableSectors = Math.ceil((BATCH_HEADER_BYTES + entries * ENTRY_BYTES) / SECTOR_BYTES);
  const pagesNeeded = Math.ceil(((tableSectors + dataSectors) * SECTOR_BYTES) / PAGE_BYTES);
  if (pages !== pagesNeeded || pages * PAGE_BYTES > BATCH_BYTES_MAX) return 'wrong batch length';
  const segment = readUint53(from, 32);
  const epoch = readUint53(from, 40);
  const firstLsn = readUint53(from, 56);
  if (segment === undefined || epoch === undefined || firstLsn === undefined) {
    return 'a number in a batch header is out of range';
  }
  return {
    crc: from.readUInt32LE(4),
    chain: from.readUInt32LE(8),
    entries,
    group: uuidFromBytes(from, 16),
    segment,
    epoch,
    batch: from.readUInt32LE(48),
    pages,
    firstLsn,
    dataSector: from.readUInt32LE(64),
    dataSectors,
  };
}

export function batchTableBytes(entries: number): number {
  return BATCH_HEADER_BYTES + entries * ENTRY_BYTES;
}

/** The checksum of header and table, the header's own field counted as zero. */
export function batchTableCrc(headerAndTable: Buffer): number {
  return crc32WithoutField(headerAndTable, 4);
}

/** @returns the payload, or in words what is wrong with it */
export function decodeMarker(payload: Buffer): MarkerPayload | string {
  const labelBytes = payload.readUInt16LE(8);
  if (labelBytes < 1 || labelBytes > MARKER_LABEL_BYTES_MAX) return 'a marker without a label';
  return {
    keepUntilNs: payload.readBigUInt64LE(0),
    label: payload.toString('utf8', 16, 16 + labelBytes),
  };
}

/** @returns the payload, or in words what is wrong with it */
export function decodeGeometry(payload: Buffer): GeometryPayload | string {
  const action = payload.readUInt8(0);
  if (action < GeometryAction.add || action > GeometryAction.remove) return 'unknown action';
  const sizeBytes = readUint53(payload, 8);
  if (sizeBytes === undefined || sizeBytes > VOLUME_BYTES_MAX) return 'volume size out of range';
  const nameBytes = payload.readUInt16LE(16);
  if (nameBytes < 1 || nameBytes > VOLUME_NAME_BYTES_MAX) return 'a volume without a name';
  return {
    action: action as GeometryAction,
    blockBytes: payload.readUInt32LE(4),
    sizeBytes,
    name: payload.toString('utf8', 24, 24 + nameBytes),
  };
}

const GAP_REASON_AT = 40;

/** @returns the payload, or in words what is wrong with it */
export function decodeGap(payload: Buffer): GapPayload | string {
  const fromLsn = readUint53(payload, 0);
  const toLsn = readUint53(payload, 16);
  if (fromLsn === undefined || toLsn === undefined) return 'an LSN of a gap is out of range';
  if (toLsn !== 0 && toLsn <= fromLsn) return 'a gap that ends before it begins';
  const reasonBytes = payload.readUInt16LE(32);
  if (reasonBytes > SECTOR_BYTES - GAP_REASON_AT) return 'the reason of a gap is too long';
  // A reason that was cut may end inside a character.
  const reason = payload.toString('utf8', GAP_REASON_AT, GAP_REASON_AT + reasonBytes);
  return {
    fromLsn,
    fromNs: payload.readBigUInt64LE(8),
    toLsn,
    toNs: payload.readBigUInt64LE(24),
    reason: reason.replace(/\ufffd$/, ''),
  };
}

export function payloadCrc(payload: Uint8Array): number {
  return crc32(payload);
}
