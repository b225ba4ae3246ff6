// SPDX-License-Identifier: Apache-2.0

/**
 * Writes a map file in one pass over its regions, under a temporary name; `finish` makes it whole,
 * durable and visible. Synchronous: for worker threads.
 */

import * as fs from 'node:fs';
import * as path from 'node:path';

import { crc32, crc32WithoutField } from '../common/crc.js';
import { toEverpointError } from '../common/errors.js';
import { publishFileSync, temporaryPath, writeAtSync } from '../common/files.js';
import { ADDRESS_MAX, MAP_BLOCK_BYTES_MAX, MAP_BLOCK_BYTES_TARGET } from '../common/limits.js';
import { uuidToBytes } from '../common/uuid.js';
import { MapsError } from './errors.js';
import {
  NO_KEY,
  regionOfKey,
  SOURCE_UNKNOWN,
  SOURCE_ZERO,
  volumeOfKey,
  RegionExtents,
  type RegionSource,
  type SegmentReference,
} from './extents.js';
import type { VolumeGeometry } from './geometry.js';
import {
  encodeMapHeader,
  ExtentForm,
  MAP_BLOCK_HEADER_BYTES,
  MAP_BLOCK_MAGIC,
  MAP_HEADER_BYTES,
  MAP_INDEX_ENTRY_BYTES,
  MAP_SEGMENT_BYTES,
  writeUint53,
  type MapHeader,
  type MapIdentity,
  type MapSection,
} from './map-format.js';
import { SegmentTable } from './merge.js';

/** An extent, the head of its run, and the end of the run never need more. */
const ROOM_BYTES = 64;
const WRITE_BYTES = 1024 * 1024;

interface BlockPlace {
  readonly firstKey: number;
  readonly lastKey: number;
  readonly offset: number;
  readonly length: number;
  readonly crc: number;
}

export class MapWriter {
  private readonly temporary: string;
  private fd: number;
  private readonly table = new SegmentTable();
  private readonly liveSectors: number[] = [];
  private translated: readonly SegmentReference[] = [];
  private translation: number[] = [];
  private readonly index: BlockPlace[] = [];
  private readonly keys: number[] = [];
  private extents = 0;
  private dataSectors = 0;
  private zeroSectors = 0;
  private unknownSectors = 0;
  /** Finished blocks that wait to be written, in front of the block that is being filled. */
  private readonly pending = Buffer.allocUnsafeSlow(WRITE_BYTES + MAP_BLOCK_BYTES_MAX);
  private pendingBytes = 0;
  private fileBytes = MAP_HEADER_BYTES;
  private readonly block = Buffer.allocUnsafeSlow(MAP_BLOCK_BYTES_MAX);
  private at = MAP_BLOCK_HEADER_BYTES;
  private blockExtents = 0;
  private blockFirstKey = NO_KEY;
  private lastKey = -1;
  private previousSegment = -1;
  private previousAddress = 0;

  constructor(
    private readonly target: string,
    private readonly identity: MapIdentity,
  ) {
    this.temporary = temporaryPath(target);
    try {
      fs.mkdirSync(path.dirname(target), { recursive: true });
      this.fd = fs.openSync(this.temporary, 'wx', 0o644);
    } catch (error) {
      throw toEverpointError(error, 'write map', target);
    }
  }

  /** Regions come in ascending order; one without extents leaves no trace. */
  addRegion(extents: RegionExtents, segments: readonly SegmentReference[]): void {
    if (extents.count === 0) return;
    if (extents.key <= this.lastKey) {
      throw new Error('regions have to be added in ascending order'); // our own bug
    }
    this.lastKey = extents.key;
    this.keys.push(extents.key);
    this.beginRun(extents.key);
    let end = 0;
    for (let i = 0; i < extents.count; i += 1) {
      if (this.at + ROOM_BYTES > MAP_BLOCK_BYTES_TARGET) {
        this.endRun();
        this.closeBlock(extents.key);
        this.beginRun(extents.key);
        end = 0;
      }
      const start = extents.start[i]!;
      this.putVarint(start - end);
      end = extents.end[i]!;
      this.putExtent(end - start, extents.source[i]!, extents.address[i]!, segments);
    }
    this.endRun();
  }

