// SPDX-License-Identifier: Apache-2.0
import { randomUUID } from 'node:crypto';
import { Inject, Injectable, Logger } from '@nestjs/common';
import { GroupRepository } from '../catalog/group.repository.js';
import { errnoOf, EverpointError } from '../common/errors.js';
import { alreadyExists, InvalidFieldsError, notFound } from '../common/rest/problem.js';
import { nowNs } from '../common/time.js';
import type { DataPlanePort, GroupChange } from '../data-plane/port.js';
import { DATA_PLANE } from '../events/data-plane-events.js';
import { EventBus } from '../events/event-bus.js';
import { JobService } from '../jobs/job.service.js';
import { PolicyService } from '../policies/policy.service.js';
import { DefinitionBuilder } from './definition-builder.js';
import type { GroupBody, GroupPatch } from './group.dto.js';
import { ManifestStore } from './manifest-store.js';
import { GroupLock } from './serial.js';
import { type Group, groupOfRow, groupRecord, policyRecord } from './stored-group.js';

export interface DeleteOptions {
  force: boolean;
  deleteHistory: boolean;
}

/** Creates, changes and deletes groups. */
@Injectable()
export class GroupService {
  private readonly logger = new Logger(GroupService.name);
  private readonly leavers: ((groupId: string) => Promise<void>)[] = [];

  constructor(
    @Inject(GroupRepository) private readonly groups: GroupRepository,
    @Inject(ManifestStore) private readonly manifests: ManifestStore,
    @Inject(PolicyService) private readonly policies: PolicyService,
    @Inject(DefinitionBuilder) private readonly builder: DefinitionBuilder,
    @Inject(JobService) private readonly jobs: JobService,
    @Inject(DATA_PLANE) private readonly port: DataPlanePort,
    @Inject(EventBus) private readonly bus: EventBus,
    @Inject(GroupLock) private readonly lock: GroupLock,
  ) {}

  /**
   * Called, and waited for, when a group is being deleted and before its history is touched: whoever
   * writes into the group's folders by itself has to let go of it for good.
   */
  onRemove(listener: (groupId: string) => Promise<void>): void {
    this.leavers.push(listener);
  }

  async list(): Promise<Group[]> {
    return (await this.groups.list()).map(groupOfRow);
  }

  /** By name or id. @throws NOT_FOUND */
  async get(nameOrId: string): Promise<Group> {
    const row = await this.groups.find(nameOrId);
    if (row === undefined) throw notFound('group', nameOrId);
    return groupOfRow(row);
  }

  /**
   * Answers when the group's sockets listen and I/O is served. The manifest comes first, marked as
   * being created, so that after a crash at any step either nothing or the whole group is there.
   */
  create(body: GroupBody): Promise<Group> {
    return this.lock.run(async () => {
      if ((await this.groups.find(body.name)) !== undefined)
        throw alreadyExists('group', body.name);
      const policy = await this.policyFor('policy', body.policy);
      const id = randomUUID();
      const request = await this.builder.build(id, body);
      const group: Group = {
        id,
        name: body.name,
        policyId: policy.id,
        definition: withoutCreate(request),
        createdNs: nowNs().toString(),
      };
      await this.manifests.create(group.definition, [
        groupRecord(group, 'creating'),
        policyRecord(policy),
      ]);
      try {
        const status = await this.port.createGroup(request);
        const known: Group = { ...group, definition: withoutCreate(status.definition) };
        await this.manifests.commit(known.definition, [groupRecord(known, 'there')]);
        await this.groups.insert(known);
      } catch (error) {
        await this.undoCreation(group);
        throw error;
      }
      this.bus.publish('groups', { group: id, change: 'created' });
      return this.get(id);
    });
  }

