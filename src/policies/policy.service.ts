// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from 'node:crypto';
import { Inject, Injectable } from '@nestjs/common';
import { GroupRepository } from '../catalog/group.repository.js';
import { PolicyRepository, type PolicyRow } from '../catalog/policy.repository.js';
import { RegistryKeeper } from '../catalog/registry-keeper.js';
import type { PolicySpec } from '../catalog/schema.js';
import { parseDuration } from '../common/durations.js';
import { EverpointError } from '../common/errors.js';
import { alreadyExists, InvalidFieldsError, notFound } from '../common/rest/problem.js';
import { nowNs } from '../common/time.js';

export const DEFAULT_POLICY = 'default';

const DEFAULT_SPEC: PolicySpec = {
  keepAll: '48h',
  grid: [
    { every: '1h', for: '14d' },
    { every: '1d', for: '12w' },
  ],
};

/** Stores what is to be kept. Nothing is pruned by it yet. */
@Injectable()
export class PolicyService {
  private readonly listeners: ((policyId: string) => Promise<void>)[] = [];

  constructor(
    @Inject(PolicyRepository) private readonly policies: PolicyRepository,
    @Inject(GroupRepository) private readonly groups: GroupRepository,
    @Inject(RegistryKeeper) private readonly registry: RegistryKeeper,
  ) {}

  /** Called, and waited for, after each change of a policy's content. */
  onChange(listener: (policyId: string) => Promise<void>): void {
    this.listeners.push(listener);
  }

  async ensureDefault(): Promise<void> {
    if ((await this.policies.find(DEFAULT_POLICY)) !== undefined) return;
    await this.create(DEFAULT_POLICY, DEFAULT_SPEC);
  }

  list(): Promise<PolicyRow[]> {
    return this.policies.list();
  }

  /** By name or id. @throws NOT_FOUND */
  async get(nameOrId: string): Promise<PolicyRow> {
    const row = await this.policies.find(nameOrId);
    if (row === undefined) throw notFound('policy', nameOrId);
    return row;
  }

  async create(name: string, spec: PolicySpec): Promise<PolicyRow> {
    checkGrid(spec);
    if ((await this.policies.find(name)) !== undefined) throw alreadyExists('policy', name);
    const id = `p${randomBytes(9).toString('base64url').replace(/[-_]/g, '0')}`;
    await this.policies.insert({ id, name, spec, createdNs: nowNs().toString() });
    await this.registry.save();
    return this.get(id);
  }

  /** Puts a new content in the place of the old one. */
  async replace(nameOrId: string, name: string, spec: PolicySpec): Promise<PolicyRow> {
    checkGrid(spec);
    const row = await this.get(nameOrId);
    const other = await this.policies.find(name);
    if (other !== undefined && other.id !== row.id) throw alreadyExists('policy', name);
    if (row.name === DEFAULT_POLICY && name !== DEFAULT_POLICY) throw defaultStays();
    await this.policies.update(row.id, name, spec);
    await this.registry.save();
    for (const listener of this.listeners) await listener(row.id);
    return this.get(row.id);
  }

  /** CONFLICT while a group follows it. */
  async remove(nameOrId: string): Promise<void> {
    const row = await this.get(nameOrId);
    const users = await this.groups.usersOfPolicy(row.id);
    if (users.length > 0) {
      throw new EverpointError(
        'CONFLICT',
        `The policy ${row.name} is used by ${users.join(', ')}.`,
        { operation: 'remove policy', hint: 'Give these groups another policy first.' },
      );
    }
    if (row.name === DEFAULT_POLICY) throw defaultStays();
    await this.policies.remove(row.id);
    await this.registry.save();
  }
}

function defaultStays(): EverpointError {
  return new EverpointError('CONFLICT', 'The policy "default" is always there under this name.', {
    operation: 'change policy',
  });
}

/** From fine to coarse, each step reaching further back than the one before. */
function checkGrid(spec: PolicySpec): void {
  let reach = parseDuration(spec.keepAll);
  let step = 0n;
  for (const [index, { every, for: until }] of spec.grid.entries()) {
    const fault = (field: string, message: string): InvalidFieldsError =>
      new InvalidFieldsError('check policy', [{ field: `grid.${index}.${field}`, message }]);
    if (parseDuration(every) <= step)
      throw fault('every', 'must be longer than in the step before');
    if (parseDuration(until) <= reach) {
      throw fault('for', 'must reach further back than keepAll and the step before');
    }
    if (parseDuration(every) > parseDuration(until)) {
      throw fault('every', 'must not be longer than "for"');
    }
    step = parseDuration(every);
    reach = parseDuration(until);
  }
}
