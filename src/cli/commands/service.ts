// SPDX-License-Identifier: Apache-2.0

import { spawn } from 'node:child_process';
import * as path from 'node:path';
import { fileURLToPath } from 'node:url';

import type { Command } from 'commander';

import { formatBytes } from '../../common/bytes.js';
import { tryParseTime } from '../../common/time.js';
import { isUuid } from '../../common/uuid.js';
import type { Act, Context } from '../context.js';
import { CliError, EXIT_FAILED } from '../errors.js';
import { groupNames } from '../groups.js';
import { describeProgress } from '../jobs.js';
import { clean, pairs, table } from '../output.js';
import { parseCount } from '../sizes.js';
import type { Device, Group, Info, Job } from '../types.js';
import { formatSeconds, interruption } from '../wording.js';

/** status, info, events, config check */
export function addServiceVerbs(program: Command, act: Act): void {
  program
    .command('status')
    .description('the service, its devices and groups at a glance')
    .action(act(status));
  program.command('info').description('version, build, uptime, data plane').action(act(info));
  program
    .command('events')
    .description('what happens, as it happens; with --json one object a line')
    .option('--count <n>', 'end after so many')
    .action(act(events));
  const config = program.command('config').description('the configuration of the service');
  config
    .command('check')
    .description('validates and explains the configuration; needs no service')
    .option('--config <file>', 'the YAML file')
    .action(act(checkConfig));
}

function describeDataPlane({ dataPlane }: Info): string {
  if (dataPlane.state === 'up') return `up, pid ${dataPlane.pid ?? '-'}`;
  return dataPlane.reason === undefined
    ? dataPlane.state
    : `${dataPlane.state}: ${dataPlane.reason}`;
}

async function status({ client, output }: Context): Promise<void> {
  const [service, devices, groups] = await Promise.all([
    client.get<Info>('/v1/info'),
    client.list<Device>('/v1/devices', (device) => device.id),
    client.list<Group>('/v1/groups', (group) => group.id),
  ]);
  output.result({ info: service, devices, groups }, () => [
    ...pairs([
      [
        'service',
        `${service.version}, pid ${service.pid}, up ${formatSeconds(service.uptimeSeconds)}`,
      ],
      ['data plane', describeDataPlane(service)],
    ]),
    '',
    ...(devices.length > 0 ? deviceTable(devices) : ['no devices']),
    '',
    ...(groups.length > 0 ? groupTable(groups) : ['no groups']),
  ]);
}

export function deviceTable(devices: Device[]): string[] {
  const lines = table(
    ['DEVICE', 'STATE', 'FREE', 'SIZE', 'PATH'],
    devices.map((device) => [
      device.name,
      device.state,
      formatBytes(device.freeBytes),
      formatBytes(device.sizeBytes),
      device.path,
    ]),
  );
  return [...lines, ...reasons(devices)];
}

export function groupTable(groups: Group[]): string[] {
  const lines = table(
    ['GROUP', 'STATE', 'LSN', 'DURABLE', 'RPO', 'BUF', 'LOG', 'VOLUMES', 'POLICY'],
    groups.map((group) => [
      group.name,
      group.state,
      group.lsn,
      group.durableLsn,
      shortSeconds(group.rpoSeconds),
      `${Math.round(group.logPressure * 100)}%`,
      formatBytes(group.logBytes),
      group.volumes.map((volume) => volume.name).join(','),
      group.policy,
    ]),
  );
  const open = groups.flatMap((group) =>
    interruption(group).map((line) => clean(`${group.name}: ${line}`)),
  );
  return [...lines, ...reasons(groups), ...open];
}

/** `0.2s`, `3h 5m` */
function shortSeconds(seconds: number): string {
  return seconds < 60 ? `${seconds.toFixed(1)}s` : formatSeconds(seconds);
}

/** Why one is not as it should be: below the table, where a sentence has room. */
function reasons(all: { name: string; reason?: string }[]): string[] {
  return all.flatMap(({ name, reason }) =>
    reason === undefined || reason === '' ? [] : [clean(`${name}: ${reason}`)],
  );
}

async function info({ client, output }: Context): Promise<void> {
  const answer = await client.get<Info>('/v1/info');
  const { build } = answer;
  const parts =
    build === null
      ? 'unknown while the data plane is down'
      : [
          ...(['uring', 'pmem', 'spdk'] as const).filter((name) => build[name]),
          ...(/^(none)?$/.test(build.sanitizer) ? [] : [`${build.sanitizer} sanitizer`]),
        ].join(', ');
  output.result(answer, () => [
    ...pairs([
      ['version', answer.version],
      ['build', parts],
      ['reactors', answer.reactors],
      ['uptime', formatSeconds(answer.uptimeSeconds)],
      ['pid', answer.pid],
      ['data plane', describeDataPlane(answer)],
    ]),
    ...answer.dataPlane.notes.map((note) => `note: ${note}`),
  ]);
}

async function events(context: Context, options: { count?: string }): Promise<void> {
  const { client, output } = context;
  const count = options.count === undefined ? Infinity : parseCount(options.count, '--count');
  let seen = 0;
  // Before the stream: the name of a group that is deleted then is still known.
  let names = await groupNames(client, output.json);
  for await (const event of client.events('/v1/events')) {
    if (event.type === 'ping') continue;
    let data: unknown;
    try {
      data = JSON.parse(event.data);
    } catch {
      data = event.data;
    }
    if (!output.json && isUnknown(data, names)) names = await groupNames(client, output.json);
    const text = `${event.type.padEnd(10)} ${describeEvent(data, names)}`;
    output.line({ type: event.type, data }, text);
    seen += 1;
    if (seen >= count) return;
  }
  throw new CliError(EXIT_FAILED, 'the service ended the stream of events');
}

/** Its group was made after the names were asked for. */
function isUnknown(data: unknown, names: ReadonlyMap<string, string>): boolean {
  const { group } = (data ?? {}) as { group?: unknown };
  return typeof group === 'string' && isUuid(group) && !names.has(group);
}

function describeEvent(data: unknown, names: ReadonlyMap<string, string>): string {
  if (typeof data !== 'object' || data === null) return String(data);
  const show = (key: string, value: unknown): string => {
    if (key === 'group') return names.get(String(value)) ?? String(value);
    if (key === 'progress') return JSON.stringify(describeProgress(data as Job));
    if (typeof value !== 'string') return JSON.stringify(value);
    return tryParseTime(value) === undefined && /[^\w./:-]/.test(value)
      ? JSON.stringify(value)
      : value;
  };
  return Object.entries(data)
    .map(([key, value]) => `${key}=${show(key, value)}`)
    .join(' ');
}

/** The service knows its configuration best: it is asked to check, not started. */
async function checkConfig({ io }: Context, options: { config?: string }): Promise<void> {
  const root = fileURLToPath(new URL('../../..', import.meta.url));
  const args = [path.join(root, 'dist', 'main.js'), '--check-config'];
  if (options.config !== undefined) args.push('--config', path.resolve(io.cwd, options.config));
  const child = spawn(process.execPath, args, {
    cwd: io.cwd,
    env: io.environment,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  child.stdout.on('data', (chunk: Buffer) => io.stdout.write(chunk));
  child.stderr.on('data', (chunk: Buffer) => io.stderr.write(chunk));
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  if (code !== 0) throw new CliError(EXIT_FAILED, 'the configuration cannot be used');
}
