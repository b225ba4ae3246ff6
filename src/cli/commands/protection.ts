// SPDX-License-Identifier: Apache-2.0

import type { Command } from 'commander';

import type { Act, Context } from '../context.js';
import { usageError } from '../errors.js';
import { clean, table } from '../output.js';
import { part } from '../rest-client.js';
import type { Gap, Group } from '../types.js';
import { interruption } from '../wording.js';

/** pause, resume, gaps */
export function addProtectionVerbs(program: Command, act: Act): void {
  program
    .command('pause')
    .description('stops protection: no moment from now until resume can be restored')
    .argument('<group>')
    .option('--yes', 'it is meant')
    .action(act(pause));
  program
    .command('resume')
    .description('ends a pause: what it missed is read from the disks, and protection goes on')
    .argument('<group>')
    .option('--yes', 'it is meant')
    .action(act(resume));
  program
    .command('gaps')
    .description('stretches in which protection was interrupted')
    .argument('<group>')
    .action(act(gaps));
}

interface Confirmed {
  yes?: boolean;
}

function pause(context: Context, group: string, options: Confirmed): Promise<void> {
  const what = 'no moment from now until resume can be restored';
  return change(context, group, 'pause', options, what);
}

function resume(context: Context, group: string, options: Confirmed): Promise<void> {
  const what = 'the disks are read to find what the pause missed';
  return change(context, group, 'resume', options, what);
}

async function change(
  { client, output }: Context,
  name: string,
  verb: 'pause' | 'resume',
  { yes }: Confirmed,
  what: string,
): Promise<void> {
  if (yes !== true) throw usageError(`${verb} needs --yes: ${what}`);
  const group = await client.post<Group>(`/v1/groups/${part(name)}/${verb}`, { confirm: true });
  output.result(group, () => [
    clean(`group ${group.name} is ${group.state}`),
    ...interruption(group).map(clean),
  ]);
}

async function gaps({ client, output }: Context, group: string): Promise<void> {
  const all = await client.list<Gap>(`/v1/groups/${part(group)}/gaps`, (gap) => gap.fromLsn);
  output.result(all, () =>
    all.length === 0
      ? 'no gaps'
      : table(
          ['AFTER LSN', 'TO LSN', 'FROM', 'TO', 'REASON'],
          all.map((gap) => [gap.fromLsn, gap.toLsn ?? 'open', gap.from, gap.to, gap.reason]),
        ),
  );
}
