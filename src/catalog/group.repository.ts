// SPDX-License-Identifier: Apache-2.0
import type { CatalogDatabase } from './catalog.js';
import type { GroupTable } from './schema.js';

/** The part of a definition that the catalog looks at; the groups module knows the rest. */
export interface StoredDefinition {
  devices: { id: string; path: string }[];
}

/** A group as the catalog has it. */
export interface GroupRow {
  id: string;
  name: string;
  policyId: string;
  definition: StoredDefinition;
  createdNs: string;
}

export class GroupRepository {
  constructor(private readonly db: CatalogDatabase) {}

  async list(): Promise<GroupRow[]> {
    const query = this.db
      .selectFrom('protection_group')
      .selectAll()
      .orderBy('created_ns')
      .orderBy('id');
    return (await query.execute()).map(fromTable);
  }

  /** By name or id; an id wins over a name that looks like one. */
  async find(nameOrId: string): Promise<GroupRow | undefined> {
    return (await this.get('id', nameOrId)) ?? (await this.get('name', nameOrId));
  }

  /** Names of the groups that keep their log or maps on a device. */
  async usersOfDevice(deviceId: string): Promise<string[]> {
    const groups = await this.list();
    return groups
      .filter((group) => group.definition.devices.some((device) => device.id === deviceId))
      .map((group) => group.name);
  }

  /** Names of the groups that follow a policy. */
  async usersOfPolicy(policyId: string): Promise<string[]> {
    const groups = await this.list();
    return groups.filter((group) => group.policyId === policyId).map((group) => group.name);
  }

  async insert(row: GroupRow): Promise<void> {
    await this.db
      .insertInto('protection_group')
      .values({
        id: row.id,
        name: row.name,
        policy_id: row.policyId,
        definition: JSON.stringify(row.definition),
        created_ns: row.createdNs,
      })
      .execute();
  }

  async update(row: GroupRow): Promise<void> {
    await this.db
      .updateTable('protection_group')
      .set({
        name: row.name,
        policy_id: row.policyId,
        definition: JSON.stringify(row.definition),
      })
      .where('id', '=', row.id)
      .execute();
  }

  /** Removes the group with everything that the catalog holds of its history. */
  async remove(id: string): Promise<void> {
    await this.db.transaction().execute(async (tx) => {
      for (const table of ['marker', 'gap', 'segment', 'map'] as const) {
        await tx.deleteFrom(table).where('group_id', '=', id).execute();
      }
      await tx.deleteFrom('protection_group').where('id', '=', id).execute();
    });
  }

  private async get(column: 'id' | 'name', value: string): Promise<GroupRow | undefined> {
    const row = await this.db
      .selectFrom('protection_group')
      .selectAll()
      .where(column, '=', value)
      .executeTakeFirst();
    return row && fromTable(row);
  }
}

function fromTable(row: GroupTable): GroupRow {
  return {
    id: row.id,
    name: row.name,
    policyId: row.policy_id,
    definition: JSON.parse(row.definition) as StoredDefinition,
    createdNs: row.created_ns,
  };
}
