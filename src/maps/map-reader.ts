// SPDX-License-Identifier: Apache-2.0

/**
 * Reads map files. Nothing is believed: every section and block is summed, and what it says is
 * checked for order and bounds. Synchronous: for worker threads.
 */

import * as fs from 'node:fs';

import { crc32, crc32WithoutField } from '../common/crc.js';
import { toEverpointError } from '../common/errors.js';
import { readAtSync } from '../common/files.js';
import {
  ADDRESS_MAX,
  MAP_BLOCK_BYTES_MAX,
  MAP_SEGMENTS_MAX,
  REGION_SECTORS,
  REGIONS_PER_VOLUME_MAX,
  VOLUME_BYTES_MAX,
  VOLUME_NAME_BYTES_MAX,
  VOLUME_NUMBER_MAX,
} from '../common/limits.js';
import { uuidFromBytes } from '../common/uuid.js';
import { corruption, type MapsError } from './errors.js';
import {
  NO_KEY,
  regionKey,
  regionOfKey,
  SOURCE_UNKNOWN,
  SOURCE_ZERO,
  volumeOfKey,
  type RegionExtents,
  type RegionSource,
  type SegmentReference,
} from './extents.js';
import type { VolumeGeometry } from './geometry.js';
import {
  decodeMapHeader,
  ExtentForm,
  MAP_BLOCK_HEADER_BYTES,
  MAP_BLOCK_MAGIC,
  MAP_HEADER_BYTES,
  MAP_INDEX_ENTRY_BYTES,
  MAP_SEGMENT_BYTES,
  type MapHeader,
  type MapSection,
} from './map-format.js';
import { readUint53 } from './segment/format.js';

/** A segment of a map's table, with how much of it the map refers to. */
export interface MapSegment extends SegmentReference {
  readonly liveSectors: number;
}

interface VolumeBits {
  readonly words: number;
  readonly bits: Buffer;
}

const OPERATION = 'read map';

/** One open map file; a cursor over its regions. Not shared between threads. */
export class MapFile implements RegionSource {
  readonly header: MapHeader;
  readonly segments: readonly MapSegment[];
  readonly geometry: readonly VolumeGeometry[];
  private readonly bitmap: ReadonlyMap<number, VolumeBits>;
  private readonly index: Buffer;
  private readonly firstKeys: Float64Array;
  private readonly lastKeys: Float64Array;
  private readonly block = Buffer.allocUnsafeSlow(MAP_BLOCK_BYTES_MAX);
  private blockNumber = -1;
  private blockBytes = 0;
  private blockExtents = 0;
  private blockExtentsSeen = 0;
  private at = 0;
  private runKey = NO_KEY;
  private previousKey = -1;
  private previousSegment = -1;
  private previousAddress = 0;

  private constructor(
    readonly path: string,
    private readonly fd: number,
  ) {
    const fileBytes = fs.fstatSync(fd).size;
    const page = Buffer.allocUnsafeSlow(MAP_HEADER_BYTES);
    const got = readAtSync(fd, page, 0);
    this.header = decodeMapHeader(page.subarray(0, got), path, fileBytes);
    this.segments = this.readSegmentTable();
    this.geometry = this.readGeometry();
    this.bitmap = this.readBitmap();
    this.index = this.readSection('index', this.header.index);
    this.firstKeys = new Float64Array(this.header.blocks);
    this.lastKeys = new Float64Array(this.header.blocks);
    this.checkIndex();
    this.openBlock(0);
  }

  /** @throws NOT_FOUND, CORRUPTION, UNSUPPORTED, IO_ERROR */
  static open(path: string): MapFile {
    let fd: number;
    try {
      fd = fs.openSync(path, 'r');
    } catch (error) {
      throw toEverpointError(error, OPERATION, path);
    }
    try {
      return new MapFile(path, fd);
    } catch (error) {
      fs.closeSync(fd);
      throw toEverpointError(error, OPERATION, path);
    }
  }

  close(): void {
    fs.closeSync(this.fd);
  }

  /** Whether the map says anything about a region: one bit, no block is read. */
  touches(volume: number, region: number): boolean {
    const found = this.bitmap.get(volume);
    if (!found || region >= found.words * 32) return false;
    return (found.bits[region >>> 3]! & (1 << (region & 7))) !== 0;
  }

  nextKey(): number {
    return this.runKey;
  }

