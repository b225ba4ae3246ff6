// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';

import { Random } from '../../test/support/history-model.js';
import { chainOf, hierarchyOf, isKeptPoint, leavesOf, mapsUpTo, type MapRange } from './leaves.js';

const map = (id: number, firstLsn: number, lastLsn: number): MapRange => ({
  id,
  firstLsn,
  lastLsn,
});

describe('leaves', () => {
  it('are the maps that contain no other, whatever the order of the records', () => {
    const maps = [map(3, 1, 10), map(1, 1, 5), map(2, 6, 10), map(4, 14, 20)];
    expect(leavesOf(maps).map(({ id }) => id)).toEqual([1, 2, 4]);
    expect(leavesOf([...maps].reverse()).map(({ id }) => id)).toEqual([1, 2, 4]);
  });

  it('a merged map becomes a leaf when its children are gone', () => {
    expect(leavesOf([map(3, 1, 10), map(4, 11, 12)]).map(({ id }) => id)).toEqual([3, 4]);
  });
});

describe('chains', () => {
  it('take the longest maps that do not go beyond the point', () => {
    const maps = [map(1, 1, 5), map(2, 6, 10), map(3, 1, 10), map(4, 12, 15), map(5, 1, 15)];
    expect(mapsUpTo(maps, 15).map(({ id }) => id)).toEqual([5]);
    expect(mapsUpTo(maps, 14).map(({ id }) => id)).toEqual([3]);
    expect(mapsUpTo(maps, 9).map(({ id }) => id)).toEqual([1]);
    expect(mapsUpTo(maps, 4)).toEqual([]);
    expect(mapsUpTo([], 4)).toEqual([]);
  });

  it('name maps that nothing can be made of', () => {
    const { stale } = hierarchyOf([map(1, 1, 5), map(2, 6, 10), map(3, 4, 10)]);
    expect(stale.map(({ id }) => id)).toEqual([3]);
  });

  it('cover every leaf once, under random merges', () => {
    const seed = Number(process.env['EVERPOINT_TEST_SEED'] ?? Date.now() % 1_000_000);
    const random = new Random(seed);
    const count = random.between(1, 60);
    const maps = Array.from({ length: count }, (_, i) => map(i + 1, 10 * i + 1, 10 * i + 9));
    for (let merged = 0; merged < 40; merged += 1) {
      const from = random.between(0, count - 1);
      const to = random.between(from, count - 1);
      if (to > from) maps.push(map(maps.length + 1, 10 * from + 1, 10 * to + 9));
    }
    const hierarchy = hierarchyOf(maps);
    expect(hierarchy.leaves.length, `seed ${seed}`).toBe(count);
    for (let to = 0; to < count; to += 1) {
      const chain = chainOf(hierarchy, 0, to);
      const covered = chain.flatMap(({ first, last }) =>
        Array.from({ length: last - first + 1 }, (_, i) => first + i),
      );
      expect(covered, `seed ${seed}`).toEqual(Array.from({ length: to + 1 }, (_, i) => i));
    }
  });
});

describe('kept points', () => {
  const leaf = (id: number, firstLsn: number, lastLsn: number) =>
    ({ ...map(id, firstLsn, lastLsn) }) as never;
  const maps = new Map([1, 2, 3].map((id) => [id, leaf(id, 10 * id - 9, 10 * id)] as const));

  it('are all of them while nothing has faded, and leaves’ ends below', () => {
    expect(isKeptPoint({ faded: undefined, maps }, 3)).toBe(true);
    const faded = { kind: 'faded', throughLsn: 20, throughTime: '' } as const;
    expect([9, 10, 11, 20, 21, 25].map((lsn) => isKeptPoint({ faded, maps }, lsn))).toEqual([
      false,
      true,
      false,
      true,
      true,
      true,
    ]);
  });
});
