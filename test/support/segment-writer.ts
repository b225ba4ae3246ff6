// SPDX-License-Identifier: Apache-2.0

/**
 * Writes log segments for tests, from content alone: the same content gives the same bytes as the
 * data plane's writer does. The layout's one home is native/format/segment-format.md.
 */

import { crc32, crc32WithoutField } from '../../src/common/crc.js';
import { PAGE_BYTES, SECTOR_BYTES } from '../../src/common/limits.js';
import { uuidToBytes } from '../../src/common/uuid.js';
import {
  BATCH_HEADER_BYTES,
  BATCH_MAGIC,
  batchTableBytes,
  DIRECTORY_ENTRY_BYTES,
  ENTRY_BYTES,
  HEADER_BYTES,
  SEGMENT_MAGIC,
  SEGMENT_VERSION,
  TRAILER_BYTES,
  TRAILER_MAGIC,
  type GapPayload,
  type GeometryPayload,
  type MarkerPayload,
  type SealReason,
  type SegmentHeader,
} from '../../src/maps/segment/format.js';
import { type SegmentFile } from '../../src/maps/segment/reader.js';

export interface EntryContent {
  readonly type: number;
  readonly flags?: number;
  readonly volume: number;
  readonly sectors: number;
  readonly sector: number;
  readonly timeNs: bigint;
  /** Of writes, markers and geometry changes: exactly `sectors` long. */
  readonly payload?: Buffer;
}

export interface SegmentContent {
  readonly header: SegmentHeader;
  readonly batches: readonly (readonly EntryContent[])[];
  /** Without it the segment stays active. */
  readonly seal?: { readonly sealedNs: bigint; readonly reason: SealReason };
}

export function encodeMarkerPayload({ keepUntilNs, label }: MarkerPayload): Buffer {
  const payload = Buffer.alloc(SECTOR_BYTES);
  payload.writeBigUInt64LE(keepUntilNs, 0);
  payload.writeUInt16LE(Buffer.byteLength(label), 8);
  payload.write(label, 16);
  return payload;
}

export function encodeGeometryPayload(geometry: GeometryPayload): Buffer {
  const payload = Buffer.alloc(SECTOR_BYTES);
  payload.writeUInt8(geometry.action, 0);
  payload.writeUInt32LE(geometry.blockBytes, 4);
  payload.writeBigUInt64LE(BigInt(geometry.sizeBytes), 8);
  payload.writeUInt16LE(Buffer.byteLength(geometry.name), 16);
  payload.write(geometry.name, 24);
  return payload;
}

export function encodeGapPayload(gap: GapPayload): Buffer {
  const payload = Buffer.alloc(SECTOR_BYTES);
  payload.writeBigUInt64LE(BigInt(gap.fromLsn), 0);
  payload.writeBigUInt64LE(gap.fromNs, 8);
  payload.writeBigUInt64LE(BigInt(gap.toLsn), 16);
  payload.writeBigUInt64LE(gap.toNs, 24);
  // Cut at the sector's end, wherever that falls.
  payload.writeUInt16LE(Buffer.from(gap.reason).copy(payload, 40), 32);
  return payload;
}

/** The whole file; an active one ends with its last batch (what was allocated ahead left out). */
export function encodeSegment(content: SegmentContent): Buffer {
  const header = encodeHeader(content.header);
  const parts: Buffer[] = [header];
  const directory: Buffer[] = [];
  let chain = header.readUInt32LE(16);
  let offset = HEADER_BYTES;
  let lsn = content.header.firstLsn;
  content.batches.forEach((entries, number) => {
    const batch = encodeBatch(content.header, entries, { number, offset, lsn, chain });
    chain = batch.readUInt32LE(4);
    const row = Buffer.alloc(DIRECTORY_ENTRY_BYTES);
    row.writeUInt32LE(offset / PAGE_BYTES, 0);
    row.writeUInt32LE(entries.length, 4);
    row.writeUInt32LE(chain, 8);
    row.writeUInt32LE(lsn - content.header.firstLsn, 12);
    directory.push(row);
    parts.push(batch);
    offset += batch.length;
    lsn += entries.length;
  });
  if (content.seal) {
    const rows = Buffer.concat(directory);
    parts.push(padTo(rows, PAGE_BYTES), encodeTrailer(content, rows, offset, chain));
  }
  return Buffer.concat(parts);
}

function encodeHeader(header: SegmentHeader): Buffer {
  const page = Buffer.alloc(HEADER_BYTES);
  SEGMENT_MAGIC.copy(page, 0);
  page.writeUInt32LE(SEGMENT_VERSION, 8);
  page.writeUInt32LE(HEADER_BYTES, 20);
  uuidToBytes(header.group).copy(page, 24);
  uuidToBytes(header.device).copy(page, 40);
  page.writeBigUInt64LE(BigInt(header.segment), 56);
  page.writeBigUInt64LE(BigInt(header.epoch), 64);
  page.writeBigUInt64LE(BigInt(header.firstLsn), 72);
  page.writeBigUInt64LE(header.createdNs, 80);
  page.writeBigUInt64LE(BigInt(header.capacityBytes), 88);
  page.writeUInt32LE(crc32WithoutField(page, 16), 16);
  return page;
}