  seek(key: number): void {
    if (this.runKey >= key) return;
    let low = Math.max(this.blockNumber, 0);
    let high = this.header.blocks;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.lastKeys[middle]! < key) low = middle + 1;
      else high = middle;
    }
    if (low !== this.blockNumber) this.openBlock(low);
    while (this.runKey < key) this.readRun(undefined);
  }

  load(into: RegionExtents): void {
    const key = this.runKey;
    into.clear(key);
    // A region of many extents goes on in the blocks that follow.
    while (this.runKey === key && key !== NO_KEY) this.readRun(into);
    if (into.count > 0) this.checkTouched(key);
  }

  private checkTouched(key: number): void {
    if (this.touches(volumeOfKey(key), regionOfKey(key))) return;
    throw this.damaged(this.header.bitmap.offset, 'the bitmap does not know a region of the map');
  }

  private openBlock(number: number): void {
    this.blockNumber = number;
    if (number >= this.header.blocks) {
      this.runKey = NO_KEY;
      return;
    }
    const at = number * MAP_INDEX_ENTRY_BYTES;
    const offset = readUint53(this.index, at + 16)!;
    const length = this.index.readUInt32LE(at + 24);
    const block = this.block.subarray(0, length);
    if (readAtSync(this.fd, block, offset) !== length) {
      throw this.damaged(offset, 'the file ends within a block');
    }
    if (
      block.readUInt32LE(0) !== MAP_BLOCK_MAGIC ||
      block.readUInt32LE(4) !== this.index.readUInt32LE(at + 28) ||
      block.readUInt32LE(8) !== length ||
      crc32WithoutField(block, 4) !== block.readUInt32LE(4)
    ) {
      throw this.damaged(offset, 'block checksum mismatch');
    }
    this.blockBytes = length;
    this.blockExtents = block.readUInt32LE(12);
    this.blockExtentsSeen = 0;
    this.at = MAP_BLOCK_HEADER_BYTES;
    this.previousSegment = -1;
    this.previousAddress = 0;
    this.previousKey = -1;
    this.readRunHead();
    if (this.runKey !== this.firstKeys[number]) {
      throw this.damaged(offset, 'the block does not start with the region of the index');
    }
  }

  /** Sets `runKey` to the run that starts at `at`, going on to the next block at a block's end. */
  private readRunHead(): void {
    if (this.at >= this.blockBytes) {
      if (this.blockExtentsSeen !== this.blockExtents) {
        throw this.damagedHere('the block does not hold the extents that it counts');
      }
      if (this.previousKey !== this.lastKeys[this.blockNumber]) {
        throw this.damagedHere('the block does not end with the region of the index');
      }
      this.openBlock(this.blockNumber + 1);
      return;
    }
    const volume = this.varint();
    const region = this.varint();
    const key = regionKey(volume, region);
    if (volume > VOLUME_NUMBER_MAX || region >= REGIONS_PER_VOLUME_MAX || key <= this.previousKey) {
      throw this.damagedHere('regions are not in order');
    }
    this.runKey = key;
    this.previousKey = key;
  }

  /** Decodes one run, into `into` when there is one, and goes to the next. */
  private readRun(into: RegionExtents | undefined): void {
    // The run may continue a region that an earlier block began.
    const atLeast = into && into.count > 0 ? into.end[into.count - 1]! : 0;
    let end = 0;
    for (;;) {
      const gap = this.varint();
      const tag = this.varint();
      const sectors = tag >>> 2;
      if (sectors === 0) {
        if (gap !== 0 || tag !== 0) throw this.damagedHere('an extent without a length');
        break;
      }
      const start = end + gap;
      end = start + sectors;
      if (start < atLeast || end > REGION_SECTORS) {
        throw this.damagedHere('an extent out of order or beyond its region');
      }
      this.blockExtentsSeen += 1;
      let source = SOURCE_ZERO;
      let address = 0;
      const form = tag & 3;
      if (form === ExtentForm.unknown) {
        source = SOURCE_UNKNOWN;
      } else if (form !== ExtentForm.zero) {
        address = this.readAddress(form, sectors);
        source = this.previousSegment;
      }
      if (!into) continue;
      into.reserve(1);
      into.push(start, end, source, address);
    }
    this.readRunHead();
  }

  private readAddress(form: number, sectors: number): number {
    let address: number;
    if (form === ExtentForm.otherSegment) {
      this.previousSegment = this.varint();
      address = this.varint();
      if (this.previousSegment >= this.segments.length) {
        throw this.damagedHere('an extent in a segment that the table does not have');
      }
    } else {
      if (this.previousSegment < 0) throw this.damagedHere('the first extent names no segment');
      const zigzag = this.varint();
      address = this.previousAddress + ((zigzag >>> 1) ^ -(zigzag & 1));
    }
    if (address < 1 || address + sectors > ADDRESS_MAX) {
      throw this.damagedHere('an address beyond the end of any segment');
    }
    this.previousAddress = address + sectors;
    return address;
  }

  private varint(): number {
    let value = 0;
    let shift = 0;
    for (;;) {
      if (this.at >= this.blockBytes) throw this.damagedHere('the block ends within an extent');
      const byte = this.block[this.at]!;
      this.at += 1;
      if (shift === 28 && byte > 0x0f) throw this.damagedHere('a number that is too large');
      value = (value | ((byte & 0x7f) << shift)) >>> 0;
      if (byte < 0x80) return value;
      shift += 7;
    }
  }

  private readSection(name: string, section: MapSection): Buffer {
    const content = Buffer.allocUnsafeSlow(section.length);
    if (
      readAtSync(this.fd, content, section.offset) !== section.length ||
      crc32(content) !== section.crc
    ) {
      throw this.damaged(section.offset, `checksum mismatch in the ${name}`);
    }
    return content;
  }

  private readSegmentTable(): MapSegment[] {
    const place = this.header.segmentTable;
    const table = this.readSection('segment table', place);
    const count = table.length / MAP_SEGMENT_BYTES;
    if (!Number.isInteger(count) || count > MAP_SEGMENTS_MAX) {
      throw this.damaged(place.offset, 'wrong length of the segment table');
    }
    return Array.from({ length: count }, (_, i) => {
      const at = i * MAP_SEGMENT_BYTES;
      const segment = readUint53(table, at + 16);
      const liveSectors = readUint53(table, at + 24);
      if (segment === undefined || liveSectors === undefined) {
        throw this.damaged(place.offset + at, 'a number in the segment table is out of range');
      }
      return { device: uuidFromBytes(table, at), segment, liveSectors };
    });
  }

  private readGeometry(): VolumeGeometry[] {
    const place = this.header.geometry;
    const content = this.readSection('geometry', place);
    const volumes: VolumeGeometry[] = [];
    for (let at = 0; at < content.length;) {
      const left = content.length - at;
      const nameBytes = left >= 16 ? content.readUInt16LE(at + 2) : 0;
      const sizeBytes = left >= 16 ? readUint53(content, at + 8) : undefined;
      if (
        nameBytes < 1 ||
        nameBytes > VOLUME_NAME_BYTES_MAX ||
        left < 16 + nameBytes ||
        sizeBytes === undefined ||
        sizeBytes > VOLUME_BYTES_MAX
      ) {
        throw this.damaged(place.offset + at, 'a volume in the geometry does not make sense');
      }
      volumes.push({
        volume: content.readUInt16LE(at),
        name: content.toString('utf8', at + 16, at + 16 + nameBytes),
        sizeBytes,
        blockBytes: content.readUInt32LE(at + 4),
      });
      at += 16 + nameBytes;
    }
    return volumes;
  }

  private readBitmap(): Map<number, VolumeBits> {
    const place = this.header.bitmap;
    const content = this.readSection('bitmap', place);
    const volumes = new Map<number, VolumeBits>();
    for (let at = 0; at < content.length;) {
      const words = content.length - at >= 8 ? content.readUInt32LE(at + 4) : 0;
      const to = at + 8 + words * 4;
      if (words === 0 || to > content.length) {
        throw this.damaged(place.offset + at, 'wrong length of a bitmap');
      }
      volumes.set(content.readUInt32LE(at), { words, bits: content.subarray(at + 8, to) });
      at = to;
    }
    return volumes;
  }

  private checkIndex(): void {
    const { blocks, index } = this.header;
    if (this.index.length !== blocks * MAP_INDEX_ENTRY_BYTES) {
      throw this.damaged(index.offset, 'wrong length of the block index');
    }
    let expected = MAP_HEADER_BYTES;
    let last = -1;
    for (let i = 0; i < blocks; i += 1) {
      const at = i * MAP_INDEX_ENTRY_BYTES;
      const firstKey = readUint53(this.index, at);
      const lastKey = readUint53(this.index, at + 8);
      const offset = readUint53(this.index, at + 16);
      const length = this.index.readUInt32LE(at + 24);
      if (
        firstKey === undefined ||
        lastKey === undefined ||
        firstKey < last ||
        lastKey < firstKey ||
        offset !== expected ||
        length <= MAP_BLOCK_HEADER_BYTES ||
        length > MAP_BLOCK_BYTES_MAX
      ) {
        throw this.damaged(index.offset + at, 'the block index does not make sense');
      }
      this.firstKeys[i] = firstKey;
      this.lastKeys[i] = lastKey;
      last = lastKey;
      expected = offset + length;
    }
    if (expected !== this.header.segmentTable.offset) {
      throw this.damaged(index.offset, 'the block index does not cover the blocks');
    }
  }

  private damagedHere(what: string): MapsError {
    const at = this.blockNumber * MAP_INDEX_ENTRY_BYTES;
    return this.damaged((readUint53(this.index, at + 16) ?? 0) + this.at, what);
  }

  private damaged(offset: number, what: string): MapsError {
    const { firstLsn: first, lastLsn: last } = this.header;
    return corruption(OPERATION, this.path, offset, what, { lsnRange: { first, last } });
  }
}
