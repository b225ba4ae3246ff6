// SPDX-License-Identifier: Apache-2.0
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { Inject, Injectable, Logger, type OnModuleDestroy } from '@nestjs/common';
import { Catalog } from '../catalog/catalog.js';
import { DeviceRepository } from '../catalog/device.repository.js';
import { GroupRepository } from '../catalog/group.repository.js';
import { PolicyRepository, type PolicyRow } from '../catalog/policy.repository.js';
import { RegistryKeeper } from '../catalog/registry-keeper.js';
import type { PolicySpec } from '../catalog/schema.js';
import { errnoOf } from '../common/errors.js';
import { isUuid } from '../common/uuid.js';
import type { DataPlanePort } from '../data-plane/port.js';
import { DEFAULT_POLICY } from '../policies/policy.service.js';
import { DATA_PLANE } from '../events/data-plane-events.js';
import { EventBus } from '../events/event-bus.js';
import { manifestPath } from '../maps/manifest.js';
import { ManifestCopies } from '../maps/manifest-copies.js';
import type { ManifestState, PolicyRecord } from '../maps/manifest-records.js';
import { groupFolder } from '../maps/segment/folder.js';
import { manifestFiles, ManifestStore } from './manifest-store.js';
import { GroupLock } from './serial.js';
import { type Group, groupOfRow, groupRecord, manifestDefinition } from './stored-group.js';

/**
 * Brings the catalog's groups in line with what is really there: the manifests on the devices, when
 * the catalog is new, and the data plane's groups, at every start and whenever the data plane comes.
 */
@Injectable()
export class GroupRecovery implements OnModuleDestroy {
  private readonly logger = new Logger(GroupRecovery.name);
  private unsubscribe: (() => void) | undefined;

  constructor(
    @Inject(Catalog) private readonly catalog: Catalog,
    @Inject(DeviceRepository) private readonly devices: DeviceRepository,
    @Inject(GroupRepository) private readonly groups: GroupRepository,
    @Inject(PolicyRepository) private readonly policies: PolicyRepository,
    @Inject(RegistryKeeper) private readonly registry: RegistryKeeper,
    @Inject(ManifestStore) private readonly manifests: ManifestStore,
    @Inject(DATA_PLANE) private readonly port: DataPlanePort,
    @Inject(EventBus) private readonly bus: EventBus,
    @Inject(GroupLock) private readonly lock: GroupLock,
  ) {}

  async start(): Promise<void> {
    if (this.catalog.isNew) await this.rebuild();
    for (const group of (await this.groups.list()).map(groupOfRow)) {
      // Opening a manifest brings the catalog's rows of it up to date.
      await this.manifests.state(group.definition).catch((error: unknown) => {
        this.logger.error(`the manifest of ${group.name} cannot be read: ${text(error)}`);
      });
    }
    await this.lock.run(() => this.adoptFromDataPlane());
    this.unsubscribe = this.bus.on('data-plane', ({ up }) => {
      if (up) void this.lock.run(() => this.adoptFromDataPlane());
    });
  }

  onModuleDestroy(): void {
    this.unsubscribe?.();
  }

  /** Groups whose manifests lie on the known devices, save those that were deleted. */
  private async rebuild(): Promise<void> {
    for (const [id, files] of await this.manifestsFound()) {
      try {
        await this.rebuildGroup(await ManifestCopies.read(files, id));
      } catch (error) {
        if (errnoOf(error) === 'NOT_FOUND') continue;
        this.logger.error(`${files.join(', ')} cannot be taken into the catalog: ${text(error)}`);
      }
    }
  }

  /** Where the manifests of all groups may lie on the known devices, by group. */
  private async manifestsFound(): Promise<Map<string, string[]>> {
    const found = new Map<string, string[]>();
    for (const device of await this.devices.list()) {
      for (const id of await this.groupsOnOrNone(device.path)) {
        const file = manifestPath(groupFolder(device.path, id));
        found.set(id, [...(found.get(id) ?? []), file]);
      }
    }
    return found;
  }

