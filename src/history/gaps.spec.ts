// SPDX-License-Identifier: Apache-2.0

import { describe, expect, it } from 'vitest';

import { formatTime } from '../common/time.js';
import type { GapInfo } from '../data-plane/port.js';
import type { GapRecord } from '../maps/manifest-records.js';
import { isInGap, newGapRecords, recordOfEntry, settledGaps, unitedGaps } from './gaps.js';

const NS = 1_700_000_000_000_000_000n;

function info(fromLsn: number, toLsn = 0): GapInfo {
  return {
    fromLsn,
    toLsn,
    fromNs: String(NS + BigInt(fromLsn)),
    toNs: toLsn === 0 ? '0' : String(NS + BigInt(toLsn)),
    reason: 'why',
    healed: toLsn !== 0,
  };
}

function entry(fromLsn: number, toLsn = 0) {
  const { fromNs, toNs, reason } = info(fromLsn, toLsn);
  return { fromLsn, toLsn, fromNs: BigInt(fromNs), toNs: BigInt(toNs), reason };
}

const record = (fromLsn: number, toLsn = 0): GapRecord => recordOfEntry(entry(fromLsn, toLsn));
const ranges = (gaps: readonly { fromLsn: number; toLsn?: number | null | undefined }[]) =>
  gaps.map(({ fromLsn, toLsn }) => [fromLsn, toLsn ?? 'open']);

describe('gaps', () => {
  it('are complete whoever knows them', () => {
    const all = unitedGaps([record(10, 20), record(30)], [entry(30, 40), entry(50)], [info(60)]);
    expect(ranges(all)).toEqual([
      [10, 20],
      [30, 40],
      [50, 'open'],
      [60, 'open'],
    ]);
  });

  it('stay healed though somebody has not heard of it', () => {
    // The first entry of the epoch that healed it says that it is open; so does an old manifest.
    expect(ranges(unitedGaps([record(10, 20)], [entry(10)], []))).toEqual([[10, 20]]);
    expect(ranges(unitedGaps([record(10)], [entry(10), entry(10, 20)], []))).toEqual([[10, 20]]);
    expect(newGapRecords([record(10, 20)], [info(10)])).toEqual([]);
  });

  it('become records when something of them is new', () => {
    expect(newGapRecords([], [info(10)])).toEqual([record(10)]);
    expect(newGapRecords([record(10)], [info(10)])).toEqual([]);
    expect(newGapRecords([record(10)], [info(10, 20), info(30)])).toEqual([
      record(10, 20),
      record(30),
    ]);
    expect(newGapRecords([record(10)], [{ ...info(10), reason: 'pause' }])).toHaveLength(1);
    expect(recordOfEntry({ ...entry(1), reason: '' }).reason).toBe('unknown');
  });

  it('hold what stands after their beginning, up to their end', () => {
    const [gap] = unitedGaps([record(10, 20)], [], []);
    expect([10, 11, 20, 21].map((lsn) => isInGap(gap!, lsn))).toEqual([false, true, true, false]);
    expect(isInGap({ fromLsn: 10, toLsn: undefined }, 1e9)).toBe(true);
  });
});

describe('an open gap in the manifest that nobody speaks of any more', () => {
  const log = (...epochs: [number, number, number][]) =>
    epochs.map(([firstLsn, lastLsn, epoch]) => ({ firstLsn, lastLsn, epoch }));

  it('was none where the log goes on in the same epoch: its beginning was a guess', () => {
    const whole = log([1, 12, 1], [13, 30, 1], [41, 60, 2]);
    const [settled] = settledGaps([record(10), record(30, 50)], [], whole);
    expect(settled).toMatchObject({ fromLsn: 10, toLsn: 10, healed: true });
    expect(settled?.to).toBe(formatTime(NS + 10n));
    expect(ranges(unitedGaps([settled!, record(30, 50)], [], []))).toEqual([[30, 50]]);
    expect(settledGaps([record(10)], [info(30)], whole)).toHaveLength(1);
    expect(settledGaps([record(0)], [info(30)], whole)).toHaveLength(1);
  });

  it('reaches to the end of the next one otherwise', () => {
    for (const parts of [
      log([1, 10, 1], [15, 30, 2], [41, 60, 3]),
      log([1, 12, 1], [20, 30, 1], [41, 60, 2]),
      log([1, 10, 1]),
    ]) {
      const settled = settledGaps([record(10), record(30, 50)], [], parts);
      expect(ranges(settled)).toEqual([[10, 50]]);
      // The next one lasts: so does this one.
      expect(settledGaps([record(10)], [info(30)], parts)).toEqual([]);
    }
  });

  it('stays without a later one, and where the data plane has it', () => {
    expect(settledGaps([record(10)], [], log([1, 10, 1], [11, 20, 2]))).toEqual([]);
    expect(settledGaps([record(10)], [info(10), info(30)], log([1, 30, 1]))).toEqual([]);
    expect(settledGaps([record(10, 20)], [info(30)], log([1, 30, 1]))).toEqual([]);
  });
});
