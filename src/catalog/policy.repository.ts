// SPDX-License-Identifier: Apache-2.0
import type { CatalogDatabase } from './catalog.js';
import type { PolicySpec, PolicyTable } from './schema.js';

export interface PolicyRow {
  id: string;
  name: string;
  spec: PolicySpec;
  createdNs: string;
}

export class PolicyRepository {
  constructor(private readonly db: CatalogDatabase) {}

  async list(): Promise<PolicyRow[]> {
    const query = this.db.selectFrom('policy').selectAll().orderBy('created_ns').orderBy('id');
    return (await query.execute()).map(fromTable);
  }

  /** By name or id; an id wins over a name that looks like one. */
  async find(nameOrId: string): Promise<PolicyRow | undefined> {
    return (await this.get('id', nameOrId)) ?? (await this.get('name', nameOrId));
  }

  async insert(row: PolicyRow): Promise<void> {
    await this.db
      .insertInto('policy')
      .values({
        id: row.id,
        name: row.name,
        spec: JSON.stringify(row.spec),
        created_ns: row.createdNs,
      })
      .execute();
  }

  async update(id: string, name: string, spec: PolicySpec): Promise<void> {
    await this.db
      .updateTable('policy')
      .set({ name, spec: JSON.stringify(spec) })
      .where('id', '=', id)
      .execute();
  }

  async remove(id: string): Promise<void> {
    await this.db.deleteFrom('policy').where('id', '=', id).execute();
  }

  private async get(column: 'id' | 'name', value: string): Promise<PolicyRow | undefined> {
    const row = await this.db
      .selectFrom('policy')
      .selectAll()
      .where(column, '=', value)
      .executeTakeFirst();
    return row && fromTable(row);
  }
}

function fromTable(row: PolicyTable): PolicyRow {
  return {
    id: row.id,
    name: row.name,
    spec: JSON.parse(row.spec) as PolicySpec,
    createdNs: row.created_ns,
  };
}
