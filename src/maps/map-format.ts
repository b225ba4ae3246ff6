// SPDX-License-Identifier: Apache-2.0

/** Constants and header codec of map files; the layout's one home is `map-format.md`. */

import { crc32WithoutField } from '../common/crc.js';
import { MAP_SECTION_BYTES_MAX, PAGE_BYTES } from '../common/limits.js';
import { uuidFromBytes, uuidToBytes } from '../common/uuid.js';
import { corruption, unsupported } from './errors.js';
import { readUint53 } from './segment/format.js';

export const MAP_MAGIC = Buffer.from('EPDELMAP', 'latin1');
export const MAP_VERSION = 1;
export const MAP_HEADER_BYTES = PAGE_BYTES;
/** `EPMB` as a little-endian number. */
export const MAP_BLOCK_MAGIC = 0x424d5045;
export const MAP_BLOCK_HEADER_BYTES = 16;
export const MAP_INDEX_ENTRY_BYTES = 32;
export const MAP_SEGMENT_BYTES = 32;

/** The low two bits of an extent's tag. Stored in files: frozen. */
export const ExtentForm = { sameSegment: 0, otherSegment: 1, zero: 2, unknown: 3 } as const;

/** Names what is in a map and where it belongs. */
export interface MapIdentity {
  readonly group: string;
  /** The device that the map lies on. */
  readonly device: string;
  readonly id: number;
  readonly level: number;
  readonly expiryClass: number;
  readonly firstLsn: number;
  readonly lastLsn: number;
  readonly firstTimeNs: bigint;
  readonly lastTimeNs: bigint;
  /** Ids of maps; 0 is none [0039]. */
  readonly previous: number;
  readonly firstChild: number;
  readonly createdNs: bigint;
}

export interface MapSection {
  readonly offset: number;
  readonly length: number;
  readonly crc: number;
}

export interface MapHeader extends MapIdentity {
  readonly extents: number;
  /** Sectors that have data, that read as zeroes, and that are not known. */
  readonly dataSectors: number;
  readonly zeroSectors: number;
  readonly unknownSectors: number;
  readonly regions: number;
  readonly blocks: number;
  readonly fileBytes: number;
  readonly segmentTable: MapSection;
  readonly index: MapSection;
  readonly bitmap: MapSection;
  readonly geometry: MapSection;
}

const SECTIONS = ['segmentTable', 'index', 'bitmap', 'geometry'] as const;
const SECTIONS_AT = 192;
const SECTION_BYTES = 24;

export function encodeMapHeader(header: MapHeader): Buffer {
  const page = Buffer.alloc(MAP_HEADER_BYTES);
  MAP_MAGIC.copy(page, 0);
  page.writeUInt32LE(MAP_VERSION, 8);
  page.writeUInt32LE(MAP_HEADER_BYTES, 20);
  uuidToBytes(header.group).copy(page, 24);
  uuidToBytes(header.device).copy(page, 40);
  writeUint53(page, header.id, 56);
  page.writeUInt32LE(header.level, 64);
  page.writeUInt32LE(header.expiryClass, 68);
  writeUint53(page, header.firstLsn, 72);
  writeUint53(page, header.lastLsn, 80);
  page.writeBigUInt64LE(header.firstTimeNs, 88);
  page.writeBigUInt64LE(header.lastTimeNs, 96);
  writeUint53(page, header.previous, 104);
  writeUint53(page, header.firstChild, 112);
  page.writeBigUInt64LE(header.createdNs, 120);
  writeUint53(page, header.extents, 128);
  writeUint53(page, header.dataSectors, 136);
  writeUint53(page, header.zeroSectors, 144);
  writeUint53(page, header.unknownSectors, 152);
  writeUint53(page, header.regions, 160);
  writeUint53(page, header.blocks, 168);
  writeUint53(page, header.fileBytes, 176);
  SECTIONS.forEach((name, i) => {
    const section = header[name];
    const at = SECTIONS_AT + i * SECTION_BYTES;
    writeUint53(page, section.offset, at);
    writeUint53(page, section.length, at + 8);
    page.writeUInt32LE(section.crc, at + 16);
  });
  page.writeUInt32LE(crc32WithoutField(page, 16), 16);
  return page;
}

/** @throws CORRUPTION, UNSUPPORTED */
export function decodeMapHeader(page: Buffer, file: string, fileBytes: number): MapHeader {
  const operation = 'read map header';
  const bad = (what: string) => corruption(operation, file, 0, what);
  if (page.length < MAP_HEADER_BYTES) throw bad('it is shorter than a map header');
  if (!page.subarray(0, 8).equals(MAP_MAGIC)) throw bad('no delta map (wrong magic)');
  if (crc32WithoutField(page, 16) !== page.readUInt32LE(16)) throw bad('checksum mismatch');
  const version = page.readUInt32LE(8);
  if (version !== MAP_VERSION) throw unsupported(operation, file, `map version ${version}`);
  const flags = page.readUInt32LE(12);
  if (flags !== 0) throw unsupported(operation, file, `map flags 0x${flags.toString(16)}`);
  if (page.readUInt32LE(20) !== MAP_HEADER_BYTES) throw bad('wrong header length');
  const number = (at: number): number => {
    const value = readUint53(page, at);
    if (value === undefined) throw bad(`the number at ${at} is out of range`);
    return value;
  };
  const section = (index: number): MapSection => {
    const at = SECTIONS_AT + index * SECTION_BYTES;
    const found = { offset: number(at), length: number(at + 8), crc: page.readUInt32LE(at + 16) };
    if (
      found.offset < MAP_HEADER_BYTES ||
      found.length > MAP_SECTION_BYTES_MAX ||
      found.offset + found.length > fileBytes
    ) {
      throw bad(`section ${SECTIONS[index] ?? index} does not stand in the file`);
    }
    return found;
  };
  const header: MapHeader = {
    group: uuidFromBytes(page, 24),
    device: uuidFromBytes(page, 40),
    id: number(56),
    level: page.readUInt32LE(64),
    expiryClass: page.readUInt32LE(68),
    firstLsn: number(72),
    lastLsn: number(80),
    firstTimeNs: page.readBigUInt64LE(88),
    lastTimeNs: page.readBigUInt64LE(96),
    previous: number(104),
    firstChild: number(112),
    createdNs: page.readBigUInt64LE(120),
    extents: number(128),
    dataSectors: number(136),
    zeroSectors: number(144),
    unknownSectors: number(152),
    regions: number(160),
    blocks: number(168),
    fileBytes: number(176),
    segmentTable: section(0),
    index: section(1),
    bitmap: section(2),
    geometry: section(3),
  };
  if (header.fileBytes !== fileBytes) {
    throw bad(`it has ${fileBytes} bytes in the place of ${header.fileBytes}`);
  }
  return header;
}

export function writeUint53(to: Buffer, value: number, at: number): void {
  to.writeUInt32LE(value % 0x1_0000_0000, at);
  to.writeUInt32LE(Math.floor(value / 0x1_0000_0000), at + 4);
}
