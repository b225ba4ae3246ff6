// SPDX-License-Identifier: Apache-2.0
import { type Kysely, sql } from 'kysely';
import type { Migration, MigrationProvider } from 'kysely/migration';

/** Migrations are never edited once released: a change is a new one at the end. */
const MIGRATIONS: Record<string, Migration> = {
  '0001-first': { up: first },
};

export const migrations: MigrationProvider = {
  getMigrations: () => Promise.resolve(MIGRATIONS),
};

async function first(db: Kysely<unknown>): Promise<void> {
  const { schema } = db;
  await schema
    .createTable('device')
    .addColumn('id', 'text', (c) => c.primaryKey())
    .addColumn('name', 'text', (c) => c.notNull().unique())
    .addColumn('path', 'text', (c) => c.notNull().unique())
    .addColumn('created_ns', 'text', (c) => c.notNull())
    .execute();
  await schema
    .createTable('policy')
    .addColumn('id', 'text', (c) => c.primaryKey())
    .addColumn('name', 'text', (c) => c.notNull().unique())
    .addColumn('spec', 'text', (c) => c.notNull())
    .addColumn('created_ns', 'text', (c) => c.notNull())
    .execute();
  await schema
    .createTable('protection_group')
    .addColumn('id', 'text', (c) => c.primaryKey())
    .addColumn('name', 'text', (c) => c.notNull().unique())
    .addColumn('policy_id', 'text', (c) => c.notNull())
    .addColumn('definition', 'text', (c) => c.notNull())
    .addColumn('created_ns', 'text', (c) => c.notNull())
    .execute();
  await schema
    .createTable('marker')
    .addColumn('group_id', 'text', (c) => c.notNull())
    .addColumn('label', 'text', (c) => c.notNull())
    .addColumn('lsn', 'bigint', (c) => c.notNull())
    .addColumn('time_ns', 'text', (c) => c.notNull())
    .addColumn('keep_until', 'text')
    .addColumn('pinned', 'integer', (c) => c.notNull())
    .addPrimaryKeyConstraint('marker_key', ['group_id', 'label'])
    .execute();
  await schema.createIndex('marker_lsn').on('marker').columns(['group_id', 'lsn']).execute();
  await schema
    .createTable('gap')
    .addColumn('group_id', 'text', (c) => c.notNull())
    .addColumn('from_lsn', 'bigint', (c) => c.notNull())
    .addColumn('to_lsn', 'bigint')
    .addColumn('from_ns', 'text', (c) => c.notNull())
    .addColumn('to_ns', 'text')
    .addColumn('reason', 'text', (c) => c.notNull())
    .addColumn('healed', 'integer', (c) => c.notNull())
    .addPrimaryKeyConstraint('gap_key', ['group_id', 'from_lsn'])
    .execute();
  await schema
    .createTable('segment')
    .addColumn('group_id', 'text', (c) => c.notNull())
    .addColumn('segment', 'bigint', (c) => c.notNull())
    .addColumn('device_id', 'text', (c) => c.notNull())
    .addColumn('path', 'text', (c) => c.notNull())
    .addColumn('epoch', 'bigint', (c) => c.notNull())
    .addColumn('first_lsn', 'bigint', (c) => c.notNull())
    .addColumn('last_lsn', 'bigint', (c) => c.notNull())
    .addColumn('first_ns', 'text', (c) => c.notNull())
    .addColumn('last_ns', 'text', (c) => c.notNull())
    .addColumn('entries', 'bigint', (c) => c.notNull())
    .addColumn('data_bytes', 'bigint', (c) => c.notNull())
    .addColumn('file_bytes', 'bigint', (c) => c.notNull())
    .addColumn('sealed_ns', 'text', (c) => c.notNull())
    .addColumn('reason', 'integer', (c) => c.notNull())
    .addPrimaryKeyConstraint('segment_key', ['group_id', 'segment'])
    .execute();
  await schema
    .createTable('map')
    .addColumn('group_id', 'text', (c) => c.notNull())
    .addColumn('id', 'bigint', (c) => c.notNull())
    .addColumn('level', 'integer', (c) => c.notNull())
    .addColumn('expiry_class', 'integer', (c) => c.notNull())
    .addColumn('first_lsn', 'bigint', (c) => c.notNull())
    .addColumn('last_lsn', 'bigint', (c) => c.notNull())
    .addColumn('first_ns', 'text', (c) => c.notNull())
    .addColumn('last_ns', 'text', (c) => c.notNull())
    .addColumn('device_id', 'text', (c) => c.notNull())
    .addColumn('path', 'text', (c) => c.notNull())
    .addColumn('previous', 'bigint', (c) => c.notNull())
    .addColumn('first_child', 'bigint', (c) => c.notNull())
    .addColumn('extents', 'bigint', (c) => c.notNull())
    .addColumn('data_sectors', 'bigint', (c) => c.notNull())
    .addColumn('file_bytes', 'bigint', (c) => c.notNull())
    .addPrimaryKeyConstraint('map_key', ['group_id', 'id'])
    .execute();
  await schema
    .createTable('job')
    .addColumn('seq', 'integer', (c) => c.primaryKey().autoIncrement())
    .addColumn('id', 'text', (c) => c.notNull().unique())
    .addColumn('kind', 'text', (c) => c.notNull())
    .addColumn('group_id', 'text')
    .addColumn('state', 'text', (c) => c.notNull())
    .addColumn('params', 'text', (c) => c.notNull())
    .addColumn('progress', 'text', (c) => c.notNull())
    .addColumn('error', 'text')
    .addColumn('result', 'text')
    .addColumn('created_ns', 'text', (c) => c.notNull())
    .addColumn('updated_ns', 'text', (c) => c.notNull())
    .execute();
  await sql`create index job_state on job (state)`.execute(db);
}
