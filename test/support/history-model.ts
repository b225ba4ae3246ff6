// SPDX-License-Identifier: Apache-2.0

/**
 * The oracle: volumes as plain bytes, changed by one log entry at a time [0034]. It knows nothing of
 * regions, maps, batches or addresses; what the product says has to equal it byte for byte.
 */

import { SECTOR_BYTES } from '../../src/common/limits.js';
import { EntryType, GeometryAction } from '../../src/maps/segment/format.js';
import { encodeGeometryPayload, encodeMarkerPayload, type EntryContent } from './segment-writer.ts';

/** A small, fast, seeded generator (mulberry32): the same seed gives the same run. */
export class Random {
  private state: number;

  constructor(seed: number) {
    this.state = seed >>> 0;
  }

  /** A whole number in [0, below). */
  below(limit: number): number {
    this.state = (this.state + 0x6d2b79f5) >>> 0;
    let t = this.state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 0x1_0000_0000) * limit);
  }

  between(low: number, high: number): number {
    return low + this.below(high - low + 1);
  }

  chance(share: number): boolean {
    return this.below(1_000_000) < share * 1_000_000;
  }

  bytes(length: number): Buffer {
    const bytes = Buffer.alloc(length);
    for (let i = 0; i + 4 <= length; i += 4) bytes.writeUInt32LE(this.below(0x1_0000_0000), i);
    return bytes;
  }
}

export interface ModelVolume {
  readonly volume: number;
  readonly name: string;
  readonly sizeBytes: number;
}

/** The sectors of one volume that history touched: data, null for zeroes, 'unknown'. */
export type ModelSectors = Map<number, Buffer | null | 'unknown'>;

/** Sectors after the entries with index below `count`. */
export function replay(
  entries: readonly EntryContent[],
  count: number,
  volume: number,
): ModelSectors {
  const sectors: ModelSectors = new Map();
  for (const entry of entries.slice(0, count)) {
    if (entry.volume !== volume) continue;
    for (let i = 0; i < entry.sectors; i += 1) {
      const at = entry.sector + i;
      if (entry.type === EntryType.write) {
        sectors.set(at, entry.payload!.subarray(i * SECTOR_BYTES, (i + 1) * SECTOR_BYTES));
      } else if (entry.type === EntryType.discard || entry.type === EntryType.writeZeroes) {
        sectors.set(at, null);
      } else if (entry.type === EntryType.unknown) {
        sectors.set(at, 'unknown');
      }
    }
  }
  return sectors;
}

export interface HistoryOptions {
  readonly volumes: readonly ModelVolume[];
  readonly entries: number;
  readonly startNs: bigint;
  /** Share of entries that leave their range unknown. */
  readonly unknownShare?: number;
  /** Writes crowd around this many places per volume, so that they overlap. */
  readonly places?: number;
  readonly sectorsMax?: number;
}

/** Random entries: overlapping writes of all sizes, discards, zeroes, flushes, markers, errors. */
export function randomHistory(random: Random, options: HistoryOptions): EntryContent[] {
  const entries: EntryContent[] = [];
  const places = new Map(
    options.volumes.map(({ volume, sizeBytes }) => [
      volume,
      Array.from({ length: options.places ?? 4 }, (_, i) =>
        // Region borders of 2^19 sectors are places of their own.
        i % 2 === 0
          ? random.below(sizeBytes / SECTOR_BYTES)
          : random.below(Math.floor(sizeBytes / SECTOR_BYTES / 524288) + 1) * 524288,
      ),
    ]),
  );
  let timeNs = options.startNs;
  for (const [i, volume] of options.volumes.entries()) {
    timeNs += 1n;
    const { name, sizeBytes } = volume;
    const action = GeometryAction.add;
    const payload = encodeGeometryPayload({ action, blockBytes: 512, sizeBytes, name });
    if (i < options.entries) {
      entries.push({
        type: EntryType.geometry,
        volume: volume.volume,
        sectors: 1,
        sector: 0,
        timeNs,
        payload,
      });
    }
  }
  while (entries.length < options.entries) {
    timeNs += BigInt(1 + random.below(1_000_000));
    const { volume, sizeBytes } = options.volumes[random.below(options.volumes.length)]!;
    entries.push(
      randomEntry(random, options, places.get(volume)!, volume, sizeBytes, timeNs, entries.length),
    );
  }
  return entries;
}

function randomEntry(
  random: Random,
  options: HistoryOptions,
  places: readonly number[],
  volume: number,
  sizeBytes: number,
  timeNs: bigint,
  number: number,
): EntryContent {
  const total = sizeBytes / SECTOR_BYTES;
  const place = places[random.below(places.length)]!;
  const sectors = random.chance(0.6)
    ? random.between(1, 8)
    : random.between(1, options.sectorsMax ?? 64);
  const near = place + random.between(-40, 40) - Math.floor(sectors / 2);
  const sector = Math.max(0, Math.min(near, total - sectors));
  const range = { volume, sector, sectors, timeNs };
  const roll = random.below(100);
  if (roll < 62) {
    const flags = random.chance(0.05) ? 1 : 0;
    return {
      type: EntryType.write,
      flags,
      ...range,
      payload: random.bytes(sectors * SECTOR_BYTES),
    };
  }
  if (roll < 72) return { type: EntryType.discard, ...range };
  if (roll < 82) return { type: EntryType.writeZeroes, ...range };
  if (random.chance(options.unknownShare ?? 0)) return { type: EntryType.unknown, ...range };
  const none = { volume, sectors: 0, timeNs };
  if (roll < 92) return { type: EntryType.flush, ...none, sector: number };
  if (roll < 95) return { type: EntryType.error, ...none, sector: number };
  const label = `mark-${number}`;
  const payload = encodeMarkerPayload({ keepUntilNs: 0n, label });
  return { type: EntryType.marker, volume: 0, sectors: 1, sector: 0, timeNs, payload };
}

/** Cuts entries into batches of random lengths. */
export function randomBatches(
  random: Random,
  entries: readonly EntryContent[],
  lengthMax: number,
): EntryContent[][] {
  const batches: EntryContent[][] = [];
  for (let from = 0; from < entries.length;) {
    const to = Math.min(entries.length, from + random.between(1, lengthMax));
    batches.push(entries.slice(from, to));
    from = to;
  }
  return batches;
}
