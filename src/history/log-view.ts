// SPDX-License-Identifier: Apache-2.0
import path from 'node:path';
import { Inject, Injectable } from '@nestjs/common';
import { EverpointError } from '../common/errors.js';
import { parseTime } from '../common/time.js';
import type { DataPlanePort, GapInfo, GroupStatus, SegmentInfo } from '../data-plane/port.js';
import { DATA_PLANE } from '../events/data-plane-events.js';
import { ManifestStore } from '../groups/manifest-store.js';
import type { Group } from '../groups/stored-group.js';
import type { GapRecord, ManifestState, SegmentRecord } from '../maps/manifest-records.js';
import { groupFolder } from '../maps/segment/folder.js';

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
  /** Its map is in place. */
  mapped: boolean;
}

/** (fromLsn, toLsn] was not protected; without toLsn it still lasts. */
export interface LogGap {
  fromLsn: number;
  toLsn: number | undefined;
  fromNs: bigint;
  toNs: bigint | undefined;
  reason: string;
  healed: boolean;
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
  constructor(
    @Inject(DATA_PLANE) private readonly port: DataPlanePort,
    @Inject(ManifestStore) private readonly manifests: ManifestStore,
  ) {}

  /**
   * @param sync also has everything that was taken before the call made durable, so that it counts
   */
  async snapshot(group: Group, sync: boolean): Promise<LogSnapshot> {
    const state = await this.manifests.state(group.definition);
    const after = Math.max(0, ...state.segments.keys());
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
    // Maps may have come into place in the meantime: the manifest is looked at after the data plane.
    const segments = [...state.segments.values()].map((record) => fromRecord(group, record));
    for (const info of tail) {
      if (!state.segments.has(info.segment)) segments.push(fromInfo(group, info));
    }
    const filled = segments.filter((segment) => segment.lastLsn >= segment.firstLsn);
    filled.sort((a, b) => a.firstLsn - b.firstLsn);
    return {
      state,
      status,
      fault,
      segments: filled,
      gaps: gapsOf(state.gaps, status?.gaps ?? []),
      durableLsn: filled.at(-1)?.lastLsn ?? 0,
    };
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
    sealed: true,
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
    mapped: false,
  };
}

/** The data plane's word on a gap is newer than the manifest's. */
function gapsOf(recorded: readonly GapRecord[], live: readonly GapInfo[]): LogGap[] {
  const gaps = new Map<number, LogGap>();
  for (const gap of recorded) {
    gaps.set(gap.fromLsn, {
      fromLsn: gap.fromLsn,
      toLsn: gap.toLsn ?? undefined,
      fromNs: parseTime(gap.from),
      toNs: gap.to === null ? undefined : parseTime(gap.to),
      reason: gap.reason,
      healed: gap.healed,
    });
  }
  for (const gap of live) {
    const open = gap.toLsn === 0;
    gaps.set(gap.fromLsn, {
      fromLsn: gap.fromLsn,
      toLsn: open ? undefined : gap.toLsn,
      fromNs: BigInt(gap.fromNs),
      toNs: open ? undefined : BigInt(gap.toNs),
      reason: gap.reason,
      healed: gap.healed,
    });
  }
  return [...gaps.values()].sort((a, b) => a.fromLsn - b.fromLsn);
}
