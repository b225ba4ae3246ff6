// SPDX-License-Identifier: Apache-2.0

import * as path from 'node:path';

import type { Command } from 'commander';

import { formatBytes } from '../../common/bytes.js';
import type { Act, Context } from '../context.js';
import {
  AnsweredError,
  EXIT_FAILED,
  EXIT_NOT_FOUND,
  isMissingMarker,
  nearestLines,
  ProblemError,
  usageError,
} from '../errors.js';
import { groupNames } from '../groups.js';
import { describeProgress, followJob, jobError } from '../jobs.js';
import { clean, table } from '../output.js';
import { part } from '../rest-client.js';
import type { Group, Job, Marker, RecoveryPoint, Resolved } from '../types.js';
import { inSeconds } from '../wording.js';

/** mark, markers, points, resolve, seal, restore, jobs */
export function addHistoryVerbs(program: Command, act: Act): void {
  program
    .command('mark')
    .description('names this moment')
    .argument('<group>')
    .argument('<label>')
    .option('--keep <duration>', 'like 30d, or forever; else as the policy has it')
    .action(act(mark));
  program
    .command('markers')
    .description('the named moments of a group')
    .argument('<group>')
    .option('--unpin <label>', 'keep this one no longer for its own sake')
    .action(act(markers));
  program
    .command('points')
    .description('points that are kept for their own sake')
    .argument('<group>')
    .option('--from <time>', 'RFC 3339, or like -24h')
    .option('--to <time>', 'RFC 3339, or like -1h')
    .action(act(points));
  program
    .command('resolve')
    .description('which point a moment means, and whether it can be had')
    .argument('<group>')
    .argument('<at>', 'latest, lsn:N, marker:NAME, an RFC 3339 time, or like -5m')
    // -5m looks like an option.
    .allowUnknownOption()
    .action(act(resolve));
  program
    .command('seal')
    .description('seals the active segment and waits for its map')
    .argument('<group>')
    .action(act(seal));
  program
    .command('restore')
    .description('writes volumes as they were at a moment to new raw files')
    .argument('<group>')
    .requiredOption('--at <moment>', 'latest, lsn:N, marker:NAME, an RFC 3339 time, or like -5m')
    .option(
      '--volume <name>',
      'repeat it with --to for several; not needed when the group has one',
      collect,
    )
    .requiredOption('--to <path>', 'the file, one for each --volume', collect)
    .option('--overwrite', 'replace files that are there')
    .option('--no-wait', 'do not wait for the end of the job')
    .action(act(restore));
  program
    .command('jobs')
    .description('long work, newest first, or one of them')
    .argument('[id]')
    .option('--cancel', 'cancel it')
    .option('--follow', 'wait for its end')
    .action(act(jobs));
}

function collect(value: string, before: string[] = []): string[] {
  return [...before, value];
}

async function mark(
  { client, output }: Context,
  group: string,
  label: string,
  options: { keep?: string },
): Promise<void> {
  const body = { label, ...(options.keep !== undefined && { keep: options.keep }) };
  const marker = await client.post<Marker>(`/v1/groups/${part(group)}/markers`, body);
  output.result(marker, () => `marked ${clean(marker.label)} at lsn:${marker.lsn} ${marker.time}`);
}

async function markers(
  { client, output }: Context,
  group: string,
  options: { unpin?: string },
): Promise<void> {
  const at = `/v1/groups/${part(group)}/markers`;
  if (options.unpin !== undefined) {
    const marker = await client.delete<Marker>(`${at}/${part(options.unpin)}`);
    output.result(marker, () => `marker ${clean(options.unpin ?? '')} is no longer pinned`);
    return;
  }
  const all = await client.list<Marker>(at, (marker) => marker.label);
  output.result(all, () =>
    table(
      ['LABEL', 'LSN', 'TIME', 'KEEP UNTIL', 'PINNED'],
      all.map((one) => [
        one.label,
        one.lsn,
        one.time,
        one.keepUntil ?? 'policy',
        one.pinned ? 'yes' : 'no',
      ]),
    ),
  );
}

async function points(
  { client, output }: Context,
  group: string,
  options: { from?: string; to?: string },
): Promise<void> {
  const at = `/v1/groups/${part(group)}/recovery-points`;
  const all = await client.list<RecoveryPoint>(at, (point) => point.lsn, { ...options });
  output.result(all, () =>
    table(
      ['LSN', 'TIME', 'KIND', 'LABEL', 'EXPIRY'],
      all.map((one) => [one.lsn, one.time, one.kind, one.label, one.expiry ?? 'policy']),
    ),
  );
}

async function resolve({ client, output }: Context, group: string, at: string): Promise<void> {
  if (/^--?[a-z]/i.test(at)) throw usageError(`unknown option ${at}`);
  const answer = await client.get<Resolved>(`/v1/groups/${part(group)}/resolve`, { at });
  output.result(answer, () => describeResolved(answer));
  if (answer.reachable) return;
  throw new AnsweredError(isMissingMarker(at, answer.lsn) ? EXIT_NOT_FOUND : EXIT_FAILED);
}