  /** Makes the file whole, durable and visible under its name. @throws ALREADY_EXISTS */
  finish(geometry: readonly VolumeGeometry[]): MapHeader {
    try {
      this.closeBlock(this.lastKey);
      this.flush();
      const header: MapHeader = {
        ...this.identity,
        extents: this.extents,
        dataSectors: this.dataSectors,
        zeroSectors: this.zeroSectors,
        unknownSectors: this.unknownSectors,
        regions: this.keys.length,
        blocks: this.index.length,
        segmentTable: this.putSection(this.encodeSegmentTable()),
        index: this.putSection(this.encodeIndex()),
        bitmap: this.putSection(encodeBitmap(this.keys)),
        geometry: this.putSection(encodeVolumes(geometry)),
        // Evaluated last, when every section has been put.
        fileBytes: this.fileBytes,
      };
      writeAtSync(this.fd, encodeMapHeader(header), 0);
      fs.fsyncSync(this.fd);
      fs.closeSync(this.fd);
      this.fd = -1;
      publishFileSync(this.temporary, this.target, false);
      return header;
    } catch (error) {
      this.abandon();
      throw toEverpointError(error, 'write map', this.target);
    }
  }

  /** Removes what was written; harmless after `finish`. */
  abandon(): void {
    if (this.fd >= 0) fs.closeSync(this.fd);
    this.fd = -1;
    fs.rmSync(this.temporary, { force: true });
  }

  private putExtent(
    sectors: number,
    source: number,
    address: number,
    segments: readonly SegmentReference[],
  ): void {
    this.extents += 1;
    this.blockExtents += 1;
    if (source === SOURCE_ZERO) {
      this.zeroSectors += sectors;
      this.putVarint(sectors * 4 + ExtentForm.zero);
      return;
    }
    if (source === SOURCE_UNKNOWN) {
      this.unknownSectors += sectors;
      this.putVarint(sectors * 4 + ExtentForm.unknown);
      return;
    }
    if (address + sectors > ADDRESS_MAX) {
      throw new MapsError('INVALID_ARGUMENT', `segment address ${address} is too large for a map`, {
        operation: 'write map',
        file: this.target,
      });
    }
    const segment = this.ownIndex(source, segments);
    this.dataSectors += sectors;
    this.liveSectors[segment] = (this.liveSectors[segment] ?? 0) + sectors;
    if (segment === this.previousSegment) {
      this.putVarint(sectors * 4 + ExtentForm.sameSegment);
      const delta = address - this.previousAddress;
      this.putVarint(((delta << 1) ^ (delta >> 31)) >>> 0);
    } else {
      this.putVarint(sectors * 4 + ExtentForm.otherSegment);
      this.putVarint(segment);
      this.putVarint(address);
      this.previousSegment = segment;
    }
    this.previousAddress = address + sectors;
  }

  /** Names are looked up once per segment, not once per extent. */
  private ownIndex(source: number, segments: readonly SegmentReference[]): number {
    if (segments !== this.translated) {
      this.translated = segments;
      this.translation = [];
    }
    return (this.translation[source] ??= this.table.indexOf(segments[source]!));
  }

  private putVarint(value: number): void {
    let rest = value;
    while (rest >= 0x80) {
      this.block[this.at] = (rest & 0x7f) | 0x80;
      this.at += 1;
      rest >>>= 7;
    }
    this.block[this.at] = rest;
    this.at += 1;
  }

  private beginRun(key: number): void {
    if (this.at + ROOM_BYTES > MAP_BLOCK_BYTES_TARGET) this.closeBlock(this.keys.at(-2) ?? key);
    if (this.blockFirstKey === NO_KEY) this.blockFirstKey = key;
    this.putVarint(volumeOfKey(key));
    this.putVarint(regionOfKey(key));
  }

  /** An extent without a length ends the run. */
  private endRun(): void {
    this.putVarint(0);
    this.putVarint(0);
  }

