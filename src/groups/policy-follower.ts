// SPDX-License-Identifier: Apache-2.0
import { isDeepStrictEqual } from 'node:util';
import { Inject, Injectable, Logger } from '@nestjs/common';
import { GroupRepository } from '../catalog/group.repository.js';
import { PolicyService } from '../policies/policy.service.js';
import { ManifestStore } from './manifest-store.js';
import { groupOfRow, policyRecord } from './stored-group.js';

/** Keeps the policy in each group's manifest that of the catalog, so that a device alone tells it. */
@Injectable()
export class PolicyFollower {
  private readonly logger = new Logger(PolicyFollower.name);

  constructor(
    @Inject(GroupRepository) private readonly groups: GroupRepository,
    @Inject(PolicyService) private readonly policies: PolicyService,
    @Inject(ManifestStore) private readonly manifests: ManifestStore,
  ) {
    policies.onChange((policyId) => this.follow(policyId));
  }

  /** At start: what an end of the service right after a change has left undone. */
  async start(): Promise<void> {
    for (const policy of await this.policies.list()) await this.follow(policy.id);
  }

  private async follow(policyId: string): Promise<void> {
    const record = policyRecord(await this.policies.get(policyId));
    for (const row of await this.groups.list()) {
      if (row.policyId !== policyId) continue;
      const { definition, name } = groupOfRow(row);
      try {
        const state = await this.manifests.state(definition);
        if (isDeepStrictEqual(state.policy?.policy, record.policy)) continue;
        await this.manifests.commit(definition, [record]);
      } catch (error) {
        this.logger.error(`the manifest of ${name} has an old policy: ${(error as Error).message}`);
      }
    }
  }
}