  patch(nameOrId: string, patch: GroupPatch): Promise<Group> {
    return this.lock.run(async () => {
      const group = await this.get(nameOrId);
      if (patch.volumes !== undefined || patch.exports !== undefined) {
        const field = patch.volumes === undefined ? 'exports' : 'volumes';
        throw new InvalidFieldsError('change group', [
          { field, message: 'cannot be changed yet; make a new group' },
        ]);
      }
      const { policy: policyName, ack, flush, onLogPressure, throttleMaxMs } = patch;
      const policy =
        policyName === undefined ? undefined : await this.policyFor('policy', policyName);
      const change: GroupChange = {
        ...(ack !== undefined && { ack }),
        ...(flush !== undefined && { flush }),
        ...(onLogPressure !== undefined && { onLogPressure }),
        ...(throttleMaxMs !== undefined && { throttleMaxMs }),
      };
      if (Object.keys(change).length > 0) await this.port.updateGroup(group.id, change);
      const changed: Group = {
        ...group,
        policyId: policy?.id ?? group.policyId,
        definition: { ...group.definition, ...change },
      };
      await this.manifests.commit(changed.definition, [
        groupRecord(changed, 'there'),
        ...(policy === undefined ? [] : [policyRecord(policy)]),
      ]);
      await this.groups.update(changed);
      this.bus.publish('groups', { group: group.id, change: 'changed' });
      return this.get(group.id);
    });
  }

  /** Stops protection; the gap that this opens is recorded when it answers. */
  pause(nameOrId: string, confirm: unknown): Promise<Group> {
    return this.lock.run(async () => {
      demandConfirmed('pause group', confirm, 'no moment from now until resume can be restored');
      const group = await this.get(nameOrId);
      await this.port.pauseGroup(group.id);
      return group;
    });
  }

  /** Ends a pause. CONFLICT when there is none. */
  resume(nameOrId: string, confirm: unknown): Promise<Group> {
    return this.lock.run(async () => {
      demandConfirmed('resume group', confirm, 'the disks are read to find what the pause missed');
      const group = await this.get(nameOrId);
      await this.port.resumeGroup(group.id);
      return group;
    });
  }

  /** CONFLICT while a front-end is connected, unless forced, and while a job works for the group. */
  remove(nameOrId: string, options: DeleteOptions): Promise<void> {
    return this.lock.run(async () => {
      const group = await this.get(nameOrId);
      const [job] = await this.jobs.unfinishedOf(group.id);
      if (job !== undefined) {
        throw new EverpointError(
          'CONFLICT',
          `The job ${job.id} (${job.kind}) works for the group ${group.name}.`,
          { operation: 'delete group', hint: 'Wait for it, or cancel it.' },
        );
      }
      try {
        await this.port.deleteGroup(group.id, { force: options.force });
      } catch (error) {
        // An earlier deletion may have come this far.
        if (!(error instanceof EverpointError) || error.code !== 'NOT_FOUND') throw error;
      }
      for (const leave of this.leavers) await leave(group.id);
      if (options.deleteHistory) await this.manifests.removeHistory(group.definition);
      else await this.leaveHistory(group);
      await this.groups.remove(group.id);
      this.bus.publish('groups', { group: group.id, change: 'deleted' });
    });
  }

  private async leaveHistory(group: Group): Promise<void> {
    try {
      await this.manifests.commit(group.definition, [groupRecord(group, 'deleted')]);
    } catch (error) {
      // Its device may be gone for good; that must not make the group undeletable.
      this.logger.warn(
        `the manifest of ${group.name} was not told of the deletion: ${text(error)}`,
      );
    }
    await this.manifests.close(group.id);
  }

  private async undoCreation(group: Group): Promise<void> {
    const gone = await this.port.deleteGroup(group.id, { force: true }).then(
      () => true,
      (error: unknown) => error instanceof EverpointError && error.code === 'NOT_FOUND',
    );
    // When the data plane could not be asked, it may have the group: its manifest must stay.
    if (gone) {
      await this.manifests.removeHistory(group.definition).catch((error: unknown) => {
        this.logger.warn(`the manifest of ${group.name} was not removed: ${text(error)}`);
      });
    }
  }

  private async policyFor(field: string, nameOrId: string) {
    try {
      return await this.policies.get(nameOrId);
    } catch (error) {
      if (!(error instanceof EverpointError) || error.code !== 'NOT_FOUND') throw error;
      throw new InvalidFieldsError('find policy', [{ field, message: error.message }]);
    }
  }
}

function demandConfirmed(operation: string, confirm: unknown, what: string): void {
  if (confirm === true) return;
  throw new InvalidFieldsError(operation, [
    { field: 'confirm', message: `set "confirm": true to do it: ${what}` },
  ]);
}

function withoutCreate(definition: Group['definition']): Group['definition'] {
  return {
    ...definition,
    volumes: definition.volumes.map((volume) => {
      const { create: _made, ...primary } = volume.primary;
      return { ...volume, primary };
    }),
  };
}

function text(error: unknown): string {
  return error instanceof Error ? error.message : (errnoOf(error) ?? String(error));
}
