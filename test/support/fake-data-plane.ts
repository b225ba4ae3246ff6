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
  DeviceStatus,
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
import {
  ENTRY_FLAG_RESYNC,
  ENTRY_FLAG_SECONDARY,
  EntryType,
  GeometryAction,
  SealReason,
} from '../../src/maps/segment/format.js';
import {
  encodeGapPayload,
  encodeGeometryPayload,
  encodeMarkerPayload,
  encodeSegment,
  type EntryContent,
} from './segment-writer.js';

const SECTOR = 512;

interface FakeSegment {
  number: number;
  device: GroupDefinition['devices'][number];
  epoch: number;
  createdNs: bigint;
  firstLsn: number;
  batches: EntryContent[][];
  pending: EntryContent[];
  sealedNs: bigint | undefined;
  reason: SealReason;
  /** How many of its entries still count, of one whose device failed. */
  givenUp: number | undefined;
  fileBytes: number;
}

interface FakeGroup {
  definition: GroupDefinition;
  state: GroupState;
  reason: string;
  lsn: number;
  lastNs: bigint;
  /** Entry i has LSN i + 1; LSNs that a gap lost have none. */
  entries: (EntryContent | undefined)[];
  epoch: number;
  /** What a guest wrote while nothing was logged: its resync logs it. */
  missed: Omit<EntryContent, 'timeNs'>[];
  segments: FakeSegment[];
  gaps: GapInfo[];
  resync: GroupStatus['resync'];
  pressure: number;
  trouble: string;
  devices: DeviceStatus[];
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

  /** Protection stops: what is written from now on is not logged, and takes no LSN. */
  openGap(group: string, reason: string, state: 'gap' | 'paused' = 'gap'): void {
    const found = this.find(group);
    const open = openGapOf(found);
    if (open === undefined) this.publish(found);
    else found.segments.at(-1)!.pending = [];
    this.setState(found, state, reason);
    found.resync = null;
    if (open !== undefined) {
      open.reason = reason;
      this.emit({ kind: 'gap', group, gap: { ...open } });
      return;
    }
    const fromNs = found.lastNs.toString();
    const gap = { fromLsn: found.lsn, toLsn: 0, fromNs, toNs: '0', reason, healed: false };
    found.gaps.push(gap);
    this.emit({ kind: 'gap', group, gap: { ...gap } });
  }

  /**
   * The group logs again, in a new epoch that begins in its gap; `lost` LSNs were taken by the old one
   * and are in no log.
   */
  beginResync(group: string, lost = 0): void {
    const found = this.find(group);
    this.beginEpoch(found, lost);
    const open = openGapOf(found)!;
    this.addGap(found, open);
    const leftBytes = found.missed.reduce((sum, one) => sum + one.sectors * SECTOR, 0);
    found.resync = { leftBytes, totalBytes: leftBytes };
    this.setState(found, 'resyncing', `resync after: ${open.reason}`);
  }

  /** Logs what the gap missed, without an end of the gap yet. */
  resyncMissed(group: string): void {
    const found = this.find(group);
    for (const one of found.missed.splice(0)) this.add(group, { ...one, flags: ENTRY_FLAG_RESYNC });
    if (found.resync !== null) found.resync.leftBytes = 0;
    this.publish(found);
  }

  /** Ends the resync: the gap's end and what the data plane logs right behind it. */
  endResync(group: string): GapInfo {
    const found = this.find(group);
    this.resyncMissed(group);
    const gap = openGapOf(found)!;
    const time = this.nextTime(found);
    gap.toLsn = found.lsn + 1;
    gap.toNs = time.toString();
    gap.healed = true;
    this.addGap(found, gap, time);
    found.resync = null;
    this.add(group, { type: EntryType.flush, volume: 0, sectors: 0, sector: found.lsn });
    this.publish(found);
    this.setState(found, 'protected', '');
    this.emit({ kind: 'gap', group, gap: { ...gap } });
    return gap;
  }

