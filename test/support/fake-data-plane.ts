// SPDX-License-Identifier: Apache-2.0

/**
 * A data plane for tests of the control plane: it keeps groups in memory, writes real segment files,
 * and has a model of every volume (a naive replay of its own entries) to compare restores with. It
 * outlives the control planes that a test starts and ends on it, as the real one does.
 */

import { randomUUID } from 'node:crypto';
import { existsSync, mkdirSync, renameSync, truncateSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { EverpointError, type ErrorCode } from '../../src/common/errors.js';
import { nowNs } from '../../src/common/time.js';
import { DataPlaneUnavailableError } from '../../src/data-plane/errors.js';
import { failedStatus } from '../../src/data-plane/group-status.js';
import type {
  DataPlaneEvent,
  DataPlaneInfo,
  DataPlanePort,
  GapInfo,
  GroupChange,
  GroupDefinition,
  GroupState,
  GroupStatus,
  MarkerRequest,
  MarkerResult,
  SegmentInfo,
} from '../../src/data-plane/port.js';
import { groupFolder, segmentRelativePath } from '../../src/maps/segment/folder.js';
import { EntryType, GeometryAction, SealReason } from '../../src/maps/segment/format.js';
import {
  encodeGeometryPayload,
  encodeMarkerPayload,
  encodeSegment,
  type EntryContent,
} from './segment-writer.js';

const SECTOR = 512;

interface FakeSegment {
  number: number;
  createdNs: bigint;
  firstLsn: number;
  batches: EntryContent[][];
  pending: EntryContent[];
  sealedNs: bigint | undefined;
  fileBytes: number;
}

interface FakeGroup {
  definition: GroupDefinition;
  state: GroupState;
  reason: string;
  lsn: number;
  lastNs: bigint;
  /** Entry i has LSN i + 1; those of a lost stretch are not in any segment. */
  entries: EntryContent[];
  segments: FakeSegment[];
  gaps: GapInfo[];
  connected: boolean;
  /** Why the group is not open. */
  failure: string | undefined;
}

function fault(code: ErrorCode, message: string, hint?: string): EverpointError {
  return new EverpointError(code, message, { operation: 'fake data plane', hint });
}

export class FakeDataPlane implements DataPlanePort {
  /** While false every call fails as with a data plane that died. */
  up = true;
  /** Thrown by the next createGroup. */
  failNextCreation: EverpointError | undefined;
  /** Called in the middle of the next createGroup: to die there. */
  onNextCreation: (() => void) | undefined;
  readonly groups = new Map<string, FakeGroup>();
  private readonly listeners = new Set<(event: DataPlaneEvent) => void>();

  // --- what a guest or a fault does ---

  write(group: string, volume: number, sector: number, payload: Buffer): number {
    return this.add(group, {
      type: EntryType.write,
      volume,
      sectors: payload.length / SECTOR,
      sector,
      payload,
    });
  }

  zero(group: string, volume: number, sector: number, sectors: number, discard: boolean): number {
    const type = discard ? EntryType.discard : EntryType.writeZeroes;
    return this.add(group, { type, volume, sectors, sector });
  }

  flush(group: string, volume: number): number {
    const { lsn } = this.find(group);
    return this.add(group, { type: EntryType.flush, volume, sectors: 0, sector: lsn });
  }

  connect(group: string, connected: boolean): void {
    this.find(group).connected = connected;
  }

  /** The group cannot be opened, as with a primary that is away; nothing: it is open again. */
  fail(group: string, failure: string | undefined): void {
    this.find(group).failure = failure;
  }

  /** A segment is gone, file and all, and nobody says so. */
  loseSegment(group: string, number: number): void {
    const found = this.find(group);
    found.segments = found.segments.filter((segment) => segment.number !== number);
  }

  /** Protection stops: what is written from now on is lost to history, and takes no LSN. */
  openGap(group: string, reason: string): void {
    const found = this.find(group);
    this.publish(found);
    found.state = 'gap';
    found.reason = reason;
    const fromNs = found.lastNs.toString();
    const gap = { fromLsn: found.lsn, toLsn: 0, fromNs, toNs: '0', reason, healed: false };
    found.gaps.push(gap);
    this.emit({ kind: 'gap', group, gap });
    this.emit({ kind: 'state', group, state: 'gap', reason });
  }

  /** The data plane goes away, or comes back. */
  setUp(up: boolean): void {
    this.up = up;
    this.emit({ kind: 'link', up });
  }

  /** The volume as a replay of the group's entries, one at a time, leaves it at an LSN. */
  model(group: string, volume: number, lsn: number): Buffer {
    const { definition, entries } = this.find(group);
    const size = definition.volumes.find((one) => one.number === volume)?.primary.sizeBytes ?? 0;
    const disk = Buffer.alloc(size);
    for (const entry of entries.slice(0, lsn)) {
      if (entry.volume !== volume) continue;
      const at = entry.sector * SECTOR;
      if (entry.type === EntryType.write) entry.payload?.copy(disk, at);
      const zeroes = entry.type === EntryType.discard || entry.type === EntryType.writeZeroes;
      if (zeroes) disk.fill(0, at, at + entry.sectors * SECTOR);
    }
    return disk;
  }

  timeOf(group: string, lsn: number): bigint {
    return this.find(group).entries[lsn - 1]?.timeNs ?? 0n;
  }

  // --- the port ---

  info(): Promise<DataPlaneInfo> {
    return this.answer(() => ({
      version: 'fake',
      pid: process.pid,
      uptimeSeconds: 1,
      reactors: 1,
      build: { uring: false, pmem: false, spdk: false, sanitizer: 'none' },
      notes: [],
    }));
  }

  listGroups(): Promise<GroupStatus[]> {
    return this.answer(() => [...this.groups.values()].map((group) => this.statusOf(group)));
  }

  groupStatus(group: string): Promise<GroupStatus> {
    return this.answer(() => this.statusOf(this.find(group)));
  }

  createGroup(request: GroupDefinition): Promise<GroupStatus> {
    return this.answer(() => {
      const failure = this.failNextCreation;
      this.failNextCreation = undefined;
      if (failure !== undefined) throw failure;
      const halfWay = this.onNextCreation;
      this.onNextCreation = undefined;
      if (halfWay !== undefined) {
        halfWay();
        throw new DataPlaneUnavailableError('fake', 'the data plane went away');
      }
      const definition = structuredClone(request);
      for (const volume of definition.volumes) {
        const { primary } = volume;
        if (primary.create !== true) continue;
        if (existsSync(primary.path)) throw fault('ALREADY_EXISTS', `${primary.path} exists`);
        writeFileSync(primary.path, '');
        truncateSync(primary.path, primary.sizeBytes);
        delete primary.create;
      }
      const group: FakeGroup = {
        definition,
        state: 'protected',
        reason: '',
        lsn: 0,
        lastNs: 0n,
        entries: [],
        segments: [],
        gaps: [],
        connected: false,
        failure: undefined,
      };
      this.groups.set(definition.id, group);
      for (const volume of definition.volumes) this.addGeometry(definition.id, volume);
      this.publish(group);
      return this.statusOf(group);
    });
  }

  updateGroup(id: string, change: GroupChange): Promise<GroupStatus> {
    return this.answer(() => {
      const group = this.find(id);
      Object.assign(group.definition, change);
      return this.statusOf(group);
    });
  }

  reopenGroup(group: string): Promise<GroupStatus> {
    return this.groupStatus(group);
  }

  deleteGroup(id: string, options: { force?: boolean }): Promise<void> {
    return this.answer(() => {
      const group = this.find(id);
      if (group.connected && options.force !== true)
        throw fault('BUSY', 'a front-end is connected');
      this.groups.delete(id);
    });
  }

  addMarker(id: string, marker: MarkerRequest): Promise<MarkerResult> {
    return this.answer(() => {
      const group = this.findOpen(id);
      refuseInGap(group);
      const { label, keepUntilNs } = marker;
      const forever = keepUntilNs === 'forever';
      const keep = forever ? 0xffff_ffff_ffff_ffffn : BigInt(keepUntilNs ?? 0);
      const payload = encodeMarkerPayload({ keepUntilNs: keep, label });
      const lsn = this.add(id, {
        type: EntryType.marker,
        volume: 0,
        sectors: 1,
        sector: 0,
        payload,
      });
      this.publish(group);
      return { lsn, timeNs: group.lastNs.toString() };
    });
  }

  syncLog(id: string): Promise<{ durableLsn: number }> {
    return this.answer(() => {
      const group = this.findOpen(id);
      refuseInGap(group);
      this.publish(group);
      return { durableLsn: group.lsn };
    });
  }

  seal(id: string): Promise<{ sealedLsn: number }> {
    return this.answer(() => {
      const group = this.findOpen(id);
      refuseInGap(group);
      this.publish(group);
      const active = group.segments.at(-1);
      if (active !== undefined && active.sealedNs === undefined) {
        active.sealedNs = nowNs();
        this.writeFile(group, active);
        this.emit({ kind: 'sealed', group: id, segment: segmentInfo(group, active) });
      }
      return { sealedLsn: sealedLsn(group) };
    });
  }

  listSegments(id: string, after: number): Promise<SegmentInfo[]> {
    return this.answer(() => {
      const group = this.findOpen(id);
      const published = group.segments.filter((one) => one.number > after && one.fileBytes > 0);
      return published.map((segment) => segmentInfo(group, segment));
    });
  }

  shutdown(): Promise<void> {
    return Promise.resolve();
  }

  onEvent(listener: (event: DataPlaneEvent) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  // --- inside ---

  private async answer<T>(work: () => T): Promise<T> {
    await Promise.resolve();
    if (!this.up) throw new DataPlaneUnavailableError('fake', 'the data plane is not running');
    return work();
  }

  private emit(event: DataPlaneEvent): void {
    for (const listener of this.listeners) listener(event);
  }

  private find(id: string): FakeGroup {
    const group = this.groups.get(id);
    if (group === undefined) throw fault('NOT_FOUND', `no group ${id}`);
    return group;
  }

  private findOpen(id: string): FakeGroup {
    const group = this.find(id);
    if (group.failure === undefined) return group;
    throw fault('BUSY', `group ${group.definition.name} is not open: ${group.failure}`);
  }

  private addGeometry(id: string, volume: GroupDefinition['volumes'][number]): void {
    const payload = encodeGeometryPayload({
      action: GeometryAction.add,
      blockBytes: volume.blockSize,
      sizeBytes: volume.primary.sizeBytes ?? 0,
      name: volume.name,
    });
    const { number } = volume;
    this.add(id, { type: EntryType.geometry, volume: number, sectors: 1, sector: 0, payload });
  }

  private add(id: string, content: Omit<EntryContent, 'timeNs'>): number {
    const group = this.find(id);
    if (group.state === 'gap') return 0;
    const now = nowNs();
    group.lastNs = now > group.lastNs ? now : group.lastNs + 1n;
    group.lsn += 1;
    const entry = { ...content, timeNs: group.lastNs };
    group.entries.push(entry);
    let active = group.segments.at(-1);
    if (active === undefined || active.sealedNs !== undefined) {
      active = {
        number: (active?.number ?? 0) + 1,
        createdNs: group.lastNs,
        firstLsn: group.lsn,
        batches: [],
        pending: [],
        sealedNs: undefined,
        fileBytes: 0,
      };
      group.segments.push(active);
    }
    active.pending.push(entry);
    return group.lsn;
  }

  /** Makes what is pending durable, as one batch. */
  private publish(group: FakeGroup): void {
    const active = group.segments.at(-1);
    if (active === undefined || active.pending.length === 0) return;
    active.batches.push(active.pending);
    active.pending = [];
    this.writeFile(group, active);
  }

  private writeFile(group: FakeGroup, segment: FakeSegment): void {
    const { id, devices } = group.definition;
    const device = devices[0] ?? { id: '', path: '' };
    const bytes = encodeSegment({
      header: {
        group: id,
        device: device.id,
        segment: segment.number,
        epoch: 1,
        firstLsn: segment.firstLsn,
        createdNs: segment.createdNs,
        capacityBytes: 8 * 1024 * 1024,
      },
      batches: segment.batches,
      ...(segment.sealedNs !== undefined && {
        seal: { sealedNs: segment.sealedNs, reason: SealReason.request },
      }),
    });
    const file = path.join(groupFolder(device.path, id), relativePath(segment));
    mkdirSync(path.dirname(file), { recursive: true });
    const temporary = `${file}.${randomUUID()}`;
    writeFileSync(temporary, bytes);
    renameSync(temporary, file);
    segment.fileBytes = bytes.length;
  }

  private statusOf(group: FakeGroup): GroupStatus {
    const { definition } = group;
    if (group.failure !== undefined) return failedStatus(definition, group.failure);
    const writes = group.entries.filter((entry) => entry.type === EntryType.write);
    return {
      id: definition.id,
      name: definition.name,
      state: group.state,
      reason: group.reason,
      definition: structuredClone(definition),
      lsn: group.lsn,
      durableLsn: durableLsn(group),
      sealedLsn: sealedLsn(group),
      epoch: 1,
      lastTimeNs: group.lastNs.toString(),
      rpoSeconds: 0,
      logBytes: group.segments.reduce((sum, segment) => sum + segment.fileBytes, 0),
      buffer: { kind: 'tmpfs', path: '', bytes: 0, usedBytes: 0 },
      gaps: group.gaps,
      volumes: definition.volumes.map((volume) => ({
        number: volume.number,
        name: volume.name,
        sizeBytes: volume.primary.sizeBytes ?? 0,
        dirtyRegions: 0,
        exports: volume.exports.map((one) => ({
          kind: one.kind,
          path: one.path,
          connected: group.connected,
          connections: group.connected ? 1 : 0,
          requests: writes.length,
          readBytes: 0,
          writeBytes: 0,
          errors: 0,
          malformed: 0,
          resubmitted: 0,
          inFlight: 0,
        })),
      })),
      counters: {
        writes: writes.length,
        writeBytes: 0,
        reads: 0,
        flushes: 0,
        discards: 0,
        writeZeroes: 0,
        markers: 0,
        batches: 0,
        overlapWaits: 0,
        bufferWaits: 0,
        primaryErrors: 0,
        logErrors: 0,
      },
    };
  }
}

function refuseInGap(group: FakeGroup): void {
  if (group.state !== 'gap') return;
  // As in-process.ts answers what the addon says.
  const text = `protection is interrupted after LSN ${group.lsn}: ${group.reason}`;
  throw fault('CONFLICT', text, 'wait until the gap is healed');
}

function publishedEntries(segment: FakeSegment): EntryContent[] {
  return segment.batches.flat();
}

function durableLsn(group: FakeGroup): number {
  const last = group.segments.findLast((segment) => segment.batches.length > 0);
  return last === undefined ? 0 : last.firstLsn + publishedEntries(last).length - 1;
}

function sealedLsn(group: FakeGroup): number {
  const last = group.segments.findLast((segment) => segment.sealedNs !== undefined);
  return last === undefined ? 0 : last.firstLsn + publishedEntries(last).length - 1;
}

function relativePath(segment: FakeSegment): string {
  return segmentRelativePath(segment.number, segment.createdNs);
}

function segmentInfo(group: FakeGroup, segment: FakeSegment): SegmentInfo {
  const entries = publishedEntries(segment);
  const { id, devices } = group.definition;
  return {
    segment: segment.number,
    device: devices[0]?.id ?? '',
    path: path.join('groups', id, relativePath(segment)),
    epoch: 1,
    firstLsn: segment.firstLsn,
    lastLsn: segment.firstLsn + entries.length - 1,
    firstTimeNs: (entries[0]?.timeNs ?? 0n).toString(),
    lastTimeNs: (entries.at(-1)?.timeNs ?? 0n).toString(),
    entries: entries.length,
    dataBytes: entries.reduce((sum, entry) => sum + (entry.payload?.length ?? 0), 0),
    fileBytes: segment.fileBytes,
    sealed: segment.sealedNs !== undefined,
  };
}
