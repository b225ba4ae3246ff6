// SPDX-License-Identifier: Apache-2.0

/**
 * Several sources as one, the newest winning [0042], region by region: what is in memory is one
 * region of each source. Up to four are laid over each other two by two; more are put one behind
 * the other, oldest first, and swept like the entries of a log.
 */

import { MERGE_PAIRWISE_SOURCES_MAX } from '../common/limits.js';
import {
  NO_KEY,
  overlay,
  RegionExtents,
  SOURCE_UNKNOWN,
  type RegionSource,
  type SegmentReference,
} from './extents.js';
import { Pieces, Sweeper } from './sweep.js';

/** One table of segments for several sources, and the way from their indices to its own. */
export class SegmentTable {
  readonly segments: SegmentReference[] = [];
  private readonly known = new Map<string, number>();

  indexOf(reference: SegmentReference): number {
    const name = `${reference.device}/${reference.segment}`;
    let index = this.known.get(name);
    if (index === undefined) {
      index = this.segments.length;
      this.segments.push(reference);
      this.known.set(name, index);
    }
    return index;
  }
}

export class MergedSource implements RegionSource {
  private readonly table = new SegmentTable();
  private readonly loaded: RegionExtents[];
  /** Per source: its segment indices as ours. */
  private readonly translations: number[][];
  private readonly spare = new RegionExtents();
  private readonly sweeper = new Sweeper();
  private pieces = new Pieces(0);

  /** @param sources oldest first */
  constructor(private readonly sources: readonly RegionSource[]) {
    this.loaded = sources.map(() => new RegionExtents());
    this.translations = sources.map(() => []);
  }

  get segments(): readonly SegmentReference[] {
    return this.table.segments;
  }

  nextKey(): number {
    let key = NO_KEY;
    for (const source of this.sources) key = Math.min(key, source.nextKey());
    return key;
  }

  seek(key: number): void {
    for (const source of this.sources) source.seek(key);
  }

  load(into: RegionExtents): void {
    const key = this.nextKey();
    const parts: RegionExtents[] = [];
    this.sources.forEach((source, index) => {
      if (source.nextKey() !== key) return;
      const part = this.loaded[index]!;
      source.load(part);
      this.translate(part, source, this.translations[index]!);
      parts.push(part);
    });
    if (parts.length <= MERGE_PAIRWISE_SOURCES_MAX) this.mergePairwise(key, parts, into);
    else this.rebuild(key, parts, into);
  }

  private translate(part: RegionExtents, source: RegionSource, known: number[]): void {
    const column = part.source;
    for (let i = 0; i < part.count; i += 1) {
      const theirs = column[i]!;
      if (theirs >= SOURCE_UNKNOWN) continue;
      let ours = known[theirs];
      if (ours === undefined) {
        ours = this.table.indexOf(source.segments[theirs]!);
        known[theirs] = ours;
      }
      column[i] = ours;
    }
  }

  /** Ends with the result in `into`; `spare` takes the steps between. */
  private mergePairwise(key: number, parts: readonly RegionExtents[], into: RegionExtents): void {
    let result: RegionExtents | undefined;
    parts.forEach((part, index) => {
      if (index === 0) {
        result = part;
        return;
      }
      const out = (parts.length - 1 - index) % 2 === 0 ? into : this.spare;
      overlay(result!, part, out);
      result = out;
    });
    if (parts.length === 1) copyExtents(parts[0]!, into);
    into.key = key;
  }

  private rebuild(key: number, parts: readonly RegionExtents[], into: RegionExtents): void {
    const count = parts.reduce((sum, part) => sum + part.count, 0);
    if (this.pieces.capacity < count) this.pieces = new Pieces(2 * count);
    let at = 0;
    for (const part of parts) {
      this.pieces.start.set(part.start.subarray(0, part.count), at);
      this.pieces.end.set(part.end.subarray(0, part.count), at);
      this.pieces.source.set(part.source.subarray(0, part.count), at);
      this.pieces.address.set(part.address.subarray(0, part.count), at);
      at += part.count;
    }
    into.clear(key);
    this.sweeper.run(this.pieces, 0, count, into);
  }
}

function copyExtents(from: RegionExtents, to: RegionExtents): void {
  to.clear(from.key);
  to.reserve(from.count);
  to.start.set(from.start.subarray(0, from.count));
  to.end.set(from.end.subarray(0, from.count));
  to.source.set(from.source.subarray(0, from.count));
  to.address.set(from.address.subarray(0, from.count));
  to.count = from.count;
}