  heal(group: string, lost = 0): GapInfo {
    this.beginResync(group, lost);
    return this.endResync(group);
  }

  /** The data plane ended and was started again: it knows its open gaps alone. */
  restart(): void {
    for (const found of this.groups.values()) {
      this.publish(found);
      this.sealActive(found, SealReason.recovery);
      found.gaps = found.gaps.filter((gap) => !gap.healed);
      if (found.state === 'protected') found.epoch += 1;
    }
  }

  /**
   * The active segment's device failed: what stands in it stays as it is, without an end, and the log
   * goes on in a new segment on another device. `again` of its last batches are written there too,
   * as their sync had failed.
   */
  moveLog(group: string, again = 0): void {
    const found = this.find(group);
    this.publish(found);
    const old = found.segments.at(-1)!;
    const moved = old.batches.slice(old.batches.length - again);
    const kept = publishedEntries(old).length - moved.flat().length;
    const devices = found.definition.devices;
    const device = devices[(devices.indexOf(old.device) + 1) % devices.length]!;
    old.givenUp = kept;
    found.devices = found.devices.map((one) =>
      one.id === old.device.id ? { ...one, state: 'failed', reason: 'input/output error' } : one,
    );
    const firstLsn = old.firstLsn + kept;
    const segment = { ...newSegment(old.number + 1, device, found, firstLsn), batches: moved };
    found.segments.push(segment);
    this.add(group, {
      type: EntryType.error,
      flags: ENTRY_FLAG_SECONDARY,
      volume: 0,
      sectors: 0,
      sector: old.number,
    });
    this.publish(found);
  }

