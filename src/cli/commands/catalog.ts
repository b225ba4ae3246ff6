// SPDX-License-Identifier: Apache-2.0

import * as fs from 'node:fs';
import * as path from 'node:path';

import type { Command } from 'commander';

import { formatBytes } from '../../common/bytes.js';
import type { Act, Context } from '../context.js';
import { type DiskOptions, disksWithData, groupBody, qemuText } from '../disks.js';
import { CliError, EXIT_FAILED, ProblemError, usageError } from '../errors.js';
import { clean, pairs, table } from '../output.js';
import { part, type RestClient } from '../rest-client.js';
import { parseCount } from '../sizes.js';
import type { Device, Group, Policy } from '../types.js';
import { interruption } from '../wording.js';
import { deviceTable, groupTable } from './service.js';

/** device, policy, group, protect */
export function addCatalogVerbs(program: Command, act: Act): void {
  addDeviceVerbs(program.command('device').description('folders for logs and maps'), act);
  addPolicyVerbs(program.command('policy').description('how long points are kept'), act);
  addGroupVerbs(program.command('group').description('protected disks'), act);
  withDiskOptions(
    program
      .command('protect')
      .description('protects raw files or block devices as one group; says how QEMU takes them')
      .argument('<file...>', 'one for each disk'),
  ).action(act(protect));
}

function collect(value: string, before: string[] = []): string[] {
  return [...before, value];
}

function withDiskOptions(command: Command): Command {
  return command
    .option('--name <name>', "the group's name; else the first file's")
    .option('--create', 'make the files, which must not exist')
    .option('--size <size>', 'of each disk, like 10G; needed with --create')
    .option(
      '--baseline <kind>',
      'only none works so far: history starts empty, and what is on the disk already is not in it; ' +
        'needed without --create',
    )
    .option('--queues <n>', 'of each disk')
    .option('--block-size <bytes>', '512 or 4096')
    .option('--owner <user:group>', 'of the sockets, for a QEMU that is not root')
    .option('--policy <name>', 'else the policy named default')
    .option('--device <name>', 'where the log goes, in order; may be repeated', collect)
    .option('--ack <when>', 'primary or both')
    .option('--flush <what>', 'primary or both')
    .option(
      '--on-log-pressure <mode>',
      'throttle: guests wait for the log, for at most --throttle-max; gap: they never do',
    )
    .option('--throttle-max <time>', 'like 5s or 500ms')
    .option(
      '--log-buffer <kind>',
      'tmpfs, or one that survives a power cut: file:PATH (on an SSD), pmem:PATH',
    );
}

function addDeviceVerbs(device: Command, act: Act): void {
  device
    .command('add')
    .description('takes a folder as a device')
    .argument('<path>')
    .option('--name <name>', "else the folder's")
    .action(
      act(async ({ client, output, io }, folder: string, options: { name?: string }) => {
        const body = { path: path.resolve(io.cwd, folder), ...options };
        const answer = await client.post<Device>('/v1/devices', body);
        output.result(answer, () => `device ${answer.name} (${answer.id}) added: ${answer.path}`);
      }),
    );
  device
    .command('list')
    .description('all devices')
    .action(
      act(async ({ client, output }) => {
        const devices = await client.list<Device>('/v1/devices', (one) => one.id);
        output.result(devices, () => deviceTable(devices));
      }),
    );
  device
    .command('remove')
    .description('forgets a device and leaves what lies on it')
    .argument('<device>', 'name or id')
    .action(
      act(async ({ client, output }, name: string) => {
        await client.delete(`/v1/devices/${part(name)}`);
        output.result({ removed: name }, () => `device ${name} removed`);
      }),
    );
}

interface PolicyOptions {
  keepAll: string;
  grid?: string[];
  snapshotEvery?: string;
  mergeFanIn?: string;
  pinLimit?: string;
}

