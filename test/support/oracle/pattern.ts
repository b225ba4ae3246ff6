// SPDX-License-Identifier: Apache-2.0

/**
 * The data that the random workload writes: the twin of `../front-end/pattern.cc`. The README there
 * has the function in words; both sides' tests hold the same vector.
 */

/** Bytes of a sector. */
export const SECTOR_BYTES = 512;

/** The 16 high bits of a stamp. */
export const PATTERN_MAGIC = 0xe5d1;

const STEP = 0x6d2b79f5;
const WORDS = SECTOR_BYTES / 4;

/** Which request wrote a sector, as the sector's first 12 bytes say. */
export interface Stamp {
  /** The request's id in the journal. */
  id: number;
  /** Which sector of the request, from 0. */
  sector: number;
  /** The seed of the run. */
  seed: number;
}

function mix(value: number): number {
  let x = value;
  x ^= x >>> 16;
  x = Math.imul(x, 0x85ebca6b);
  x ^= x >>> 13;
  x = Math.imul(x, 0xc2b2ae35);
  return x ^ (x >>> 16);
}

/** One word of the stream: mulberry32 of a counter. */
function mulberry(state: number): number {
  let t = Math.imul(state ^ (state >>> 15), state | 1);
  t ^= (t + Math.imul(t ^ (t >>> 7), t | 61)) | 0;
  return (t ^ (t >>> 14)) >>> 0;
}

function firstState(seed: number, id: number, sector: number): number {
  return mix((mix((mix(seed) + id) | 0) + sector) | 0);
}

/**
 * Fills one sector with the data of sector `sector` of request `id` in a run with `seed`.
 *
 * @param out - where to; 512 bytes from `offset` on are written
 */
export function fillSector(
  out: DataView,
  offset: number,
  seed: number,
  id: number,
  sector: number,
): void {
  out.setUint32(offset, id, true);
  out.setUint32(offset + 4, ((PATTERN_MAGIC << 16) | (sector & 0xffff)) >>> 0, true);
  out.setUint32(offset + 8, seed, true);
  let state = firstState(seed, id, sector);
  for (let i = 3; i < WORDS; i++) {
    state = (state + STEP) | 0;
    out.setUint32(offset + i * 4, mulberry(state), true);
  }
}

/**
 * Fills part of a request's data.
 *
 * @param out - whole sectors
 * @param firstSector - the sector of the request that `out` starts with
 */
export function fillRequest(out: Uint8Array, seed: number, id: number, firstSector = 0): void {
  const view = new DataView(out.buffer, out.byteOffset, out.byteLength);
  for (let at = 0; at + SECTOR_BYTES <= out.byteLength; at += SECTOR_BYTES) {
    fillSector(view, at, seed, id, firstSector + at / SECTOR_BYTES);
  }
}

/** Reads a sector's stamp; undefined when it has none. Says nothing about the rest of the sector. */
export function readStamp(view: DataView, offset: number): Stamp | undefined {
  const word = view.getUint32(offset + 4, true);
  if (word >>> 16 !== PATTERN_MAGIC) return undefined;
  return {
    id: view.getUint32(offset, true),
    sector: word & 0xffff,
    seed: view.getUint32(offset + 8, true),
  };
}

/** True when the sector is, byte for byte, what {@link fillSector} writes. */
export function sectorMatches(
  view: DataView,
  offset: number,
  seed: number,
  id: number,
  sector: number,
): boolean {
  const stamp = readStamp(view, offset);
  if (stamp?.id !== id || stamp.sector !== sector || stamp.seed !== seed) return false;
  let state = firstState(seed, id, sector);
  for (let i = 3; i < WORDS; i++) {
    state = (state + STEP) | 0;
    if (view.getUint32(offset + i * 4, true) !== mulberry(state)) return false;
  }
  return true;
}