  /** How the log of a group fares: pressure, trouble, one device's state. */
  setLog(group: string, log: { pressure?: number; trouble?: string; device?: DeviceStatus }): void {
    const found = this.find(group);
    found.pressure = log.pressure ?? found.pressure;
    found.trouble = log.trouble ?? found.trouble;
    const { device } = log;
    if (device === undefined) return;
    found.devices = found.devices.map((one) => (one.id === device.id ? device : one));
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
      if (entry?.volume !== volume) continue;
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
        epoch: 1,
        missed: [],
        resync: null,
        pressure: 0,
        trouble: '',
        devices: definition.devices.map(({ id }) => ({ id, state: 'ok', reason: '' })),
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

  pauseGroup(id: string): Promise<GroupStatus> {
    return this.answer(() => {
      const group = this.findOpen(id);
      if (group.state !== 'paused') this.openGap(id, 'paused by request', 'paused');
      return this.statusOf(group);
    });
  }

  resumeGroup(id: string): Promise<GroupStatus> {
    return this.answer(() => {
      const group = this.findOpen(id);
      if (group.state !== 'paused') throw fault('CONFLICT', 'it is not paused');
      this.beginResync(id);
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
      this.sealActive(group, SealReason.request);
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
    if (group.state === 'gap' || group.state === 'paused') {
      group.missed.push(content);
      return 0;
    }
    return this.append(group, { ...content, timeNs: this.nextTime(group) });
  }

  private nextTime(group: FakeGroup): bigint {
    const now = nowNs();
    group.lastNs = now > group.lastNs ? now : group.lastNs + 1n;
    return group.lastNs;
  }

  private append(group: FakeGroup, entry: EntryContent): number {
    group.lsn += 1;
    group.entries.push(entry);
    let active = group.segments.at(-1);
    const usable =
      active?.sealedNs === undefined &&
      active?.epoch === group.epoch &&
      active.firstLsn + publishedEntries(active).length + active.pending.length === group.lsn;
    if (active === undefined || !usable) {
      const device = active?.device ?? group.definition.devices[0]!;
      active = newSegment((active?.number ?? 0) + 1, device, group, group.lsn);
      group.segments.push(active);
    }
    active.pending.push(entry);
    return group.lsn;
  }

  private addGap(group: FakeGroup, gap: GapInfo, timeNs = this.nextTime(group)): void {
    const { fromLsn, toLsn, reason } = gap;
    const times = { fromNs: BigInt(gap.fromNs), toNs: BigInt(gap.toNs) };
    const payload = encodeGapPayload({ fromLsn, toLsn, ...times, reason });
    this.append(group, { type: EntryType.gap, volume: 0, sectors: 1, sector: 0, payload, timeNs });
    this.publish(group);
  }

  private beginEpoch(group: FakeGroup, lost: number): void {
    this.sealActive(group, SealReason.gap);
    for (let i = 0; i < lost; i += 1) group.entries.push(undefined);
    group.lsn += lost;
    group.epoch += 1;
  }

  private sealActive(group: FakeGroup, reason: SealReason): void {
    const active = group.segments.at(-1);
    if (active === undefined || active.sealedNs !== undefined) return;
    active.sealedNs = nowNs();
    active.reason = reason;
    this.writeFile(group, active);
    const segment = segmentInfo(group, active);
    this.emit({ kind: 'sealed', group: group.definition.id, segment });
  }

  private setState(group: FakeGroup, state: GroupState, reason: string): void {
    group.state = state;
    group.reason = reason;
    this.emit({ kind: 'state', group: group.definition.id, state, reason });
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
    const { id } = group.definition;
    const { device } = segment;
    const bytes = encodeSegment({
      header: {
        group: id,
        device: device.id,
        segment: segment.number,
        epoch: segment.epoch,
        firstLsn: segment.firstLsn,
        createdNs: segment.createdNs,
        capacityBytes: 8 * 1024 * 1024,
      },
      batches: segment.batches,
      ...(segment.sealedNs !== undefined && {
        seal: { sealedNs: segment.sealedNs, reason: segment.reason },
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
    const writes = group.entries.filter((entry) => entry?.type === EntryType.write);
    const open = openGapOf(group);
    return {
      id: definition.id,
      name: definition.name,
      state: group.state,
      reason: group.reason,
      definition: structuredClone(definition),
      lsn: group.lsn,
      durableLsn: durableLsn(group),
      sealedLsn: sealedLsn(group),
      epoch: group.epoch,
      lastTimeNs: group.lastNs.toString(),
      rpoSeconds: open === undefined ? 0 : Number(nowNs() - BigInt(open.fromNs)) / 1e9,
      logBytes: group.segments.reduce((sum, segment) => sum + segment.fileBytes, 0),
      buffer: {
        kind: definition.logBuffer.kind,
        path: '',
        bytes: 0,
        usedBytes: 0,
        durable: definition.logBuffer.kind !== 'tmpfs',
      },
      logPressure: group.pressure,
      logTrouble: group.trouble,
      devices: group.devices,
      gaps: group.gaps,
      resync: group.resync,
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
        logMoves: 0,
        gaps: group.gaps.length,
        resyncBytes: 0,
        throttledMs: 0,
      },
    };
  }
}

function refuseInGap(group: FakeGroup): void {
  if (group.state === 'protected') return;
  // As in-process.ts answers what the addon says.
  const text = `protection is interrupted after LSN ${group.lsn}: ${group.reason}`;
  throw fault('CONFLICT', text, 'wait until the gap is healed');
}

function openGapOf(group: FakeGroup): GapInfo | undefined {
  return group.gaps.find((gap) => gap.toLsn === 0);
}

function newSegment(
  number: number,
  device: FakeSegment['device'],
  group: FakeGroup,
  firstLsn: number,
): FakeSegment {
  return {
    number,
    device,
    epoch: group.epoch,
    createdNs: group.lastNs,
    firstLsn,
    batches: [],
    pending: [],
    sealedNs: undefined,
    reason: SealReason.request,
    givenUp: undefined,
    fileBytes: 0,
  };
}

function publishedEntries(segment: FakeSegment): EntryContent[] {
  return segment.batches.flat().slice(0, segment.givenUp);
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
  const { id } = group.definition;
  return {
    segment: segment.number,
    device: segment.device.id,
    path: path.join('groups', id, relativePath(segment)),
    epoch: segment.epoch,
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
