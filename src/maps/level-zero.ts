// SPDX-License-Identifier: Apache-2.0

/**
 * A level-0 map, region by region, from the entries of one segment or of a part of it [0037]: the
 * entries are counted per region, put beside the others of their region, and swept there.
 */

import {
  BUILD_PIECES_MAX,
  REGION_SECTORS,
  REGION_SECTORS_SHIFT,
  VOLUME_NUMBER_MAX,
} from '../common/limits.js';
import { corruption } from './errors.js';
import {
  NO_KEY,
  regionKey,
  SOURCE_UNKNOWN,
  SOURCE_ZERO,
  type RegionExtents,
  type RegionSource,
  type SegmentReference,
} from './extents.js';
import type { SegmentEntries } from './segment/entries.js';
import { Pieces, Sweeper } from './sweep.js';

/** What an entry does to its range, by type: 0 nothing, 1 data, 2 zeroes, 3 unknown. */
const CONTENT_OF_TYPE = Uint8Array.from([0, 1, 2, 2, 0, 0, 0, 0, 3, 0]);
/** Regions of all volumes that one segment may reach over: 64 Mi, or 16 PiB. */
const REGIONS_MAX = 1 << 26;
const PER_REGION = 1 / REGION_SECTORS;

export interface LevelZeroOptions {
  /** Only this volume; all without it. */
  readonly volume?: number | undefined;
  /** Pieces held in memory at once. */
  readonly piecesMax?: number;
}

export class LevelZeroSource implements RegionSource {
  readonly segments: readonly SegmentReference[];
  private readonly volumeOnly: number;
  private readonly content: Uint8Array;
  private readonly piecesMax: number;
  /** Per volume: where its regions start in the columns below; -1 without any. */
  private readonly base = new Int32Array(VOLUME_NUMBER_MAX + 1).fill(-1);
  private readonly volumes: number[] = [];
  /** Per region: pieces, and the index of the newest entry that covers it whole. */
  private readonly counts: Uint32Array;
  private readonly coveredFrom: Uint32Array;
  /** Touched regions in order, as places in the columns, and their keys. */
  private readonly touched: Uint32Array;
  private readonly keys: Float64Array;
  private next = 0;
  /** The round in memory: touched regions [roundFrom, roundTo), their pieces from `offsets`. */
  private roundFrom = 0;
  private roundTo = 0;
  private pieces = new Pieces(0);
  private offsets = new Uint32Array(0);
  private readonly sweeper = new Sweeper();

  constructor(
    private readonly entries: SegmentEntries,
    options: LevelZeroOptions = {},
  ) {
    const { device, segment } = entries.identity;
    this.segments = [{ device, segment }];
    this.volumeOnly = options.volume ?? -1;
    this.piecesMax = options.piecesMax ?? BUILD_PIECES_MAX;
    this.content = this.contentColumn();
    const regions = this.layOutVolumes();
    this.counts = new Uint32Array(regions);
    this.coveredFrom = new Uint32Array(regions);
    this.countPieces();
    let touched = 0;
    for (let at = 0; at < regions; at += 1) if (this.counts[at]! > 0) touched += 1;
    this.touched = new Uint32Array(touched);
    this.keys = new Float64Array(touched);
    this.listTouched();
  }

  nextKey(): number {
    return this.next < this.keys.length ? this.keys[this.next]! : NO_KEY;
  }

  seek(key: number): void {
    while (this.next < this.keys.length && this.keys[this.next]! < key) this.next += 1;
  }

  load(into: RegionExtents): void {
    const at = this.next;
    if (at >= this.roundTo || at < this.roundFrom) this.fillRound(at);
    into.clear(this.keys[at]!);
    const from = this.offsets[at - this.roundFrom]!;
    const to = this.offsets[at - this.roundFrom + 1]!;
    this.sweeper.run(this.pieces, from, to - from, into);
    this.next = at + 1;
  }

  /** One column that the loops below look at: 0 for entries that do not matter here. */
  private contentColumn(): Uint8Array {
    const { type, volume, count } = this.entries;
    const content = new Uint8Array(count);
    for (let i = 0; i < count; i += 1) {
      if (this.volumeOnly >= 0 && volume[i] !== this.volumeOnly) continue;
      content[i] = CONTENT_OF_TYPE[type[i]!]!;
    }
    return content;
  }

