// SPDX-License-Identifier: Apache-2.0
import { readdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { type BeforeApplicationShutdown, Inject, Injectable, Logger } from '@nestjs/common';
import { errnoOf, EverpointError } from '../common/errors.js';
import { ensureFolder, syncFolder } from '../common/files.js';
import { formatTime } from '../common/time.js';
import type { DataPlanePort, GroupStatus } from '../data-plane/port.js';
import { DATA_PLANE } from '../events/data-plane-events.js';
import { EventBus } from '../events/event-bus.js';
import { GroupDescriber } from '../groups/group-describer.js';
import { GroupService } from '../groups/group.service.js';
import { ManifestStore } from '../groups/manifest-store.js';
import { Serial } from '../groups/serial.js';
import type { Group } from '../groups/stored-group.js';
import type { SegmentSummary } from '../maps/build.js';
import { leavesOf } from '../maps/leaves.js';
import { mapPath, mapRelativePath } from '../maps/manifest.js';
import {
  type ManifestRecord,
  type ManifestState,
  type MapRecord,
  type SegmentRecord,
  volumesAt,
} from '../maps/manifest-records.js';
import type { MapHeader } from '../maps/map-format.js';
import { groupFolder } from '../maps/segment/folder.js';
import { MetricsService } from '../metrics/metrics.service.js';
import { WorkerPool } from '../workers/pool.js';
import { newGapRecords, settledGaps } from './gaps.js';
import { deviceRoot, type LogSegment, LogView } from './log-view.js';
import { recordsOfLabels } from './labels.js';

/** Events are hints; this is how often the keeper looks for itself. */
const LOOK_INTERVAL_MS = 5_000;
/** After a failed pass a group is left alone for so long, twice as long each time, up to the maximum. */
const RETRY_MS = 5_000;
const RETRY_MS_MAX = 300_000;
/** Everything from one segment. */
const LEVEL_ZERO_CLASS = 0;
/** No seal takes so long on a device that is well. */
const SEAL_MS_MAX = 30_000;

interface Trouble {
  error: Error;
  waitMs: number;
  until: number;
}

/**
 * Has a map made for every sealed segment and commits it to the group's manifest. It compares what is
 * sealed with what is mapped on every `sealed` event, at start and every few seconds, so a missed
 * event or an end of the service at any step costs time only:
 * - a map file without its record in the manifest was never announced: it is removed and made again;
 * - segment, map, markers, gaps and geometry of one segment are one commit.
 * Segments of one group are mapped in order, as each map names the one before it.
 */
@Injectable()
export class MapKeeper implements BeforeApplicationShutdown {
  private readonly logger = new Logger(MapKeeper.name);
  private readonly serial = new Serial();
  private readonly abort = new AbortController();
  private readonly waiting = new Set<string>();
  private readonly swept = new Set<string>();
  /** Deleted groups: nothing may be written into their folders any more. */
  private readonly gone = new Set<string>();
  /** Gaps that an event has told of, as open or as healed. */
  private readonly toldGaps = new Set<string>();
  /** When a segment was first seen unsealed though another one follows it. */
  private readonly unsealed = new Map<string, number>();
  private readonly troubles = new Map<string, Trouble>();
  private readonly unsubscribe: (() => void)[] = [];
  private timer: NodeJS.Timeout | undefined;

  constructor(
    @Inject(GroupService) private readonly groups: GroupService,
    @Inject(ManifestStore) private readonly manifests: ManifestStore,
    @Inject(LogView) private readonly logs: LogView,
    @Inject(WorkerPool) private readonly pool: WorkerPool,
    @Inject(DATA_PLANE) private readonly port: DataPlanePort,
    @Inject(EventBus) private readonly bus: EventBus,
    @Inject(MetricsService) metrics: MetricsService,
    @Inject(GroupDescriber) describer: GroupDescriber,
  ) {
    describer.addTroubles((groupId) => {
      const error = this.troubleOf(groupId);
      return error === undefined || passesByItself(error)
        ? undefined
        : `no maps are made: ${error.message}`;
    });
    const lag = metrics.gauge('group_map_lag_lsns', 'LSNs that are sealed and not mapped', [
      'group',
    ]);
    groups.onRemove(async (groupId) => {
      this.gone.add(groupId);
      await this.serial.run(groupId, () => Promise.resolve());
    });
    metrics.addCollector(() =>
      this.collectLag((name, value) => {
        lag.set({ group: name }, value);
      }),
    );
  }

  start(): void {
    this.unsubscribe.push(
      this.bus.on('sealed', ({ group }) => {
        this.kick(group);
      }),
      this.bus.on('gap', (gap) => {
        this.toldGaps.add(gapName(gap.group, gap));
        this.kick(gap.group);
      }),
      this.bus.on('group', ({ group }) => {
        this.troubles.delete(group);
        this.kick(group);
      }),
      this.bus.on('data-plane', ({ up }) => {
        if (up) this.troubles.clear();
        if (up) this.kickAll();
      }),
    );
    this.timer = setInterval(() => {
      this.kickAll();
    }, LOOK_INTERVAL_MS);
    this.kickAll();
  }

  async beforeApplicationShutdown(): Promise<void> {
    clearInterval(this.timer);
    for (const end of this.unsubscribe) end();
    this.abort.abort(new Error('the service ends'));
    const groups = await this.groups.list();
    await Promise.all(groups.map((group) => this.serial.run(group.id, () => Promise.resolve())));
  }

  /** Answers when everything up to `lsn`, which is sealed, is mapped. */
  async ensureMapped(group: Group, lsn: number): Promise<number> {
    await this.serial.run(group.id, () => this.pass(group));
    const mapped = (await this.manifests.state(group.definition)).mappedLsn;
    if (mapped >= lsn) return mapped;
    throw new EverpointError('BUSY', `Of ${group.name}, only LSN ${mapped} of ${lsn} is mapped.`, {
      operation: 'wait for maps',
      hint: 'The segment may have been sealed by a gap; see the group and its gaps.',
    });
  }

  /** Why the maps of a group are late, if they are. */
  troubleOf(groupId: string): Error | undefined {
    return this.troubles.get(groupId)?.error;
  }

  private kickAll(): void {
    this.groups.list().then(
      (groups) => {
        for (const group of groups) this.kick(group.id);
      },
      (error: unknown) => {
        this.logger.error(`groups cannot be listed: ${String(error)}`);
      },
    );
  }

  /** Has a group looked at soon; many kicks before that are one. */
  private kick(groupId: string): void {
    if (this.waiting.has(groupId) || this.abort.signal.aborted) return;
    const trouble = this.troubles.get(groupId);
    if (trouble !== undefined && performance.now() < trouble.until) return;
    this.waiting.add(groupId);
    void this.serial.run(groupId, async () => {
      this.waiting.delete(groupId);
      try {
        await this.pass(await this.groups.get(groupId));
        this.troubles.delete(groupId);
      } catch (error) {
        this.noteTrouble(groupId, error as Error);
      }
    });
  }

  private noteTrouble(groupId: string, error: Error): void {
    if (this.abort.signal.aborted || this.gone.has(groupId)) return;
    if (
      error instanceof EverpointError &&
      error.code === 'NOT_FOUND' &&
      error.operation === 'find group'
    ) {
      return;
    }
    const before = this.troubles.get(groupId);
    const waitMs = Math.min(RETRY_MS_MAX, (before?.waitMs ?? RETRY_MS / 2) * 2);
    this.troubles.set(groupId, { error, waitMs, until: performance.now() + waitMs });
    if (before?.error.message === error.message) return;
    const text = `maps of the group ${groupId} wait: ${error.message}`;
    // What passes by itself, like a data plane that starts, is no news.
    if (passesByItself(error)) this.logger.debug(text);
    else this.logger.warn(text);
  }

  /** One look at a group: gaps, markers of the tail, missing maps. */
  private async pass(group: Group): Promise<void> {
    if (this.gone.has(group.id)) return;
    await this.manifests.heal(group.definition);
    const log = await this.logs.snapshot(group, false);
    if (!this.swept.has(group.id)) await this.sweep(group, log.state);
    if (log.fault !== undefined) throw log.fault;
    const live = log.status?.gaps ?? [];
    await this.commit(group, newGapRecords(log.state.gaps, live));
    const tail = log.segments.filter((segment) => !segment.mapped);
    // The first segment that may still get entries, or its end: nothing behind it is mapped yet.
    const open = tail.find((one) => !one.sealed && !this.isGivenUp(group, one, log.status));
    const closed = open === undefined ? tail : tail.slice(0, tail.indexOf(open));
    for (const segment of closed) {
      this.abort.signal.throwIfAborted();
      await this.buildMap(group, segment);
    }
    if (!this.swept.has(group.id)) {
      for (const segment of tail.slice(closed.length)) await this.takeMarkers(group, segment);
    }
    if (open === undefined || open === tail.at(-1)) {
      const { gaps } = await this.manifests.state(group.definition);
      await this.commit(group, settledGaps(gaps, live, log.segments));
    }
    this.swept.add(group.id);
  }

  /**
   * Whether a segment that has a successor will never be sealed, as far as can be told: its device is
   * not well, or it has been so for longer than any seal takes. What is being sealed is waited for.
   */
  private isGivenUp(
    group: Group,
    { segment, superseded, device, cut }: LogSegment,
    status: GroupStatus | undefined,
  ): boolean {
    if (!superseded) return false;
    const found = status?.devices.find((one) => one.id === device);
    if (cut || (found !== undefined && found.state !== 'ok')) return true;
    const name = `${group.id}/${segment}`;
    const since = this.unsealed.get(name) ?? performance.now();
    this.unsealed.set(name, since);
    return performance.now() - since > SEAL_MS_MAX;
  }

  /** Commits, and tells of gaps that opened or were healed. */
  private async commit(group: Group, records: readonly ManifestRecord[]): Promise<void> {
    await this.manifests.commit(group.definition, records);
    for (const record of records) {
      if (record.kind !== 'gap' || record.toLsn === record.fromLsn) continue;
      const { fromLsn, toLsn, from, to, reason, healed } = record;
      const text = healed
        ? `the gap of ${group.name} from LSN ${fromLsn} is healed at LSN ${toLsn} (${from} to ${to}: ${reason})`
        : `${group.name} is in a gap since ${from}, after LSN ${fromLsn}: ${reason}`;
      this.logger.warn(text);
      // What happened while nobody listened to the data plane.
      const told = this.toldGaps.has(gapName(group.id, record));
      if (told) continue;
      const gap = { fromLsn, toLsn: toLsn ?? 0, from, to, reason, healed };
      this.bus.publish('gap', { group: group.id, ...gap });
    }
  }

  private async buildMap(group: Group, segment: LogSegment): Promise<void> {
    const state = await this.manifests.state(group.definition);
    const mapId = state.nextMapId;
    const folder = groupFolder(deviceRoot(group, segment.device), group.id);
    const outPath = mapPath(folder, mapId);
    await ensureFolder(path.dirname(outPath));
    await rm(outPath, { force: true });
    const built = await this.pool.run(
      'buildLevelZeroMap',
      {
        segmentPath: segment.path,
        ...(!segment.sealed && { sealed: false }),
        lastLsn: segment.lastLsn,
        outPath,
        group: group.id,
        device: segment.device,
        mapId,
        previousMap: lastMapId(state),
        expiryClass: LEVEL_ZERO_CLASS,
        geometryBefore: volumesAt(state, segment.firstLsn - 1),
      },
      { signal: this.abort.signal },
    );
    const records: ManifestRecord[] = [
      segmentRecord(segment, built.segment, built.map),
      ...recordsOfLabels(state, built.labels),
      mapRecord(built.map),
    ];
    const { firstLsn, lastLsn } = built.map;
    await this.commit(group, records);
    this.unsealed.delete(`${group.id}/${segment.segment}`);
    this.bus.publish('mapped', { group: group.id, firstLsn, lastLsn });
  }

  /** Markers that reached the log while nobody could write them into the manifest. */
  private async takeMarkers(group: Group, segment: LogSegment): Promise<void> {
    const { path: file, sealed, lastLsn } = segment;
    const { labels } = await this.pool.run('readSegment', {
      path: file,
      sealed,
      durableLsn: lastLsn,
      lastLsn,
    });
    const state = await this.manifests.state(group.definition);
    const markers = recordsOfLabels(state, labels).filter((record) => record.kind === 'marker');
    await this.manifests.commit(group.definition, markers);
  }

  /** Removes map files that an end of the service left without a record. */
  private async sweep(group: Group, state: ManifestState): Promise<void> {
    for (const device of group.definition.devices) {
      const folder = path.dirname(mapPath(groupFolder(device.path, group.id), 1));
      const known = new Set<string>();
      for (const map of state.maps.values()) {
        if (map.device === device.id) known.add(path.basename(map.path));
      }
      const names = await readdir(folder).catch((error: unknown) => {
        if (errnoOf(error) === 'ENOENT') return [];
        throw error;
      });
      const strays = names.filter((name) => !known.has(name));
      for (const name of strays) await rm(path.join(folder, name), { force: true });
      if (strays.length === 0) continue;
      await syncFolder(folder);
      this.logger.log(`removed ${strays.length} unfinished map files of the group ${group.name}`);
    }
  }

  private async collectLag(set: (name: string, value: number) => void): Promise<void> {
    for (const group of await this.groups.list()) {
      const status = await this.port.groupStatus(group.id).catch(() => undefined);
      if (status === undefined) continue;
      const mapped = (await this.manifests.state(group.definition)).mappedLsn;
      set(group.name, Math.max(0, status.sealedLsn - mapped));
    }
  }
}

function passesByItself(error: Error): boolean {
  return error instanceof EverpointError && error.retryable;
}

function gapName(group: string, gap: { fromLsn: number; healed: boolean }): string {
  return `${group}/${gap.fromLsn}/${gap.healed}`;
}

/** Of a segment that was given up, what its map has: the file may hold more. */
function segmentRecord(
  segment: LogSegment,
  summary: SegmentSummary,
  map: MapHeader,
): SegmentRecord {
  return {
    kind: 'segment',
    segment: summary.segment,
    device: summary.device,
    path: segment.relativePath,
    epoch: summary.epoch,
    firstLsn: map.firstLsn,
    lastLsn: map.lastLsn,
    firstTime: formatTime(map.firstTimeNs),
    lastTime: formatTime(map.lastTimeNs),
    entries: map.lastLsn - map.firstLsn + 1,
    dataBytes: summary.dataBytes,
    fileBytes: summary.fileBytes,
    sealedAt: formatTime(summary.sealedNs),
    reason: summary.reason,
  };
}

function mapRecord(map: MapHeader): MapRecord {
  return {
    kind: 'map',
    id: map.id,
    device: map.device,
    path: mapRelativePath(map.id),
    level: map.level,
    expiryClass: map.expiryClass,
    firstLsn: map.firstLsn,
    lastLsn: map.lastLsn,
    firstTime: formatTime(map.firstTimeNs),
    lastTime: formatTime(map.lastTimeNs),
    previous: map.previous,
    firstChild: map.firstChild,
    extents: map.extents,
    dataSectors: map.dataSectors,
    fileBytes: map.fileBytes,
  };
}

function lastMapId(state: ManifestState): number {
  return leavesOf(state.maps.values()).at(-1)?.id ?? 0;
}