function addPolicyVerbs(policy: Command, act: Act): void {
  policy
    .command('list')
    .description('all policies')
    .action(
      act(async ({ client, output }) => {
        const policies = await client.list<Policy>('/v1/policies', (one) => one.id);
        output.result(policies, () => policyTable(policies));
      }),
    );
  policy
    .command('show')
    .description('one policy')
    .argument('<policy>', 'name or id')
    .action(
      act(async ({ client, output }, name: string) => {
        const answer = await client.get<Policy>(`/v1/policies/${part(name)}`);
        output.result(answer, () => describePolicy(answer));
      }),
    );
  policy
    .command('create')
    .description('makes a policy')
    .argument('<name>')
    .requiredOption('--keep-all <duration>', 'every write stays reachable so long, like 48h')
    .option('--grid <every:for>', 'one point each 1h for 14d is 1h:14d; may be repeated', collect)
    .option('--snapshot-every <duration>', 'a snapshot by itself')
    .option('--merge-fan-in <n>', 'maps that are merged at once')
    .option('--pin-limit <n>', 'snapshots that may be pinned at once')
    .action(
      act(async ({ client, output }, name: string, options: PolicyOptions) => {
        const answer = await client.post<Policy>('/v1/policies', policyBody(name, options));
        output.result(answer, () => `policy ${answer.name} (${answer.id}) created`);
      }),
    );
  policy
    .command('delete')
    .description('removes a policy that no group follows')
    .argument('<policy>', 'name or id')
    .action(
      act(async ({ client, output }, name: string) => {
        await client.delete(`/v1/policies/${part(name)}`);
        output.result({ deleted: name }, () => `policy ${name} deleted`);
      }),
    );
}

function policyBody(name: string, options: PolicyOptions): object {
  const grid = (options.grid ?? []).map((step) => {
    const match = /^([^:\s]+)(?::|\s+for\s+)([^:\s]+)$/.exec(step);
    if (match === null) throw usageError(`--grid is EVERY:FOR, like 1h:14d, not ${step}`);
    return { every: match[1], for: match[2] };
  });
  return {
    name,
    keepAll: options.keepAll,
    grid,
    ...(options.snapshotEvery !== undefined && { snapshotEvery: options.snapshotEvery }),
    ...(options.mergeFanIn !== undefined && {
      mergeFanIn: parseCount(options.mergeFanIn, '--merge-fan-in'),
    }),
    ...(options.pinLimit !== undefined && {
      pinLimit: parseCount(options.pinLimit, '--pin-limit', 0),
    }),
  };
}

function policyTable(policies: Policy[]): string[] {
  return table(
    ['POLICY', 'KEEP ALL', 'GRID', 'SNAPSHOT EVERY'],
    policies.map((one) => [one.name, one.keepAll, gridText(one), one.snapshotEvery]),
  );
}

function describePolicy(policy: Policy): string[] {
  return pairs([
    ['policy', `${policy.name} (${policy.id})`],
    ['keep all', policy.keepAll],
    ['grid', gridText(policy)],
    ['snapshot every', policy.snapshotEvery],
    ['merge fan-in', policy.mergeFanIn],
    ['pin limit', policy.pinLimit],
  ]);
}

function gridText({ grid }: Policy): string {
  return grid.map((step) => `${step.every} for ${step.for}`).join(', ') || '-';
}

interface GroupCreateOptions extends DiskOptions {
  file?: string;
  disk?: string[];
}

function addGroupVerbs(group: Command, act: Act): void {
  withDiskOptions(
    group
      .command('create')
      .description('makes a group from a JSON file, or from options as `protect` has them')
      .option('--file <json>', 'the body as the REST face has it; - is standard input')
      .option('--disk <path>', 'a raw file or block device; may be repeated', collect),
  ).action(
    act(async (context, options: GroupCreateOptions) => {
      const { file, disk, ...rest } = options;
      if ((file === undefined) === (disk === undefined)) {
        throw usageError('give either --file or --disk');
      }
      if (file !== undefined && Object.keys(rest).length > 0) {
        throw usageError('--file says everything; no other option goes with it');
      }
      if (file === undefined) {
        await protect(context, disk ?? [], rest);
        return;
      }
      await create(context, await readJson(context, file)).catch((error: unknown) => {
        throw error instanceof ProblemError ? error.inFields() : error;
      });
    }),
  );
  group
    .command('list')
    .description('all groups')
    .action(
      act(async ({ client, output }) => {
        const groups = await client.list<Group>('/v1/groups', (one) => one.id);
        output.result(groups, () => groupTable(groups));
      }),
    );
  group
    .command('show')
    .description('one group, and how QEMU takes its disks')
    .argument('<group>', 'name or id')
    .action(
      act(async ({ client, output }, name: string) => {
        const answer = await client.get<Group>(`/v1/groups/${part(name)}`);
        output.result(answer, () => describeGroup(answer));
      }),
    );
  group
    .command('delete')
    .description('ends protection; the disks stay as they are')
    .argument('<group>', 'name or id')
    .option('--force', 'also while a guest is connected, which loses the disk')
    .option('--delete-history', 'remove log and maps from the devices too; else they are kept')
    .action(act(deleteGroup));
}

