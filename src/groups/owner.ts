// SPDX-License-Identifier: Apache-2.0
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

const run = promisify(execFile);

export interface OwnerIds {
  uid: number;
  gid: number;
}

/**
 * The ids of "user:group", each a name or a number, as the system's name service has them. Nothing
 * when one of them does not exist.
 */
export async function resolveOwner(owner: string): Promise<OwnerIds | undefined> {
  const [user = '', group = ''] = owner.split(':');
  const [uid, gid] = await Promise.all([idOf('passwd', user), idOf('group', group)]);
  return uid === undefined || gid === undefined ? undefined : { uid, gid };
}

/** "user:group" of ids; numbers where there is no name. */
export async function describeOwner(ids: OwnerIds): Promise<string> {
  const [user, group] = await Promise.all([
    entryOf('passwd', String(ids.uid)),
    entryOf('group', String(ids.gid)),
  ]);
  return `${user?.[0] ?? ids.uid}:${group?.[0] ?? ids.gid}`;
}

async function idOf(database: 'passwd' | 'group', name: string): Promise<number | undefined> {
  const entry = await entryOf(database, name);
  if (entry?.[2] !== undefined) return Number(entry[2]);
  return /^\d{1,9}$/.test(name) ? Number(name) : undefined;
}

async function entryOf(database: 'passwd' | 'group', key: string): Promise<string[] | undefined> {
  try {
    const { stdout } = await run('getent', [database, '--', key], { timeout: 5_000 });
    return stdout.trim().split(':');
  } catch {
    // Exit code 2: no such entry. A missing getent leaves numbers.
    return undefined;
  }
}