  private async rebuildGroup(state: ManifestState): Promise<void> {
    const record = state.group;
    const known = record && manifestDefinition(record);
    if (record === undefined || known?.phase !== 'there') return;
    if ((await this.groups.find(record.group)) !== undefined) return;
    const policyId = await this.policyOf(state.policy);
    const { createdNs, definition } = known;
    await this.groups.insert({
      id: record.group,
      name: record.name,
      policyId,
      definition,
      createdNs,
    });
    this.logger.log(`the group ${record.name} was taken from its manifest`);
  }

  /**
   * What the data plane serves and the catalog does not know: a creation that was interrupted after
   * the data plane had done its part.
   */
  private async adoptFromDataPlane(): Promise<void> {
    const served = await this.port.listGroups().catch((error: unknown) => {
      this.logger.warn(`the data plane's groups are not known yet: ${text(error)}`);
      return undefined;
    });
    if (served === undefined) return;
    await this.dropUnfinished(new Set(served.map(({ id }) => id)));
    for (const { id, name, definition } of served) {
      if ((await this.groups.find(id)) !== undefined) continue;
      try {
        const state = await this.manifests.state(definition);
        const known = state.group && manifestDefinition(state.group);
        const group: Group = {
          id,
          name,
          policyId: await this.policyOf(state.policy),
          definition,
          createdNs: known?.createdNs ?? '0',
        };
        await this.manifests.commit(definition, [groupRecord(group, 'there')]);
        await this.groups.insert(group);
        this.logger.log(`the group ${name} was taken over from the data plane`);
      } catch (error) {
        this.logger.error(`the group ${name} of the data plane is unknown here: ${text(error)}`);
      }
    }
  }

  /**
   * Creations that were cut off before the data plane had the group, or that it has taken back: what
   * is left of them on the devices goes. Nobody was told that such a group is there.
   */
  private async dropUnfinished(served: ReadonlySet<string>): Promise<void> {
    for (const [id, files] of await this.manifestsFound()) {
      if (served.has(id) || (await this.groups.find(id)) !== undefined) continue;
      try {
        const state = await ManifestCopies.read(files, id);
        const known = state.group && manifestDefinition(state.group);
        // Whatever has history worth a record was more than a creation.
        const empty = state.segments.size === 0 && state.markers.size === 0;
        if (known?.phase !== 'creating' || !empty) continue;
        // A copy on a device that is away may know more.
        const all = manifestFiles(known.definition).every((file) => files.includes(file));
        if (!all) continue;
        await this.manifests.removeHistory(known.definition);
        this.logger.warn(`the creation of ${known.definition.name} was cut off; it is taken back`);
      } catch (error) {
        if (errnoOf(error) === 'NOT_FOUND') continue;
        this.logger.error(`${files.join(', ')} cannot be looked at: ${text(error)}`);
      }
    }
  }

  private async groupsOnOrNone(device: string): Promise<string[]> {
    return groupsOn(device).catch((error: unknown) => {
      this.logger.warn(`the device ${device} cannot be looked at: ${text(error)}`);
      return [];
    });
  }

  /** The policy that a manifest names, stored again where it is gone. */
  private async policyOf(record: PolicyRecord | undefined): Promise<string> {
    const fallback = await this.policies.find(DEFAULT_POLICY);
    const stored = record?.policy as
      (PolicySpec & { id?: string; name?: string }) | null | undefined;
    if (stored?.id === undefined || stored.name === undefined) return fallback?.id ?? '';
    const { id, name, ...spec } = stored;
    const known = await this.policies.find(id);
    if (known !== undefined) return known.id;
    const taken = (await this.policies.find(name)) !== undefined;
    const row: PolicyRow = { id, name: taken ? id : name, spec, createdNs: '0' };
    await this.policies.insert(row);
    await this.registry.save();
    return id;
  }
}

async function groupsOn(device: string): Promise<string[]> {
  try {
    return (await readdir(path.dirname(groupFolder(device, 'x')))).filter(isUuid);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return [];
    throw error;
  }
}

function text(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