  /** @returns the number of regions from each volume's first to its last one */
  private layOutVolumes(): number {
    const { entries, content } = this;
    const { volume, sector, sectors, count } = entries;
    const ends = new Float64Array(VOLUME_NUMBER_MAX + 1);
    for (let i = 0; i < count; i += 1) {
      if (content[i] === 0) continue;
      const end = sector[i]! + sectors[i]!;
      if (end > ends[volume[i]!]!) ends[volume[i]!] = end;
    }
    let regions = 0;
    for (let number = 0; number < ends.length; number += 1) {
      if (ends[number] === 0) continue;
      this.base[number] = regions;
      this.volumes.push(number);
      regions += Math.ceil(ends[number]! * PER_REGION);
      if (regions > REGIONS_MAX) {
        throw corruption('build map', entries.file, 0, 'its entries reach over too many volumes');
      }
    }
    return regions;
  }

  /** Newest first, so that what a later entry covers whole is not even counted. */
  private countPieces(): void {
    const { sector, sectors, volume, count } = this.entries;
    const { counts, coveredFrom, base, content } = this;
    for (let i = count - 1; i >= 0; i -= 1) {
      if (content[i] === 0) continue;
      const from = sector[i]!;
      const to = from + sectors[i]!;
      const first = Math.floor(from * PER_REGION);
      const last = Math.floor((to - 1) * PER_REGION);
      const at = base[volume[i]!]!;
      for (let region = first; region <= last; region += 1) {
        if (coveredFrom[at + region]! > 0) continue;
        counts[at + region]! += 1;
        const start = region * REGION_SECTORS;
        // 0 means "not covered"; entry 0 has nothing before it that it could hide.
        if (from <= start && to >= start + REGION_SECTORS) coveredFrom[at + region] = i;
      }
    }
  }

  private listTouched(): void {
    let out = 0;
    this.volumes.forEach((volume, index) => {
      const from = this.base[volume]!;
      const following = this.volumes[index + 1];
      const to = following === undefined ? this.counts.length : this.base[following]!;
      for (let at = from; at < to; at += 1) {
        if (this.counts[at] === 0) continue;
        this.touched[out] = at;
        this.keys[out] = regionKey(volume, at - from);
        out += 1;
      }
    });
  }

  /** Takes the touched regions from `from` on into memory, as many as the cap allows. */
  private fillRound(from: number): void {
    let to = from;
    let pieces = 0;
    while (to < this.touched.length) {
      const count = this.counts[this.touched[to]!]!;
      if (to > from && pieces + count > this.piecesMax) break;
      pieces += count;
      to += 1;
    }
    if (this.pieces.capacity < pieces) this.pieces = new Pieces(pieces);
    this.offsets = new Uint32Array(to - from + 1);
    const cursor = new Uint32Array(this.touched[to - 1]! - this.touched[from]! + 1);
    let offset = 0;
    for (let i = from; i < to; i += 1) {
      this.offsets[i - from] = offset;
      cursor[this.touched[i]! - this.touched[from]!] = offset;
      offset += this.counts[this.touched[i]!]!;
    }
    this.offsets[to - from] = offset;
    this.roundFrom = from;
    this.roundTo = to;
    this.place(cursor, this.touched[from]!, this.touched[to - 1]!);
  }

  /** Puts every piece of regions [low, high] behind the older ones of its region. */
  private place(cursor: Uint32Array, low: number, high: number): void {
    const { sector, sectors, volume, address, count } = this.entries;
    const { coveredFrom, base, content } = this;
    const { start: starts, end: ends, source: sources, address: addresses } = this.pieces;
    for (let i = 0; i < count; i += 1) {
      const kind = content[i]!;
      if (kind === 0) continue;
      const from = sector[i]!;
      const to = from + sectors[i]!;
      const at = base[volume[i]!]!;
      const first = Math.max(Math.floor(from * PER_REGION), low - at);
      const last = Math.min(Math.floor((to - 1) * PER_REGION), high - at);
      for (let region = first; region <= last; region += 1) {
        if (i < coveredFrom[at + region]!) continue;
        const slot = cursor[at + region - low]!;
        cursor[at + region - low] = slot + 1;
        const origin = region * REGION_SECTORS;
        const start = Math.max(from - origin, 0);
        starts[slot] = start;
        ends[slot] = Math.min(to - origin, REGION_SECTORS);
        sources[slot] = kind === 1 ? 0 : kind === 2 ? SOURCE_ZERO : SOURCE_UNKNOWN;
        addresses[slot] = kind === 1 ? address[i]! + (origin + start - from) : 0;
      }
    }
  }
}

/** Which region a sector of a volume lies in. */
export function regionOfSector(sector: number): number {
  return Math.floor(sector / (1 << REGION_SECTORS_SHIFT));
}
