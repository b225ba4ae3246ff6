// SPDX-License-Identifier: Apache-2.0
import type { CatalogDatabase } from './catalog.js';
import type { DeviceTable } from './schema.js';

export type DeviceRow = DeviceTable;

export class DeviceRepository {
  constructor(private readonly db: CatalogDatabase) {}

  list(): Promise<DeviceRow[]> {
    return this.db.selectFrom('device').selectAll().orderBy('created_ns').orderBy('id').execute();
  }

  /** By name or id; an id wins over a name that looks like one. */
  async find(nameOrId: string): Promise<DeviceRow | undefined> {
    const byId = await this.get('id', nameOrId);
    return byId ?? (await this.get('name', nameOrId));
  }

  findByPath(path: string): Promise<DeviceRow | undefined> {
    return this.get('path', path);
  }

  async insert(row: DeviceRow): Promise<void> {
    await this.db.insertInto('device').values(row).execute();
  }

  async update(id: string, change: Partial<Pick<DeviceRow, 'name' | 'path'>>): Promise<void> {
    await this.db.updateTable('device').set(change).where('id', '=', id).execute();
  }

  async remove(id: string): Promise<void> {
    await this.db.deleteFrom('device').where('id', '=', id).execute();
  }

  private get(column: 'id' | 'name' | 'path', value: string): Promise<DeviceRow | undefined> {
    return this.db.selectFrom('device').selectAll().where(column, '=', value).executeTakeFirst();
  }
}
