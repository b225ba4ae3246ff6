// SPDX-License-Identifier: Apache-2.0
import path from 'node:path';
import { Inject, Injectable } from '@nestjs/common';
import { EverpointError } from '../common/errors.js';
import { parseTime } from '../common/time.js';
import type { DataPlanePort, GroupStatus, SegmentInfo } from '../data-plane/port.js';
import { DATA_PLANE } from '../events/data-plane-events.js';
import { ManifestStore } from '../groups/manifest-store.js';
import type { Group } from '../groups/stored-group.js';
import type { ManifestState, SegmentRecord } from '../maps/manifest-records.js';
import { groupFolder } from '../maps/segment/folder.js';
import type { GapPayload } from '../maps/segment/format.js';
import { WorkerPool } from '../workers/pool.js';
import { type LogGap, unitedGaps } from './gaps.js';

/** A segment wherever it is known from, with its file's whole path. */
export interface LogSegment {
  segment: number;
  device: string;
  /** Relative to the group's folder on the device. */
  relativePath: string;
  path: string;
  epoch: number;
  firstLsn: number;
  lastLsn: number;
  firstNs: bigint;
  lastNs: bigint;
  entries: number;
  dataBytes: number;
  fileBytes: number;
  sealed: boolean;
  /** Of an unsealed one: another one follows, so nothing is written into it any more. */
  superseded: boolean;
  /** Its file holds more than counts; then `lastNs` is a bound only. */
  cut: boolean;
  /** Its map is in place. */
  mapped: boolean;
}

/** A group's log as it is known at one moment. */
export interface LogSnapshot {
  state: ManifestState;
  /** Nothing when the data plane could not be asked; then `fault` says why. */
  status: GroupStatus | undefined;
  fault: Error | undefined;
  /** In order; those without entries are left out. */
  segments: LogSegment[];
  gaps: LogGap[];
  /** Every entry up to this one can be read. */
  durableLsn: number;
}

/** Puts together what manifest and data plane know of a group's log. */
@Injectable()
export class LogView {
  /** Gap entries of segments that have no map yet, by group and segment. */
  private readonly entries = new Map<string, Map<number, Promise<GapPayload[]>>>();

  constructor(
    @Inject(DATA_PLANE) private readonly port: DataPlanePort,
    @Inject(ManifestStore) private readonly manifests: ManifestStore,
    @Inject(WorkerPool) private readonly pool: WorkerPool,
  ) {}

  /**
   * @param sync also has everything that was taken before the call made durable, so that it counts
   */
  async snapshot(group: Group, sync: boolean): Promise<LogSnapshot> {
    const state = await this.manifests.state(group.definition);
    const after = state.lastSegment;
    let status: GroupStatus | undefined;
    let tail: SegmentInfo[] = [];
    let fault: Error | undefined;
    try {
      if (sync) await this.syncUnlessInGap(group.id);
      status = await this.port.groupStatus(group.id);
      tail = await this.port.listSegments(group.id, after);
    } catch (error) {
      fault = error as Error;
    }
    let logged: GapPayload[] = [];
    try {
      tail = tail.filter((info) => !state.segments.has(info.segment));
      logged = await this.gapEntries(group, tail, status?.epoch);
    } catch (error) {
      // What stands there may be inside a gap that nobody else knows of.
      fault = error as Error;
      tail = [];
    }
    // Maps may have come into place in the meantime: the manifest is looked at after the data plane.
    const segments = [...state.segments.values()].map((record) => fromRecord(group, record));
    for (const info of tail) {
      if (!state.segments.has(info.segment)) segments.push(fromInfo(group, info));
    }
    const filled = withoutOverlap(segments);
    return {
      state,
      status,
      fault,
      segments: filled,
      gaps: unitedGaps(state.gaps, logged, status?.gaps ?? []),
      durableLsn: filled.at(-1)?.lastLsn ?? 0,
    };
  }

  /**
   * What the log itself says of gaps, where neither the manifest nor the data plane may know it: in
   * segments without a map of an epoch before the present one.
   */
  private async gapEntries(
    group: Group,
    tail: readonly SegmentInfo[],
    epoch: number | undefined,
  ): Promise<GapPayload[]> {
    const older = tail.filter((one) => one.epoch !== epoch && one.lastLsn >= one.firstLsn);
    const before = this.entries.get(group.id);
    if (older.length === 0) {
      this.entries.delete(group.id);
      return [];
    }
    const now = new Map<number, Promise<GapPayload[]>>();
    for (const info of older) {
      now.set(info.segment, before?.get(info.segment) ?? this.readGaps(fromInfo(group, info)));
    }
    this.entries.set(group.id, now);
    try {
      return (await Promise.all(now.values())).flat();
    } catch (error) {
      this.entries.delete(group.id);
      throw error;
    }
  }

