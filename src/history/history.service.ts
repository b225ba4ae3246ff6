// SPDX-License-Identifier: Apache-2.0
import { Inject, Injectable } from '@nestjs/common';
import { HistoryRepository } from '../catalog/history.repository.js';
import type { MapTable } from '../catalog/schema.js';
import { SECTOR_BYTES } from '../common/limits.js';
import { parseMoment } from '../common/moments.js';
import { pageOf, type PageQuery } from '../common/rest/fields.js';
import { InvalidFieldsError } from '../common/rest/problem.js';
import { formatTime, nowNs, parseTime } from '../common/time.js';
import type { DataPlanePort } from '../data-plane/port.js';
import { DATA_PLANE } from '../events/data-plane-events.js';
import type { Group } from '../groups/stored-group.js';
import type {
  GapAnswer,
  MapAnswer,
  RangeQuery,
  RecoveryPointAnswer,
  SealAnswer,
  SegmentAnswer,
} from './history.dto.js';
import { isInGap } from './gaps.js';
import { type LogSegment, LogView } from './log-view.js';
import { MapKeeper } from './map-keeper.js';
import { MarkerService } from './marker.service.js';

/** Shows the log and the hierarchy as they are, and seals. */
@Injectable()
export class HistoryService {
  constructor(
    @Inject(DATA_PLANE) private readonly port: DataPlanePort,
    @Inject(HistoryRepository) private readonly history: HistoryRepository,
    @Inject(LogView) private readonly logs: LogView,
    @Inject(MapKeeper) private readonly keeper: MapKeeper,
    @Inject(MarkerService) private readonly markers: MarkerService,
  ) {}

  /** Answers when the map of the segment that was sealed is in place. */
  async seal(group: Group): Promise<SealAnswer> {
    const { sealedLsn } = await this.port.seal(group.id);
    const mappedLsn = await this.keeper.ensureMapped(group, sealedLsn);
    return { sealedLsn, mappedLsn };
  }

  async segments(group: Group, page: PageQuery): Promise<SegmentAnswer[]> {
    const { segments } = await this.logs.snapshot(group, false);
    return pageOf(segments.map(segmentAnswer), page, (segment) => segment.id);
  }

  async maps(group: Group, page: PageQuery): Promise<MapAnswer[]> {
    return (await this.history.maps(group.id, page)).map(mapAnswer);
  }

  async gaps(group: Group): Promise<GapAnswer[]> {
    const { gaps } = await this.logs.snapshot(group, false);
    return gaps.map((gap) => ({
      fromLsn: gap.fromLsn,
      toLsn: gap.toLsn ?? null,
      from: formatTime(gap.fromNs),
      to: gap.toNs === undefined ? null : formatTime(gap.toNs),
      reason: gap.reason,
      healed: gap.healed,
    }));
  }

  /**
   * The points that are kept for their own sake: markers. While nothing is pruned every LSN outside
   * of gaps is reachable too; those are not listed.
   */
  async recoveryPoints(group: Group, query: RangeQuery): Promise<RecoveryPointAnswer[]> {
    const now = nowNs();
    const from = boundOf('from', query.from, now);
    const to = boundOf('to', query.to, now);
    const { gaps } = await this.logs.snapshot(group, false);
    const points: RecoveryPointAnswer[] = [];
    for (const { lsn, time, label, keepUntil, pinned } of await this.markers.list(group)) {
      const timeNs = parseTime(time);
      if (!pinned || (from !== undefined && timeNs < from) || (to !== undefined && timeNs > to)) {
        continue;
      }
      if (!gaps.some((gap) => isInGap(gap, lsn)))
        points.push({ lsn, time, kind: 'marker', label, expiry: keepUntil });
    }
    return pageOf(points, query, (point) => String(point.lsn));
  }
}

function boundOf(field: string, text: string | undefined, now: bigint): bigint | undefined {
  if (text === undefined) return undefined;
  const moment = parseMoment(text);
  if (moment.kind === 'time') return moment.timeNs;
  if (moment.kind === 'ago') return now - moment.durationNs;
  throw new InvalidFieldsError('read range', [{ field, message: 'must be a time or like -24h' }]);
}

/** One that another follows, but whose end is still being written, counts as active. */
function stateOf({ sealed, superseded, mapped, cut }: LogSegment): string {
  if (sealed) return 'sealed';
  return superseded && (mapped || cut) ? 'given-up' : 'active';
}

function segmentAnswer(segment: LogSegment): SegmentAnswer {
  return {
    id: String(segment.segment),
    segment: segment.segment,
    state: stateOf(segment),
    mapped: segment.mapped,
    epoch: segment.epoch,
    firstLsn: segment.firstLsn,
    lastLsn: segment.lastLsn,
    firstTime: formatTime(segment.firstNs),
    lastTime: formatTime(segment.lastNs),
    entries: segment.entries,
    dataBytes: segment.dataBytes,
    fileBytes: segment.fileBytes,
    file: segment.relativePath,
    device: segment.device,
  };
}

function mapAnswer(row: MapTable): MapAnswer {
  const idOrNull = (id: number): string | null => (id === 0 ? null : String(id));
  return {
    id: String(row.id),
    level: row.level,
    expiryClass: row.expiry_class,
    firstLsn: row.first_lsn,
    lastLsn: row.last_lsn,
    firstTime: formatTime(BigInt(row.first_ns)),
    lastTime: formatTime(BigInt(row.last_ns)),
    previous: idOrNull(row.previous),
    // Merging comes with the life cycle; until then there is no map above another.
    merged: null,
    firstChild: idOrNull(row.first_child),
    entries: row.extents,
    liveBytes: row.data_sectors * SECTOR_BYTES,
    fileBytes: row.file_bytes,
    file: row.path,
    device: row.device_id,
  };
}
