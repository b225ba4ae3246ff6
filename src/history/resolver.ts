// SPDX-License-Identifier: Apache-2.0
import { Inject, Injectable } from '@nestjs/common';
import { EverpointError } from '../common/errors.js';
import { type Moment, parseMoment } from '../common/moments.js';
import { formatTime, nowNs } from '../common/time.js';
import type { Group } from '../groups/stored-group.js';
import { WorkerPool } from '../workers/pool.js';
import { isInGap, type LogGap } from './gaps.js';
import { type LogSegment, type LogSnapshot, LogView, missingLsn } from './log-view.js';

export interface Point {
  lsn: number;
  time: string;
}

/** Which point a moment means, and whether it can be had. */
export interface Resolution {
  lsn: number | null;
  time: string | null;
  label?: string;
  reachable: boolean;
  reason?: string;
  /** Of an unreachable moment: the reachable points around it. */
  nearest?: { before: Point | null; after: Point | null };
}

/** What a moment was found to be, before gaps are looked at. */
type Found =
  | { kind: 'point'; lsn: number; timeNs?: bigint }
  | { kind: 'gap'; gap: LogGap; lsn: number }
  | { kind: 'unknown'; reason: string }
  | { kind: 'before'; reason: string }
  | { kind: 'after'; reason: string };

/** Turns moments (`at`) into LSNs. */
@Injectable()
export class Resolver {
  constructor(
    @Inject(LogView) private readonly logs: LogView,
    @Inject(WorkerPool) private readonly pool: WorkerPool,
  ) {}

  /** @throws INVALID_ARGUMENT when `at` is not a moment; every other answer is a Resolution */
  async resolve(group: Group, at: string): Promise<Resolution> {
    const moment = parseMoment(at);
    // The clock is read first: what was written before the question was asked is to be found.
    const now = nowNs();
    let log = await this.logs.snapshot(group, true);
    if (isMarkerBeyond(log, moment) || isRightAfterGap(log, moment)) {
      log = await this.logs.snapshot(group, true);
    }
    const first = log.segments[0];
    const last = log.segments.at(-1);
    if (first === undefined || last === undefined) {
      throwIfDown(log);
      return unreachable(null, null, 'Nothing was written yet.', { before: null, after: null });
    }
    const found = await this.find(log, moment, now);
    switch (found.kind) {
      case 'unknown':
        return unreachable(null, null, found.reason, { before: null, after: null });
      case 'before':
        return unreachable(null, null, found.reason, {
          before: null,
          after: await this.firstFrom(log, first.firstLsn),
        });
      case 'after':
        throwIfDown(log);
        return unreachable(null, null, found.reason, {
          before: await this.lastUpTo(log, log.durableLsn),
          after: null,
        });
      case 'point':
        return this.judge(log, found.lsn, found.timeNs);
      case 'gap':
        return this.refuse(log, found.lsn, found.gap);
    }
  }

  /** The LSN that a moment names by itself; nothing for those that the clock decides. */
  async lsnNamed(group: Group, at: string): Promise<number | undefined> {
    const moment = parseMoment(at);
    if (moment.kind === 'lsn') return moment.lsn;
    if (moment.kind !== 'marker') return undefined;
    const { state } = await this.logs.snapshot(group, false);
    return state.markers.get(moment.label)?.lsn;
  }

  /** The time of an entry that a snapshot has. */
  async timeOf(log: LogSnapshot, lsn: number): Promise<bigint> {
    const segment = segmentOf(log, lsn);
    if (segment === undefined) throw new Error(`LSN ${lsn} is in no segment`);
    if (lsn === segment.firstLsn) return segment.firstNs;
    if (lsn === segment.lastLsn && !segment.cut) return segment.lastNs;
    const { path, sealed, lastLsn: durableLsn } = segment;
    const [timeNs] = await this.pool.run('timesOfLsns', { path, sealed, durableLsn, lsns: [lsn] });
    if (timeNs === undefined) throw new Error(`LSN ${lsn} has no time`);
    return timeNs;
  }

