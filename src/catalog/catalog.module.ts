// SPDX-License-Identifier: Apache-2.0
import path from 'node:path';
import {
  type DynamicModule,
  Global,
  Inject,
  Module,
  type OnApplicationShutdown,
} from '@nestjs/common';
import { Catalog } from './catalog.js';
import { DeviceRepository } from './device.repository.js';
import { GroupRepository } from './group.repository.js';
import { HistoryRepository } from './history.repository.js';
import { JobRepository } from './job.repository.js';
import { PolicyRepository } from './policy.repository.js';
import { Registry } from './registry.js';
import { RegistryKeeper } from './registry-keeper.js';

export const CATALOG_FILE = 'catalog.sqlite';
export const REGISTRY_FILE = 'registry.json';

const REPOSITORIES = [
  DeviceRepository,
  GroupRepository,
  HistoryRepository,
  JobRepository,
  PolicyRepository,
];

/** Opens the catalog in the state folder and gives one repository per area of it. */
@Global()
@Module({})
export class CatalogModule implements OnApplicationShutdown {
  constructor(@Inject(Catalog) private readonly catalog: Catalog) {}

  static forRoot(state: string): DynamicModule {
    return {
      module: CatalogModule,
      providers: [
        { provide: Catalog, useFactory: () => Catalog.open(path.join(state, CATALOG_FILE)) },
        {
          provide: RegistryKeeper,
          useFactory: (devices: DeviceRepository, policies: PolicyRepository) =>
            new RegistryKeeper(new Registry(path.join(state, REGISTRY_FILE)), devices, policies),
          inject: [DeviceRepository, PolicyRepository],
        },
        ...REPOSITORIES.map((repository) => ({
          provide: repository,
          useFactory: (catalog: Catalog) => new repository(catalog.db),
          inject: [Catalog],
        })),
      ],
      exports: [Catalog, RegistryKeeper, ...REPOSITORIES],
    };
  }

  /** The last of all to end: until here others may still write what they did. */
  async onApplicationShutdown(): Promise<void> {
    await this.catalog.close();
  }
}
