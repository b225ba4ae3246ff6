// SPDX-License-Identifier: Apache-2.0

/**
 * The hierarchy [0037] as a manifest's maps make it up: leaves, which follow each other and are all of
 * history that is mapped, and above them maps that cover several leaves. Pure functions of records.
 */

import type { ManifestState, MapRecord } from './manifest-records.js';

/** What of a map record tells its place. */
export type MapRange = Pick<MapRecord, 'id' | 'firstLsn' | 'lastLsn'>;

/** The maps whose range contains no other map's, in the order of LSNs. */
export function leavesOf<M extends MapRange>(maps: Iterable<M>): M[] {
  const byStart = [...maps].sort((a, b) => b.firstLsn - a.firstLsn || a.lastLsn - b.lastLsn);
  const leaves: M[] = [];
  let end = Infinity;
  for (const map of byStart) {
    if (map.lastLsn >= end) continue;
    leaves.push(map);
    end = map.lastLsn;
  }
  return leaves.reverse();
}

/** A map with the leaves that it covers: from index `first` to index `last`, both included. */
export interface PlacedMap<M extends MapRange = MapRecord> {
  readonly map: M;
  readonly first: number;
  readonly last: number;
}

export interface Hierarchy<M extends MapRange = MapRecord> {
  readonly leaves: readonly M[];
  /** Every live map, leaves included, by the index of the leaf that it begins with, shortest first. */
  readonly startingAt: readonly (readonly PlacedMap<M>[])[];
  /** Maps that do not begin and end where leaves do: nothing can be made of them. */
  readonly stale: readonly M[];
}

export function hierarchyOf<M extends MapRange>(maps: Iterable<M>): Hierarchy<M> {
  const all = [...maps];
  const leaves = leavesOf(all);
  const starts = new Map(leaves.map((leaf, index) => [leaf.firstLsn, index]));
  const ends = new Map(leaves.map((leaf, index) => [leaf.lastLsn, index]));
  const startingAt: PlacedMap<M>[][] = leaves.map(() => []);
  const stale: M[] = [];
  for (const map of all) {
    const first = starts.get(map.firstLsn);
    const last = ends.get(map.lastLsn);
    if (first === undefined || last === undefined || last < first) stale.push(map);
    else startingAt[first]!.push({ map, first, last });
  }
  for (const list of startingAt) list.sort((a, b) => a.last - b.last || a.map.id - b.map.id);
  return { leaves, startingAt, stale };
}

/**
 * The fewest maps that add up to the leaves from index `from` on, up to `to` (both included), oldest
 * first: at each place the longest map that does not go beyond the end.
 */
export function chainOf<M extends MapRange>(
  hierarchy: Hierarchy<M>,
  from: number,
  to: number,
): PlacedMap<M>[] {
  const chain: PlacedMap<M>[] = [];
  for (let at = from; at <= to;) {
    const longest = hierarchy.startingAt[at]!.findLast((placed) => placed.last <= to)!;
    chain.push(longest);
    at = longest.last + 1;
  }
  return chain;
}

/** The maps of the newest state up to `lsn`: those that a view there has to look into first. */
export function mapsUpTo<M extends MapRange>(maps: Iterable<M>, lsn: number): M[] {
  const hierarchy = hierarchyOf(maps);
  const last = hierarchy.leaves.findLastIndex((leaf) => leaf.lastLsn <= lsn);
  return chainOf(hierarchy, 0, last).map(({ map }) => map);
}

/** Whether policy has left the point: above what has faded every LSN is one, below it leaves' ends. */
export function isKeptPoint(state: Pick<ManifestState, 'faded' | 'maps'>, lsn: number): boolean {
  if (state.faded === undefined || lsn >= state.faded.throughLsn) return true;
  return leavesOf(state.maps.values()).some((leaf) => leaf.lastLsn === lsn);
}