  private async find(log: LogSnapshot, moment: Moment, now: bigint): Promise<Found> {
    switch (moment.kind) {
      case 'latest': {
        throwIfDown(log);
        // In a gap writes may have no LSN: now is inside, whatever the newest LSN is.
        const gap = log.gaps.find((one) => one.toLsn === undefined);
        const lsn = log.durableLsn;
        return gap === undefined ? { kind: 'point', lsn } : { kind: 'gap', gap, lsn };
      }
      case 'lsn':
        return findLsn(log, moment.lsn);
      case 'marker': {
        const marker = log.state.markers.get(moment.label);
        return marker === undefined
          ? { kind: 'unknown', reason: `There is no marker ${JSON.stringify(moment.label)}.` }
          : { kind: 'point', lsn: marker.lsn };
      }
      case 'time':
        return this.findTime(log, moment.timeNs, now);
      case 'ago':
        return this.findTime(log, now - moment.durationNs, now);
    }
  }

  /** The last entry whose time is not later. */
  private async findTime(log: LogSnapshot, timeNs: bigint, now: bigint): Promise<Found> {
    if (timeNs > now && timeNs > (log.segments.at(-1)?.lastNs ?? 0n)) {
      return { kind: 'after', reason: `${formatTime(timeNs)} is in the future.` };
    }
    const segment = log.segments.findLast((one) => one.firstNs <= timeNs);
    if (segment === undefined) {
      const from = log.segments[0]?.firstNs ?? 0n;
      return { kind: 'before', reason: `History starts at ${formatTime(from)}.` };
    }
    if (segment === log.segments.at(-1) && timeNs > segment.lastNs) throwIfDown(log);
    if (timeNs >= segment.lastNs) {
      // Of what follows it something may be missing that was written before that time.
      const next = log.segments[log.segments.indexOf(segment) + 1];
      if (next !== undefined && timeNs > segment.lastNs) demandWhole(log, next.firstLsn - 1);
      return { kind: 'point', lsn: segment.lastLsn, timeNs };
    }
    const { path, sealed, lastLsn } = segment;
    const durableLsn = lastLsn;
    const query = { path, sealed, durableLsn, timeNs, lastLsn };
    const hit = await this.pool.run('findLsnAtTime', query);
    return { kind: 'point', lsn: hit?.lsn ?? segment.firstLsn, timeNs };
  }

  private async judge(log: LogSnapshot, lsn: number, timeNs?: bigint): Promise<Resolution> {
    const gap = await this.gapAround(log, lsn, timeNs);
    if (gap !== undefined) return this.refuse(log, lsn, gap);
    // Never the point before instead: whoever names an LSN would get older bytes without a word.
    if (segmentOf(log, lsn) === undefined) throwIfDown(log);
    demandWhole(log, lsn);
    const time = formatTime(await this.timeOf(log, lsn));
    return { lsn, time, ...labelAt(log, lsn), reachable: true };
  }

  private async refuse(log: LogSnapshot, lsn: number, gap: LogGap): Promise<Resolution> {
    const nearest = {
      before: await this.lastUpTo(log, gap.fromLsn),
      after: gap.toLsn === undefined ? null : await this.firstFrom(log, gap.toLsn + 1),
    };
    const until = gap.toNs === undefined ? 'and lasts' : `until ${formatTime(gap.toNs)}`;
    const reason = `In a gap from ${formatTime(gap.fromNs)} ${until}: ${gap.reason}`;
    return unreachable(lsn, null, reason, nearest);
  }

  private async gapAround(
    log: LogSnapshot,
    lsn: number,
    timeNs: bigint | undefined,
  ): Promise<LogGap | undefined> {
    const gap = log.gaps.find(
      (one) => isInGap(one, lsn) || (timeNs !== undefined && duringGap(one, timeNs)),
    );
    if (gap !== undefined || timeNs === undefined) return gap;
    // LSNs that were taken and are in no log: their writes came after the last good entry, and
    // before the gap was noticed.
    const lost = log.gaps.find(
      (one) => one.fromLsn === lsn && one.toLsn === undefined && newestLsn(log) > lsn,
    );
    if (lost === undefined || segmentOf(log, lsn) === undefined) return undefined;
    return timeNs > (await this.timeOf(log, lsn)) ? lost : undefined;
  }

