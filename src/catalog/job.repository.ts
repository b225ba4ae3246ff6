// SPDX-License-Identifier: Apache-2.0
import type { CatalogDatabase } from './catalog.js';
import type { Selectable } from 'kysely';
import type { JobTable } from './schema.js';

export const JOB_STATES = ['queued', 'running', 'done', 'failed', 'cancelled'] as const;
export type JobState = (typeof JOB_STATES)[number];

export interface JobProgress {
  done: number;
  total: number;
  unit: string;
  perSecond: number;
  /** Null while nothing can be said. */
  etaSeconds: number | null;
}

export interface JobError {
  code: string;
  message: string;
  hint?: string;
}

export interface JobRow {
  seq: number;
  id: string;
  kind: string;
  groupId: string | null;
  state: JobState;
  params: unknown;
  progress: JobProgress;
  error: JobError | null;
  result: unknown;
  createdNs: string;
  updatedNs: string;
}

export interface JobFilter {
  limit: number;
  /** Only jobs older than this one. */
  after?: string;
}

export class JobRepository {
  constructor(private readonly db: CatalogDatabase) {}

  /** Newest first. An `after` that does not exist ends the list. */
  async list(filter: JobFilter): Promise<JobRow[]> {
    let query = this.db.selectFrom('job').selectAll().orderBy('seq', 'desc').limit(filter.limit);
    if (filter.after !== undefined) {
      const from = await this.find(filter.after);
      query = query.where('seq', '<', from?.seq ?? 0);
    }
    return (await query.execute()).map(fromTable);
  }

  /** Queued and running ones, oldest first. */
  async unfinished(): Promise<JobRow[]> {
    const query = this.db
      .selectFrom('job')
      .selectAll()
      .where('state', 'in', ['queued', 'running'])
      .orderBy('seq');
    return (await query.execute()).map(fromTable);
  }

  async find(id: string): Promise<JobRow | undefined> {
    const row = await this.db.selectFrom('job').selectAll().where('id', '=', id).executeTakeFirst();
    return row && fromTable(row);
  }

  async insert(row: Omit<JobRow, 'seq'>): Promise<void> {
    await this.db
      .insertInto('job')
      .values({
        id: row.id,
        kind: row.kind,
        group_id: row.groupId,
        created_ns: row.createdNs,
        ...changeable(row),
      })
      .execute();
  }

  async update(row: JobRow): Promise<void> {
    await this.db.updateTable('job').set(changeable(row)).where('id', '=', row.id).execute();
  }

  async countByState(): Promise<Map<string, number>> {
    const rows = await this.db
      .selectFrom('job')
      .select(['state', (e) => e.fn.countAll<number>().as('count')])
      .groupBy('state')
      .execute();
    return new Map(rows.map((row) => [row.state, Number(row.count)]));
  }
}

function changeable(row: Omit<JobRow, 'seq'>) {
  return {
    state: row.state,
    params: JSON.stringify(row.params),
    progress: JSON.stringify(row.progress),
    error: row.error === null ? null : JSON.stringify(row.error),
    result: row.result === undefined || row.result === null ? null : JSON.stringify(row.result),
    updated_ns: row.updatedNs,
  };
}

function fromTable(row: Selectable<JobTable>): JobRow {
  return {
    seq: Number(row.seq),
    id: row.id,
    kind: row.kind,
    groupId: row.group_id,
    state: row.state as JobState,
    params: JSON.parse(row.params) as unknown,
    progress: JSON.parse(row.progress) as JobProgress,
    error: row.error === null ? null : (JSON.parse(row.error) as JobError),
    result: row.result === null ? null : (JSON.parse(row.result) as unknown),
    createdNs: row.created_ns,
    updatedNs: row.updated_ns,
  };
}