async function deleteGroup(
  { client, output }: Context,
  name: string,
  options: { force?: boolean; deleteHistory?: boolean },
): Promise<void> {
  const historyKept = options.deleteHistory !== true;
  // Afterwards nobody knows where it lies.
  const folders = historyKept ? await historyFolders(client, name) : [];
  await client.delete(`/v1/groups/${part(name)}`, {
    force: options.force === true ? 'true' : undefined,
    deleteHistory: historyKept ? undefined : 'true',
  });
  output.result({ deleted: name, historyKept, folders }, () =>
    historyKept
      ? [
          `group ${name} deleted; its history was kept`,
          ...folders.map((folder) => `  ${clean(folder)}`),
          'remove these folders when it is not needed; group delete --delete-history does both',
        ]
      : `group ${name} deleted, its history too`,
  );
}

/** Where log and maps of a group lie, one folder on each of its devices. */
async function historyFolders(client: RestClient, name: string): Promise<string[]> {
  const group = await client.get<Group>(`/v1/groups/${part(name)}`);
  const devices = await client.list<Device>('/v1/devices', (one) => one.id);
  return devices
    .filter((one) => group.devices.includes(one.name))
    .map((one) => path.join(one.path, 'groups', group.id));
}

async function readJson({ io }: Context, file: string): Promise<unknown> {
  try {
    if (file !== '-') return JSON.parse(fs.readFileSync(path.resolve(io.cwd, file), 'utf8'));
    let text = '';
    for await (const chunk of io.stdin) text += String(chunk);
    return JSON.parse(text);
  } catch (error) {
    throw new CliError(EXIT_FAILED, `cannot read ${file}: ${(error as Error).message}`);
  }
}

async function protect(context: Context, files: string[], options: DiskOptions): Promise<void> {
  const { client, io, output } = context;
  const body = groupBody(files, options, io.cwd);
  // Before: the service may write to them as soon as it has them.
  const lacking = client.isLocal ? disksWithData(files, options, io.cwd) : [];
  await create(context, body);
  for (const file of lacking) {
    output.warning(`what is on ${file} now is not in history; restores show zeroes there`);
  }
}

async function create({ client, output }: Context, body: unknown): Promise<void> {
  const group = await client.post<Group>('/v1/groups', body);
  output.result(group, () => [
    `group ${group.name} (${group.id}) is ${group.state}`,
    ...exportLines(group),
  ]);
}

function exportLines(group: Group): string[] {
  if (group.volumes.every((volume) => volume.exports.length === 0)) return [];
  return ['', 'qemu-system-x86_64 \\', ...qemuText(group)];
}

function pressureText({ onLogPressure, throttleMaxMs }: Group): string {
  const wait = `${throttleMaxMs / 1000} s`;
  return onLogPressure === 'throttle'
    ? `under log pressure guests wait, up to ${wait}`
    : 'a gap under log pressure';
}

function deviceText({ name, state, reason }: Group['deviceStates'][number]): string {
  if (state === 'ok') return name;
  return `${name} (${reason === undefined ? state : `${state}: ${reason}`})`;
}

function bufferText({ logBuffer, logPressure, bufferDurable }: Group): string {
  const where = logBuffer.path === undefined ? '' : ` ${logBuffer.path}`;
  const survives = bufferDurable ? 'survives a power cut' : 'does not survive a power cut';
  return `${logBuffer.kind}${where}, ${survives}, ${Math.round(logPressure * 100)}% used`;
}

function describeGroup(group: Group): string[] {
  return [
    ...pairs([
      ['group', `${group.name} (${group.id})`],
      ['state', group.reason === '' ? group.state : `${group.state}: ${group.reason}`],
      ['policy', group.policy],
      ['ack, flush', `${group.ack}, ${group.flush}; ${pressureText(group)}`],
      ['devices', group.deviceStates.map(deviceText).join(', ')],
      ['lsn', `${group.lsn}, durable ${group.durableLsn}, rpo ${group.rpoSeconds.toFixed(1)} s`],
      ['history from', group.historyFrom],
      ['log', formatBytes(group.logBytes)],
      ['log buffer', bufferText(group)],
    ]),
    ...interruption(group).map(clean),
    ...group.volumes.flatMap((volume) => [
      '',
      clean(`volume ${volume.name}, ${formatBytes(volume.sizeBytes)}`),
      clean(`  on ${volume.primary.path}`),
      ...volume.exports.map((one) =>
        clean(`  ${one.uri} ${one.connected ? '(connected)' : '(not connected)'}`),
      ),
    ]),
    ...exportLines(group),
  ];
}
