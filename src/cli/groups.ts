// SPDX-License-Identifier: Apache-2.0

import { ProblemError } from './errors.js';
import type { RestClient } from './rest-client.js';
import type { Group } from './types.js';

/**
 * The names of groups by their ids, for people: jobs and events have the ids alone. Machines get
 * what the service says, so that nothing is asked for them.
 */
export async function groupNames(client: RestClient, json: boolean): Promise<Map<string, string>> {
  if (json) return new Map();
  try {
    const groups = await client.list<Group>('/v1/groups', (group) => group.id);
    return new Map(groups.map(({ id, name }) => [id, name]));
  } catch (error) {
    // The ids do as well.
    if (error instanceof ProblemError) return new Map();
    throw error;
  }
}
