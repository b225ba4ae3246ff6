// SPDX-License-Identifier: Apache-2.0

/**
 * Gaps as three witnesses know them: the manifest, entries of the log that no map has taken yet, and
 * the data plane, which knows the open one and those healed since it started. Together they are
 * complete, whoever was started anew, and when.
 */

import { formatTime, parseTime } from '../common/time.js';
import type { GapInfo } from '../data-plane/port.js';
import type { GapRecord } from '../maps/manifest-records.js';
import type { GapPayload } from '../maps/segment/format.js';

/** (fromLsn, toLsn] was not protected; without toLsn it still lasts. */
export interface LogGap {
  fromLsn: number;
  toLsn: number | undefined;
  fromNs: bigint;
  toNs: bigint | undefined;
  reason: string;
  healed: boolean;
}

/** What has to be known of a segment to tell where an epoch begins. */
interface Stretch {
  readonly firstLsn: number;
  readonly lastLsn: number;
  readonly epoch: number;
}

/**
 * One gap per `fromLsn`, in order. A gap that one witness knows as healed is: none forgets an end,
 * it only may not have heard of it.
 */
export function unitedGaps(
  recorded: readonly GapRecord[],
  logged: readonly GapPayload[],
  live: readonly GapInfo[],
): LogGap[] {
  const gaps = new Map<number, LogGap>();
  for (const gap of [...recorded.map(ofRecord), ...logged.map(ofEntry), ...live.map(ofInfo)]) {
    const known = gaps.get(gap.fromLsn);
    if (known?.healed !== true || gap.healed) gaps.set(gap.fromLsn, gap);
  }
  return [...gaps.values()]
    .filter((gap) => gap.toLsn !== gap.fromLsn)
    .sort((a, b) => a.fromLsn - b.fromLsn);
}

/** What the data plane's word changes in the manifest. */
export function newGapRecords(
  recorded: readonly GapRecord[],
  live: readonly GapInfo[],
): GapRecord[] {
  return live.map(ofInfo).flatMap((gap) => {
    const record = toRecord(gap);
    const same = recorded.find((one) => one.fromLsn === gap.fromLsn);
    if (same?.healed === true && !record.healed) return [];
    const changed =
      same === undefined ||
      same.toLsn !== record.toLsn ||
      same.to !== record.to ||
      same.reason !== record.reason ||
      same.healed !== record.healed;
    return changed ? [record] : [];
  });
}

/**
 * Ends open gaps of the manifest that nobody else speaks of any more, when all that is sealed is
 * mapped: a later gap has taken their place. Where the log between both beginnings goes on in one
 * epoch, the earlier beginning was a guess (the log could not be read then), and there was no gap
 * there; else both are one.
 */
export function settledGaps(
  recorded: readonly GapRecord[],
  live: readonly GapInfo[],
  log: readonly Stretch[],
): GapRecord[] {
  return recorded.flatMap((gap): GapRecord[] => {
    if (gap.toLsn !== null || live.some((one) => one.fromLsn === gap.fromLsn)) return [];
    const later = unitedGaps(recorded, [], live).find((one) => one.fromLsn > gap.fromLsn);
    if (later === undefined) return [];
    if (oneEpoch(log, gap.fromLsn, later.fromLsn)) {
      return [{ ...gap, toLsn: gap.fromLsn, to: gap.from, healed: true }];
    }
    if (later.toLsn === undefined || later.toNs === undefined) return [];
    return [{ ...gap, toLsn: later.toLsn, to: formatTime(later.toNs), healed: true }];
  });
}

/** Whether the log has every entry from `first` to `last`, all of one epoch. */
function oneEpoch(log: readonly Stretch[], first: number, last: number): boolean {
  let next = first;
  let epoch: number | undefined;
  for (const stretch of log) {
    if (stretch.lastLsn < next) continue;
    if (stretch.firstLsn > Math.max(next, 1)) return false;
    epoch ??= stretch.epoch;
    if (stretch.epoch !== epoch) return false;
    next = stretch.lastLsn + 1;
    if (next > last) return true;
  }
  return false;
}

export function isInGap(gap: Pick<LogGap, 'fromLsn' | 'toLsn'>, lsn: number): boolean {
  return lsn > gap.fromLsn && (gap.toLsn === undefined || lsn <= gap.toLsn);
}

/** An entry of the log as manifests write it. */
export function recordOfEntry(gap: GapPayload): GapRecord {
  return toRecord(ofEntry(gap));
}

function toRecord(gap: LogGap): GapRecord {
  return {
    kind: 'gap',
    fromLsn: gap.fromLsn,
    toLsn: gap.toLsn ?? null,
    from: formatTime(gap.fromNs),
    to: gap.toNs === undefined ? null : formatTime(gap.toNs),
    reason: gap.reason === '' ? 'unknown' : gap.reason,
    healed: gap.healed,
  };
}

function ofRecord(gap: GapRecord): LogGap {
  return {
    fromLsn: gap.fromLsn,
    toLsn: gap.toLsn ?? undefined,
    fromNs: parseTime(gap.from),
    toNs: gap.to === null ? undefined : parseTime(gap.to),
    reason: gap.reason,
    healed: gap.healed,
  };
}

function ofEntry(gap: GapPayload): LogGap {
  const open = gap.toLsn === 0;
  return {
    fromLsn: gap.fromLsn,
    toLsn: open ? undefined : gap.toLsn,
    fromNs: gap.fromNs,
    toNs: open ? undefined : gap.toNs,
    reason: gap.reason,
    healed: !open,
  };
}

function ofInfo(gap: GapInfo): LogGap {
  const times = { fromNs: BigInt(gap.fromNs), toNs: BigInt(gap.toNs) };
  return { ...ofEntry({ ...gap, ...times }), healed: gap.healed };
}
