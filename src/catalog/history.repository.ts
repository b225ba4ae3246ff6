// SPDX-License-Identifier: Apache-2.0
import { type Insertable, sql, type Transaction } from 'kysely';
import { parseTime } from '../common/time.js';
import type {
  GapRecord,
  ManifestRecord,
  ManifestState,
  MapRecord,
  MarkerState,
  SegmentRecord,
} from '../maps/manifest-records.js';
import type { CatalogDatabase } from './catalog.js';
import type { CatalogSchema, GapTable, MapTable, MarkerTable, SegmentTable } from './schema.js';

export interface LsnPage {
  limit: number;
  after?: string;
}

/**
 * What the catalog holds of groups' manifests. Rows only ever come from a manifest: record by record
 * after each commit, and whole when a group is taken up.
 */
export class HistoryRepository {
  constructor(private readonly db: CatalogDatabase) {}

  /** Makes the rows of a group those of its manifest. */
  async replace(groupId: string, state: ManifestState): Promise<void> {
    await this.db.transaction().execute(async (tx) => {
      for (const table of ['marker', 'gap', 'segment', 'map'] as const) {
        await tx.deleteFrom(table).where('group_id', '=', groupId).execute();
      }
      for (const marker of state.markers.values()) await putMarker(tx, groupId, marker);
      for (const gap of state.gaps) await putGap(tx, groupId, gap);
      for (const segment of state.segments.values()) await putSegment(tx, groupId, segment);
      for (const map of state.maps.values()) await putMap(tx, groupId, map);
    });
  }

  /** Adds what was committed to the manifest. */
  async apply(groupId: string, records: readonly ManifestRecord[]): Promise<void> {
    await this.db.transaction().execute(async (tx) => {
      for (const record of records) await applyRecord(tx, groupId, record);
    });
  }

  markers(groupId: string): Promise<MarkerTable[]> {
    return this.db
      .selectFrom('marker')
      .selectAll()
      .where('group_id', '=', groupId)
      .orderBy('lsn')
      .execute();
  }

  gaps(groupId: string): Promise<GapTable[]> {
    return this.db
      .selectFrom('gap')
      .selectAll()
      .where('group_id', '=', groupId)
      .orderBy('from_lsn')
      .execute();
  }

  async segments(groupId: string, page: LsnPage): Promise<SegmentTable[]> {
    return this.db
      .selectFrom('segment')
      .selectAll()
      .where('group_id', '=', groupId)
      .where('segment', '>', numberAfter(page))
      .orderBy('segment')
      .limit(page.limit)
      .execute();
  }

  async maps(groupId: string, page: LsnPage): Promise<MapTable[]> {
    return this.db
      .selectFrom('map')
      .selectAll()
      .where('group_id', '=', groupId)
      .where('id', '>', numberAfter(page))
      .orderBy('id')
      .limit(page.limit)
      .execute();
  }

  /** Time of the oldest entry in a mapped segment. */
  async historyFrom(groupId: string): Promise<string | undefined> {
    const row = await this.db
      .selectFrom('segment')
      .select('first_ns')
      .where('group_id', '=', groupId)
      .orderBy('first_lsn')
      .limit(1)
      .executeTakeFirst();
    return row?.first_ns;
  }
}

function numberAfter(page: LsnPage): number {
  const number = Number(page.after ?? -1);
  return Number.isFinite(number) ? number : Number.MAX_SAFE_INTEGER;
}

type Tx = Transaction<CatalogSchema>;

async function applyRecord(tx: Tx, groupId: string, record: ManifestRecord): Promise<void> {
  switch (record.kind) {
    case 'marker':
      await putMarker(tx, groupId, { ...record, pinned: true });
      break;
    case 'unpin':
      await tx
        .updateTable('marker')
        .set({ pinned: 0 })
        .where('group_id', '=', groupId)
        .where('label', '=', record.label)
        .execute();
      break;
    case 'gap':
      await putGap(tx, groupId, record);
      break;
    case 'segment':
      await putSegment(tx, groupId, record);
      break;
    case 'map':
      await putMap(tx, groupId, record);
      break;
    case 'drop':
      await deleteRows(tx, 'map', 'id', groupId, record.maps);
      await deleteRows(tx, 'segment', 'segment', groupId, record.segments);
      break;
    default:
      // Groups, volumes and policies are the groups module's rows; the rest only the manifest has.
      break;
  }
}

async function deleteRows(
  tx: Tx,
  table: 'map' | 'segment',
  column: 'id' | 'segment',
  groupId: string,
  numbers: readonly number[],
): Promise<void> {
  // SQLite bounds the variables of one statement.
  for (let from = 0; from < numbers.length; from += 500) {
    const some = numbers.slice(from, from + 500);
    await sql`delete from ${sql.table(table)} where group_id = ${groupId}
      and ${sql.ref(column)} in (${sql.join(some)})`.execute(tx);
  }
}

async function putMarker(tx: Tx, groupId: string, marker: MarkerState): Promise<void> {
  const { keepUntil } = marker;
  const row: Insertable<MarkerTable> = {
    group_id: groupId,
    label: marker.label,
    lsn: marker.lsn,
    time_ns: ns(marker.time),
    keep_until: keepUntil === null || keepUntil === 'forever' ? keepUntil : ns(keepUntil),
    pinned: marker.pinned ? 1 : 0,
  };
  await tx.replaceInto('marker').values(row).execute();
}

async function putGap(tx: Tx, groupId: string, gap: GapRecord): Promise<void> {
  const row: Insertable<GapTable> = {
    group_id: groupId,
    from_lsn: gap.fromLsn,
    to_lsn: gap.toLsn,
    from_ns: ns(gap.from),
    to_ns: gap.to === null ? null : ns(gap.to),
    reason: gap.reason,
    healed: gap.healed ? 1 : 0,
  };
  await tx.replaceInto('gap').values(row).execute();
}

async function putSegment(tx: Tx, groupId: string, segment: SegmentRecord): Promise<void> {
  const row: Insertable<SegmentTable> = {
    group_id: groupId,
    segment: segment.segment,
    device_id: segment.device,
    path: segment.path,
    epoch: segment.epoch,
    first_lsn: segment.firstLsn,
    last_lsn: segment.lastLsn,
    first_ns: ns(segment.firstTime),
    last_ns: ns(segment.lastTime),
    entries: segment.entries,
    data_bytes: segment.dataBytes,
    file_bytes: segment.fileBytes,
    sealed_ns: ns(segment.sealedAt),
    reason: segment.reason,
  };
  await tx.replaceInto('segment').values(row).execute();
}

async function putMap(tx: Tx, groupId: string, map: MapRecord): Promise<void> {
  const row: Insertable<MapTable> = {
    group_id: groupId,
    id: map.id,
    level: map.level,
    expiry_class: map.expiryClass,
    first_lsn: map.firstLsn,
    last_lsn: map.lastLsn,
    first_ns: ns(map.firstTime),
    last_ns: ns(map.lastTime),
    device_id: map.device,
    path: map.path,
    previous: map.previous,
    first_child: map.firstChild,
    extents: map.extents,
    data_sectors: map.dataSectors,
    file_bytes: map.fileBytes,
  };
  await tx.replaceInto('map').values(row).execute();
}

/** Equal length, so that the text sorts as the number does. */
function ns(time: string): string {
  return parseTime(time).toString().padStart(19, '0');
}