function encodeBatch(
  header: SegmentHeader,
  entries: readonly EntryContent[],
  place: { number: number; offset: number; lsn: number; chain: number },
): Buffer {
  const table = Buffer.alloc(batchTableBytes(entries.length));
  const dataSector = (place.offset + padded(table.length, SECTOR_BYTES)) / SECTOR_BYTES;
  const payloads: Buffer[] = [];
  let address = dataSector;
  entries.forEach((entry, i) => {
    const at = BATCH_HEADER_BYTES + i * ENTRY_BYTES;
    table.writeUInt8(entry.type, at);
    table.writeUInt8(entry.flags ?? 0, at + 1);
    table.writeUInt16LE(entry.volume, at + 2);
    table.writeUInt32LE(entry.sectors, at + 4);
    table.writeBigUInt64LE(BigInt(entry.sector), at + 8);
    table.writeBigUInt64LE(entry.timeNs, at + 16);
    if (!entry.payload) return;
    if (entry.payload.length !== entry.sectors * SECTOR_BYTES) throw new Error('payload length');
    table.writeUInt32LE(crc32(entry.payload), at + 24);
    table.writeUInt32LE(address, at + 28);
    payloads.push(entry.payload);
    address += entry.sectors;
  });
  const data = Buffer.concat(payloads);
  const whole = padTo(Buffer.concat([padTo(table, SECTOR_BYTES), data]), PAGE_BYTES);
  whole.writeUInt32LE(BATCH_MAGIC, 0);
  whole.writeUInt32LE(place.chain, 8);
  whole.writeUInt32LE(entries.length, 12);
  uuidToBytes(header.group).copy(whole, 16);
  whole.writeBigUInt64LE(BigInt(header.segment), 32);
  whole.writeBigUInt64LE(BigInt(header.epoch), 40);
  whole.writeUInt32LE(place.number, 48);
  whole.writeUInt32LE(whole.length / PAGE_BYTES, 52);
  whole.writeBigUInt64LE(BigInt(place.lsn), 56);
  whole.writeUInt32LE(dataSector, 64);
  whole.writeUInt32LE(address - dataSector, 68);
  whole.writeUInt32LE(crc32WithoutField(whole.subarray(0, table.length), 4), 4);
  return whole;
}

function encodeTrailer(
  { header, batches, seal }: SegmentContent,
  directory: Buffer,
  directoryOffset: number,
  chain: number,
): Buffer {
  const entries = batches.flat();
  const page = Buffer.alloc(TRAILER_BYTES);
  TRAILER_MAGIC.copy(page, 0);
  page.writeUInt32LE(SEGMENT_VERSION, 8);
  page.writeUInt32LE(crc32(directory), 20);
  uuidToBytes(header.group).copy(page, 24);
  uuidToBytes(header.device).copy(page, 40);
  page.writeBigUInt64LE(BigInt(header.segment), 56);
  page.writeBigUInt64LE(BigInt(header.epoch), 64);
  page.writeBigUInt64LE(BigInt(header.firstLsn), 72);
  page.writeBigUInt64LE(BigInt(header.firstLsn + entries.length - 1), 80);
  page.writeBigUInt64LE(entries[0]?.timeNs ?? 0n, 88);
  page.writeBigUInt64LE(entries.at(-1)?.timeNs ?? 0n, 96);
  page.writeBigUInt64LE(BigInt(directoryOffset), 104);
  page.writeBigUInt64LE(BigInt(entries.length), 112);
  const dataBytes = entries.reduce((sum, entry) => sum + (entry.payload?.length ?? 0), 0);
  page.writeBigUInt64LE(BigInt(dataBytes), 120);
  page.writeUInt32LE(batches.length, 128);
  page.writeUInt32LE(chain, 132);
  page.writeBigUInt64LE(seal?.sealedNs ?? 0n, 136);
  page.writeUInt8(seal?.reason ?? 0, 144);
  page.writeUInt32LE(crc32WithoutField(page, 16), 16);
  return page;
}

/** The content of a segment file, through the product's reader, every payload verified. */
export function decodeSegment(file: SegmentFile): SegmentContent {
  const batches = file.batches.map(({ firstLsn, entries }) => {
    const rows = file.readEntries(firstLsn, firstLsn + entries - 1);
    return Array.from({ length: rows.count }, (_, i): EntryContent => {
      const content = {
        type: rows.type[i]!,
        flags: rows.flags[i]!,
        volume: rows.volume[i]!,
        sectors: rows.sectors[i]!,
        sector: rows.sector[i]!,
        timeNs: rows.timeNs[i]!,
      };
      if (!rows.hasPayload(i)) return content;
      return { ...content, payload: file.readPayloadVerified(rows, i) };
    });
  });
  const content = { header: file.header, batches };
  if (!file.trailer) return content;
  const { sealedNs, reason } = file.trailer;
  return { ...content, seal: { sealedNs, reason } };
}

function padded(length: number, to: number): number {
  return Math.ceil(length / to) * to;
}

function padTo(bytes: Buffer, to: number): Buffer {
  const whole = Buffer.alloc(padded(bytes.length, to));
  bytes.copy(whole);
  return whole;
}