  private closeBlock(lastKey: number): void {
    if (this.blockFirstKey === NO_KEY) return;
    const block = this.block.subarray(0, this.at);
    block.writeUInt32LE(MAP_BLOCK_MAGIC, 0);
    block.writeUInt32LE(this.at, 8);
    block.writeUInt32LE(this.blockExtents, 12);
    const crc = crc32WithoutField(block, 4);
    block.writeUInt32LE(crc, 4);
    this.index.push({
      firstKey: this.blockFirstKey,
      lastKey,
      offset: this.fileBytes,
      length: this.at,
      crc,
    });
    block.copy(this.pending, this.pendingBytes);
    this.pendingBytes += this.at;
    this.fileBytes += this.at;
    if (this.pendingBytes >= WRITE_BYTES) this.flush();
    this.at = MAP_BLOCK_HEADER_BYTES;
    this.blockExtents = 0;
    this.blockFirstKey = NO_KEY;
    this.previousSegment = -1;
    this.previousAddress = 0;
  }

  private flush(): void {
    const bytes = this.pending.subarray(0, this.pendingBytes);
    writeAtSync(this.fd, bytes, this.fileBytes - this.pendingBytes);
    this.pendingBytes = 0;
  }

  private putSection(content: Buffer): MapSection {
    const section = { offset: this.fileBytes, length: content.length, crc: crc32(content) };
    writeAtSync(this.fd, content, section.offset);
    this.fileBytes += content.length;
    return section;
  }

  private encodeSegmentTable(): Buffer {
    const { segments } = this.table;
    const table = Buffer.alloc(segments.length * MAP_SEGMENT_BYTES);
    segments.forEach(({ device, segment }, i) => {
      uuidToBytes(device).copy(table, i * MAP_SEGMENT_BYTES);
      writeUint53(table, segment, i * MAP_SEGMENT_BYTES + 16);
      writeUint53(table, this.liveSectors[i] ?? 0, i * MAP_SEGMENT_BYTES + 24);
    });
    return table;
  }

  private encodeIndex(): Buffer {
    const bytes = Buffer.alloc(this.index.length * MAP_INDEX_ENTRY_BYTES);
    this.index.forEach((block, i) => {
      const at = i * MAP_INDEX_ENTRY_BYTES;
      writeUint53(bytes, block.firstKey, at);
      writeUint53(bytes, block.lastKey, at + 8);
      writeUint53(bytes, block.offset, at + 16);
      bytes.writeUInt32LE(block.length, at + 24);
      bytes.writeUInt32LE(block.crc, at + 28);
    });
    return bytes;
  }
}

/** Per touched volume: its number, the number of 32-bit words, and one bit per region. */
function encodeBitmap(keys: readonly number[]): Buffer {
  const parts: Buffer[] = [];
  for (let from = 0; from < keys.length;) {
    const volume = volumeOfKey(keys[from]!);
    let to = from;
    while (to < keys.length && volumeOfKey(keys[to]!) === volume) to += 1;
    const words = Math.floor(regionOfKey(keys[to - 1]!) / 32) + 1;
    const part = Buffer.alloc(8 + words * 4);
    part.writeUInt32LE(volume, 0);
    part.writeUInt32LE(words, 4);
    for (; from < to; from += 1) {
      const region = regionOfKey(keys[from]!);
      part[8 + (region >>> 3)]! |= 1 << (region & 7);
    }
    parts.push(part);
  }
  return Buffer.concat(parts);
}

function encodeVolumes(volumes: readonly VolumeGeometry[]): Buffer {
  return Buffer.concat(
    volumes.map((volume) => {
      const name = Buffer.from(volume.name);
      const part = Buffer.alloc(16 + name.length);
      part.writeUInt16LE(volume.volume, 0);
      part.writeUInt16LE(name.length, 2);
      part.writeUInt32LE(volume.blockBytes, 4);
      writeUint53(part, volume.sizeBytes, 8);
      name.copy(part, 16);
      return part;
    }),
  );
}

/** Writes every region of `source` as a map file. */
export function writeMap(
  target: string,
  identity: MapIdentity,
  source: RegionSource,
  geometry: readonly VolumeGeometry[],
): MapHeader {
  const writer = new MapWriter(target, identity);
  try {
    const extents = new RegionExtents();
    while (source.nextKey() !== NO_KEY) {
      source.load(extents);
      writer.addRegion(extents, source.segments);
    }
    return writer.finish(geometry);
  } catch (error) {
    writer.abandon();
    throw error;
  }
}