  /** The newest reachable point up to an LSN. */
  private async lastUpTo(log: LogSnapshot, lsn: number): Promise<Point | null> {
    const missing = missingLsn(log, lsn);
    let at = missing === undefined ? lsn : Math.min(lsn, missing - 1);
    for (;;) {
      const segment = log.segments.findLast((one) => one.firstLsn <= at);
      if (segment === undefined) return null;
      const candidate = Math.min(at, segment.lastLsn);
      const gap = log.gaps.find((one) => isInGap(one, candidate));
      if (gap === undefined) return this.point(log, candidate);
      at = gap.fromLsn;
    }
  }

  /** The oldest reachable point from an LSN on. */
  private async firstFrom(log: LogSnapshot, lsn: number): Promise<Point | null> {
    let at = lsn;
    for (;;) {
      const segment = log.segments.find((one) => one.lastLsn >= at);
      if (segment === undefined) return null;
      const candidate = Math.max(at, segment.firstLsn);
      const gap = log.gaps.find((one) => isInGap(one, candidate));
      if (gap === undefined) {
        return missingLsn(log, candidate) === undefined ? this.point(log, candidate) : null;
      }
      if (gap.toLsn === undefined) return null;
      at = gap.toLsn + 1;
    }
  }

  private async point(log: LogSnapshot, lsn: number): Promise<Point> {
    return { lsn, time: formatTime(await this.timeOf(log, lsn)) };
  }
}

function findLsn(log: LogSnapshot, lsn: number): Found {
  const first = log.segments[0]?.firstLsn ?? 0;
  if (lsn < first) return { kind: 'before', reason: `History starts at LSN ${first}.` };
  const newest = log.durableLsn;
  const lost = log.gaps.some((gap) => isInGap(gap, lsn));
  if (lsn > newest && !lost) return { kind: 'after', reason: `The newest LSN is ${newest}.` };
  return { kind: 'point', lsn };
}

/** The marker was made after the data plane had been asked for its segments. */
function isMarkerBeyond(log: LogSnapshot, moment: Moment): boolean {
  if (moment.kind !== 'marker' || log.fault !== undefined) return false;
  return (log.state.markers.get(moment.label)?.lsn ?? 0) > log.durableLsn;
}

/** A gap has just been healed: what the data plane logs behind its end is about to come. */
function isRightAfterGap(log: LogSnapshot, moment: Moment): boolean {
  return moment.kind === 'latest' && log.gaps.some((gap) => gap.toLsn === log.durableLsn);
}

/** Taken, be it durable or not. */
function newestLsn(log: LogSnapshot): number {
  return Math.max(log.durableLsn, log.status?.lsn ?? 0);
}

/** @throws CORRUPTION when an entry up to `lsn` is in no segment and no gap says why */
function demandWhole(log: LogSnapshot, lsn: number): void {
  const missing = missingLsn(log, lsn);
  if (missing === undefined) return;
  throw new EverpointError(
    'CORRUPTION',
    `LSN ${missing} is in no segment of the log, and no recorded gap explains it.`,
    {
      operation: 'resolve moment',
      lsnRange: { first: missing, last: lsn },
      hint: 'A log segment or its record is missing on the device; points before that LSN are whole.',
    },
  );
}

function segmentOf(log: LogSnapshot, lsn: number): LogSegment | undefined {
  return log.segments.find((one) => one.firstLsn <= lsn && lsn <= one.lastLsn);
}

/** Writes of a gap may be in no log at all: then only the clock tells that a moment is inside. */
function duringGap(gap: LogGap, timeNs: bigint): boolean {
  return timeNs > gap.fromNs && (gap.toNs === undefined || timeNs < gap.toNs);
}

function labelAt(log: LogSnapshot, lsn: number): { label?: string } {
  for (const marker of log.state.markers.values()) {
    if (marker.lsn === lsn) return { label: marker.label };
  }
  return {};
}

function unreachable(
  lsn: number | null,
  time: string | null,
  reason: string,
  nearest: Resolution['nearest'] & object,
): Resolution {
  return { lsn, time, reachable: false, reason, nearest };
}

/** What is not mapped yet only the data plane can tell. */
function throwIfDown(log: LogSnapshot): void {
  if (log.fault !== undefined) throw log.fault;
}