  private async readGaps(segment: LogSegment): Promise<GapPayload[]> {
    const { path: file, sealed, lastLsn } = segment;
    const query = { path: file, sealed, durableLsn: lastLsn, lastLsn };
    const { labels } = await this.pool.run('readSegment', query);
    return labels.flatMap((label) => (label.kind === 'gap' ? [label.gap] : []));
  }

  private async syncUnlessInGap(groupId: string): Promise<void> {
    try {
      await this.port.syncLog(groupId);
    } catch (error) {
      if (!(error instanceof EverpointError) || error.code !== 'CONFLICT') throw error;
    }
  }
}

/**
 * The segments that have entries, in the order of LSNs. Where two hold the same LSNs the one with the
 * higher number counts: the other one was given up, and ends before the first LSN of its successor.
 * One that has a map already keeps its end: a map cannot be cut, and who needs it finds the overlap.
 */
function withoutOverlap(segments: LogSegment[]): LogSegment[] {
  let limit = Infinity;
  let limitNs = 0n;
  const newestFirst = segments.sort((a, b) => b.segment - a.segment);
  for (const segment of newestFirst) {
    segment.superseded = !segment.sealed && limit !== Infinity;
    if (segment.lastLsn >= limit && !segment.mapped) {
      segment.lastLsn = limit - 1;
      segment.entries = Math.max(0, segment.lastLsn - segment.firstLsn + 1);
      segment.cut = true;
      if (segment.lastNs >= limitNs) segment.lastNs = limitNs - 1n;
    }
    if (segment.firstLsn < limit && segment.lastLsn >= segment.firstLsn) {
      limit = segment.firstLsn;
      limitNs = segment.firstNs;
    }
  }
  return newestFirst.reverse().filter((segment) => segment.lastLsn >= segment.firstLsn);
}

/**
 * The first LSN up to `lsn` that is in no segment though no gap explains why. LSNs go on without a
 * hole from epoch to epoch; only a gap skips some.
 */
export function missingLsn(
  log: Pick<LogSnapshot, 'segments' | 'gaps'>,
  lsn: number,
): number | undefined {
  let next = log.segments[0]?.firstLsn ?? 1;
  for (const segment of log.segments) {
    if (next > lsn) return undefined;
    if (segment.firstLsn > next && !explained(log.gaps, next, segment.firstLsn - 1)) return next;
    next = Math.max(next, segment.lastLsn + 1);
  }
  return next > lsn || explained(log.gaps, next, lsn) ? undefined : next;
}

/** Whether one gap holds all of these LSNs. */
function explained(gaps: readonly LogGap[], first: number, last: number): boolean {
  return gaps.some((gap) => gap.fromLsn < first && (gap.toLsn === undefined || gap.toLsn >= last));
}

/** The root folder of one of a group's devices. */
export function deviceRoot(group: Group, device: string): string {
  const found = group.definition.devices.find((one) => one.id === device);
  if (found !== undefined) return found.path;
  throw new EverpointError('NOT_FOUND', `The group ${group.name} has no device ${device}.`, {
    operation: 'find device',
    hint: 'Its log names a device that the group was not given; add it again.',
  });
}

function fromRecord(group: Group, record: SegmentRecord): LogSegment {
  const root = deviceRoot(group, record.device);
  return {
    segment: record.segment,
    device: record.device,
    relativePath: record.path,
    path: path.join(groupFolder(root, group.id), record.path),
    epoch: record.epoch,
    firstLsn: record.firstLsn,
    lastLsn: record.lastLsn,
    firstNs: parseTime(record.firstTime),
    lastNs: parseTime(record.lastTime),
    entries: record.entries,
    dataBytes: record.dataBytes,
    fileBytes: record.fileBytes,
    // Of one that was given up no seal is expected.
    sealed: record.reason !== 0,
    superseded: record.reason === 0,
    cut: false,
    mapped: true,
  };
}

function fromInfo(group: Group, info: SegmentInfo): LogSegment {
  const file = path.join(deviceRoot(group, info.device), info.path);
  const folder = groupFolder(deviceRoot(group, info.device), group.id);
  return {
    segment: info.segment,
    device: info.device,
    relativePath: path.relative(folder, file),
    path: file,
    epoch: info.epoch,
    firstLsn: info.firstLsn,
    lastLsn: info.lastLsn,
    firstNs: BigInt(info.firstTimeNs),
    lastNs: BigInt(info.lastTimeNs),
    entries: info.entries,
    dataBytes: info.dataBytes,
    fileBytes: info.fileBytes,
    sealed: info.sealed,
    superseded: false,
    cut: false,
    mapped: false,
  };
}
