// SPDX-License-Identifier: Apache-2.0
import path from 'node:path';
import { Inject, Injectable } from '@nestjs/common';
import { EverpointError } from '../common/errors.js';
import type { Group } from '../groups/stored-group.js';
import type { LogGap } from '../history/gaps.js';
import { deviceRoot, type LogSegment, type LogSnapshot, LogView } from '../history/log-view.js';
import { geometryAfter, type VolumeGeometry } from '../maps/geometry.js';
import { volumesAt } from '../maps/manifest-records.js';
import type { RestoreSource } from '../maps/restore.js';
import { groupFolder } from '../maps/segment/folder.js';
import type { SegmentLocation } from '../maps/segment-store.js';
import { WorkerPool } from '../workers/pool.js';

/** What adds up to a group's volumes at one LSN. */
export interface RestorePlan {
  /** The volumes as they are at that LSN. */
  volumes: VolumeGeometry[];
  sources: RestoreSource[];
  segments: SegmentLocation[];
}

/**
 * Finds the maps up to a point and the part of the log that stands behind them: maps that end at or
 * before it, then the segment that holds it, and every segment in between that has no map yet.
 */
@Injectable()
export class RestorePlanner {
  constructor(
    @Inject(LogView) private readonly logs: LogView,
    @Inject(WorkerPool) private readonly pool: WorkerPool,
  ) {}

  /** @throws CONFLICT when the log does not reach the LSN */
  async plan(group: Group, lsn: number): Promise<RestorePlan> {
    const log = await this.logs.snapshot(group, false);
    if (log.durableLsn < lsn) {
      throw (
        log.fault ??
        new EverpointError('CONFLICT', `The log of ${group.name} ends at LSN ${log.durableLsn}.`, {
          operation: 'plan restore',
          lsnRange: { first: log.durableLsn, last: lsn },
        })
      );
    }
    const sources = mapSources(group, log, lsn);
    const mapped = sources.at(-1)?.lastLsn ?? 0;
    const tail = log.segments.filter((one) => one.lastLsn > mapped && one.firstLsn <= lsn);
    for (const segment of tail) {
      sources.push({
        kind: 'segment',
        path: segment.path,
        sealed: segment.sealed,
        firstLsn: segment.firstLsn,
        lastLsn: Math.min(segment.lastLsn, lsn),
      });
    }
    demandWhole(group, sources, log.gaps, lsn);
    return {
      volumes: await this.volumes(log, tail, mapped, lsn),
      sources,
      segments: log.segments.map(({ device, segment, path: file, sealed, lastLsn }) => ({
        device,
        segment,
        path: file,
        sealed,
        ...(!sealed && { durableLsn: lastLsn }),
      })),
    };
  }

  private async volumes(
    log: LogSnapshot,
    tail: LogSegment[],
    mapped: number,
    lsn: number,
  ): Promise<VolumeGeometry[]> {
    let volumes = volumesAt(log.state, Math.min(mapped, lsn));
    for (const segment of tail) {
      const { path: file, sealed, lastLsn } = segment;
      const { labels } = await this.pool.run('readSegment', {
        path: file,
        sealed,
        ...(!sealed && { durableLsn: lastLsn }),
        lastLsn: Math.min(lastLsn, lsn),
      });
      volumes = geometryAfter(volumes, labels);
    }
    return volumes;
  }
}

/**
 * The engine takes what it is given for everything there is: a map or segment that is missing would
 * give older bytes without a word. So the sources must follow each other from the first LSN on, but
 * for LSNs that a gap skipped whose resync has put into the log what was lost.
 */
function demandWhole(
  group: Group,
  sources: RestoreSource[],
  gaps: readonly LogGap[],
  lsn: number,
): void {
  let next = 1;
  for (const { firstLsn, lastLsn } of sources) {
    const healed = gaps.some(
      (gap) =>
        gap.healed && gap.fromLsn < next && gap.toLsn !== undefined && gap.toLsn >= firstLsn - 1,
    );
    if (firstLsn < next || (firstLsn > next && !healed)) break;
    next = lastLsn + 1;
  }
  if (next > lsn) return;
  throw lacking(group, next, lsn);
}

function lacking(group: Group, next: number, lsn: number): EverpointError {
  return new EverpointError('CORRUPTION', `History of ${group.name} lacks LSN ${next}.`, {
    operation: 'plan restore',
    lsnRange: { first: next, last: lsn },
    hint: 'A log segment or map is missing on the device; points before that LSN are whole.',
  });
}

/** Level-0 maps that lie wholly at or before the point, oldest first. */
function mapSources(group: Group, log: LogSnapshot, lsn: number): RestoreSource[] {
  return [...log.state.maps.values()]
    .filter((map) => map.level === 0 && map.lastLsn <= lsn)
    .sort((a, b) => a.firstLsn - b.firstLsn)
    .map((map) => ({
      kind: 'map' as const,
      path: path.join(groupFolder(deviceRoot(group, map.device), group.id), map.path),
      firstLsn: map.firstLsn,
      lastLsn: map.lastLsn,
    }));
}