function describeResolved(answer: Resolved): string[] {
  const label = answer.label === undefined ? '' : ` marker:${clean(answer.label)}`;
  const time = answer.time === null ? '' : ` ${answer.time}`;
  const where = answer.lsn === null ? 'no such point' : `lsn:${answer.lsn}${time}${label}`;
  if (answer.reachable) return [`${where}, reachable`];
  return [
    `${where}, not reachable: ${clean(answer.reason ?? 'no reason given')}`,
    ...nearestLines(answer.nearest),
  ];
}

async function seal({ client, output }: Context, group: string): Promise<void> {
  const answer = await client.post<{ sealedLsn: number; mappedLsn: number }>(
    `/v1/groups/${part(group)}/seal`,
  );
  output.result(
    answer,
    () => `sealed up to lsn:${answer.sealedLsn}, mapped to ${answer.mappedLsn}`,
  );
}

interface RestoreOptions {
  at: string;
  volume?: string[];
  to: string[];
  overwrite?: boolean;
  wait: boolean;
}

async function restore(context: Context, group: string, options: RestoreOptions): Promise<void> {
  const { client, output, io } = context;
  const targets = (await volumesOf(context, group, options)).map((volume, at) => ({
    volume,
    path: path.resolve(io.cwd, options.to[at] ?? ''),
    format: 'raw',
    ...(options.overwrite === true && { overwrite: true }),
  }));
  const job = await client
    .post<Job>(`/v1/groups/${part(group)}/restores`, { at: options.at, targets })
    .catch((error: unknown) => {
      if (!(error instanceof ProblemError)) throw error;
      const { status, problem } = error;
      if (problem.reachable !== false || !isMissingMarker(options.at, problem.lsn)) throw error;
      throw new ProblemError(status, problem, { exitCode: EXIT_NOT_FOUND });
    });
  if (!options.wait) {
    output.result(job, () => `job ${job.id} began; everpoint jobs ${job.id} --follow`);
    return;
  }
  const done = await followJob(client, job, output);
  output.result(done, () => describeRestored(done));
}

/** What is to be restored; without --volume, the only volume of the group. */
async function volumesOf(
  { client }: Context,
  group: string,
  { volume, to }: RestoreOptions,
): Promise<string[]> {
  if (volume !== undefined) {
    const twice = volume.find((name, at) => volume.indexOf(name) !== at);
    if (twice !== undefined) throw usageError(`--volume ${twice} is given twice`);
    if (volume.length !== to.length) throw usageError('give one --to for each --volume');
    return volume;
  }
  if (to.length > 1) throw usageError('give one --volume for each --to');
  const { volumes } = await client.get<Group>(`/v1/groups/${part(group)}`);
  const names = volumes.map(({ name }) => name);
  if (names.length === 1) return names;
  throw usageError(`--volume is missing: the group has ${clean(names.join(', '))}`);
}

function describeRestored(job: Job): string[] {
  const result = resultOf(job);
  return [
    `restored as of lsn:${result.lsn ?? '?'} ${result.time ?? ''}`.trimEnd(),
    ...(result.targets ?? []).map(
      (target) =>
        `  ${clean(target.path)}: ${formatBytes(target.dataBytes ?? 0)} of data in ${formatBytes(target.sizeBytes ?? 0)}`,
    ),
  ];
}

async function jobs(
  { client, output }: Context,
  id: string | undefined,
  options: { cancel?: boolean; follow?: boolean },
): Promise<void> {
  if (id === undefined) {
    if (options.cancel === true || options.follow === true) throw usageError('say which job');
    const all = await client.list<Job>('/v1/jobs', (job) => job.id);
    const names = await groupNames(client, output.json);
    output.result(all, () => jobTable(all, names));
    return;
  }
  const at = `/v1/jobs/${part(id)}`;
  if (options.cancel === true) {
    const job = await client.delete<Job>(at);
    output.result(job, () => `job ${job.id} is ${job.state}`);
    return;
  }
  const job = await client.get<Job>(at);
  const shown = options.follow === true ? await followJob(client, job, output) : job;
  const names = await groupNames(client, output.json);
  output.result(shown, () => [
    ...jobTable([shown], names),
    ...(shown.error === undefined ? [] : [clean(jobError(shown).message)]),
    ...(shown.error?.hint === undefined ? [] : [`hint: ${clean(shown.error.hint)}`]),
  ]);
}

interface RestoreResult {
  lsn?: number;
  time?: string;
  targets?: { path: string; dataBytes?: number; sizeBytes?: number }[];
}

function resultOf(job: Job): RestoreResult {
  return job.result ?? {};
}

/** One row a job; below it what does not fit there. */
function jobTable(all: Job[], names: ReadonlyMap<string, string>): string[] {
  const [header = '', ...rows] = table(
    ['JOB', 'KIND', 'STATE', 'GROUP', 'LSN', 'BEGAN'],
    all.map((job) => [
      job.id,
      job.kind,
      job.state,
      job.group === undefined ? '-' : (names.get(job.group) ?? job.group.slice(0, 8)),
      resultOf(job).lsn,
      inSeconds(job.createdAt),
    ]),
  );
  const below = (job: Job): string[] => [
    `  ${describeProgress(job)}`,
    ...(resultOf(job).targets ?? []).map((target) => `  to ${clean(target.path)}`),
  ];
  return [header, ...all.flatMap((job, at) => [rows[at] ?? '', ...below(job)])];
}
