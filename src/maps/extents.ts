// SPDX-License-Identifier: Apache-2.0

/**
 * The extents of one region in memory: four columns, sorted, without overlaps, in sectors from the
 * region's start. Everything in this folder streams through these, one region after the other.
 */

import { REGION_SECTORS } from '../common/limits.js';

/** In the `source` column, in the place of an index into the segment table. */
export const SOURCE_ZERO = 0xffff_ffff;
export const SOURCE_UNKNOWN = 0xffff_fffe;

/** A segment that maps point into, on the device that it was written to. */
export interface SegmentReference {
  readonly device: string;
  readonly segment: number;
}

/** One number that sorts regions by volume, then by place. */
export function regionKey(volume: number, region: number): number {
  return volume * 0x1_0000_0000 + region;
}

export function volumeOfKey(key: number): number {
  return Math.floor(key / 0x1_0000_0000);
}

export function regionOfKey(key: number): number {
  return key % 0x1_0000_0000;
}

/** No region: larger than every key. */
export const NO_KEY = Number.POSITIVE_INFINITY;

/** Regions in ascending order, each taken once. */
export interface RegionSource {
  /** What indices in the `source` column mean; may grow while regions are loaded. */
  readonly segments: readonly SegmentReference[];
  /** The key of the region that `load` gives next, NO_KEY at the end. */
  nextKey(): number;
  /** Replaces the content of `into` by the next region's. */
  load(into: RegionExtents): void;
  /** Goes on at the first region whose key is not lower; never back. */
  seek(key: number): void;
}

export class RegionExtents {
  key = NO_KEY;
  count = 0;
  start: Uint32Array = new Uint32Array(256);
  end: Uint32Array = new Uint32Array(256);
  source: Uint32Array = new Uint32Array(256);
  /** Sector in the segment file; 0 without data. */
  address: Uint32Array = new Uint32Array(256);

  clear(key: number): void {
    this.key = key;
    this.count = 0;
  }

  /** Makes room for `more` further extents. */
  reserve(more: number): void {
    const needed = this.count + more;
    if (needed <= this.start.length) return;
    const capacity = Math.max(needed, Math.min(this.start.length * 2, 2 * REGION_SECTORS));
    this.start = grown(this.start, capacity);
    this.end = grown(this.end, capacity);
    this.source = grown(this.source, capacity);
    this.address = grown(this.address, capacity);
  }

  /**
   * Appends behind the last extent, as a part of it where both places continue. So the columns are
   * always in the one shortest form, and equal content means equal columns. Room was reserved.
   */
  push(start: number, end: number, source: number, address: number): void {
    const last = this.count - 1;
    if (
      last >= 0 &&
      this.end[last] === start &&
      this.source[last] === source &&
      (source >= SOURCE_UNKNOWN || this.address[last]! + (start - this.start[last]!) === address)
    ) {
      this.end[last] = end;
      return;
    }
    const at = this.count;
    this.start[at] = start;
    this.end[at] = end;
    this.source[at] = source;
    this.address[at] = address;
    this.count = at + 1;
  }
}

function grown(column: Uint32Array, capacity: number): Uint32Array {
  const larger = new Uint32Array(capacity);
  larger.set(column);
  return larger;
}

/**
 * `newer` laid over `older`, both of one region, into `out`: one pass over the two.
 */
export function overlay(older: RegionExtents, newer: RegionExtents, out: RegionExtents): void {
  out.clear(newer.key);
  // Each extent of `newer` cuts at most one of `older` in two.
  out.reserve(older.count + 2 * newer.count);
  let next = 0;
  let covered = 0;
  for (let i = 0; i < newer.count; i += 1) {
    const start = newer.start[i]!;
    const end = newer.end[i]!;
    while (next < older.count && older.start[next]! < start) {
      const from = Math.max(older.start[next]!, covered);
      const to = Math.min(older.end[next]!, start);
      if (from < to) pushPart(older, next, from, to, out);
      if (older.end[next]! > start) break;
      next += 1;
    }
    out.push(start, end, newer.source[i]!, newer.address[i]!);
    covered = end;
    while (next < older.count && older.end[next]! <= covered) next += 1;
  }
  for (; next < older.count; next += 1) {
    pushPart(older, next, Math.max(older.start[next]!, covered), older.end[next]!, out);
  }
}

function pushPart(
  from: RegionExtents,
  index: number,
  start: number,
  end: number,
  out: RegionExtents,
): void {
  const source = from.source[index]!;
  const shift = source >= SOURCE_UNKNOWN ? 0 : start - from.start[index]!;
  out.push(start, end, source, from.address[index]! + shift);
}
