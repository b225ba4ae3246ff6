// SPDX-License-Identifier: Apache-2.0
import type { GroupRow } from '../catalog/group.repository.js';
import type { PolicyRow } from '../catalog/policy.repository.js';
import type { GroupDefinition } from '../data-plane/port.js';
import type { GroupRecord, PolicyRecord } from '../maps/manifest-records.js';

/** What the catalog and the manifest keep of a group: the data plane's definition. */
export type StoredGroup = GroupDefinition;

/** A group with its definition's shape known. */
export interface Group {
  id: string;
  name: string;
  policyId: string;
  definition: StoredGroup;
  createdNs: string;
}

export function groupOfRow(row: GroupRow): Group {
  return { ...row, definition: row.definition as StoredGroup };
}

/**
 * The state of a group in its manifest: `creating` until its sockets listen, `deleted` when it was
 * deleted and its history was left on the devices.
 */
type GroupPhase = 'creating' | 'there' | 'deleted';

export interface ManifestDefinition {
  phase: GroupPhase;
  createdNs: string;
  definition: StoredGroup;
}

export function groupRecord(group: Group, phase: GroupPhase): GroupRecord {
  const definition: ManifestDefinition = {
    phase,
    createdNs: group.createdNs,
    definition: group.definition,
  };
  return { kind: 'group', group: group.id, name: group.name, definition: { ...definition } };
}

/** What {@link groupRecord} wrote; nothing when somebody else wrote the record. */
export function manifestDefinition(record: GroupRecord): ManifestDefinition | undefined {
  const { phase, createdNs, definition } = record.definition as Partial<ManifestDefinition>;
  if (phase === undefined || createdNs === undefined || definition === undefined) return undefined;
  return { phase, createdNs, definition };
}

export function policyRecord(policy: PolicyRow): PolicyRecord {
  return {
    kind: 'policy',
    policy: { id: policy.id, name: policy.name, ...policy.spec },
    confirmed: true,
  };
}
