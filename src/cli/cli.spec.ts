// SPDX-License-Identifier: Apache-2.0

import * as fs from 'node:fs';
import * as http from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { PassThrough } from 'node:stream';

import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { parseAddress } from './connection.js';
import { diskName, groupBody, qemuArguments } from './disks.js';
import { shellQuote, table } from './output.js';
import { runCli } from './program.js';
import { parseSize } from './sizes.js';
import type { Group, Job } from './types.js';
import { formatSeconds } from './wording.js';

interface Seen {
  method: string;
  url: string;
  body: unknown;
  authorization: string | undefined;
}

type Answer = { status?: number; body?: unknown } | ((response: http.ServerResponse) => void);

/** A small service: answers by `METHOD path`, and remembers what it was asked. */
class FakeService {
  readonly seen: Seen[] = [];
  readonly answers = new Map<string, Answer>();
  readonly server = http.createServer((request, response) => {
    let text = '';
    request.on('data', (chunk: Buffer) => (text += chunk.toString()));
    request.on('end', () => {
      const seen: Seen = {
        method: request.method ?? '',
        url: request.url ?? '',
        body: text === '' ? undefined : JSON.parse(text),
        authorization: request.headers.authorization,
      };
      this.seen.push(seen);
      this.answer(seen, response);
    });
  });

  on(what: string, body: unknown, status = 200): void {
    this.answers.set(what, { status, body });
  }

  onRaw(what: string, answer: (response: http.ServerResponse) => void): void {
    this.answers.set(what, answer);
  }

  private answer(seen: Seen, response: http.ServerResponse): void {
    const answer = this.answers.get(`${seen.method} ${seen.url.split('?')[0]}`);
    if (typeof answer === 'function') {
      answer(response);
      return;
    }
    const missing = { title: 'Not Found', status: 404, detail: 'There is no such route.' };
    const { status = 200, body } = answer ?? { status: 404, body: missing };
    response.statusCode = status;
    response.setHeader('Content-Type', 'application/json');
    response.end(body === undefined ? undefined : JSON.stringify(body));
  }
}

let service: FakeService;
let folder: string;
let url: string;

beforeEach(async () => {
  folder = fs.mkdtempSync(path.join(tmpdir(), 'everpoint-cli-'));
  fs.writeFileSync(path.join(folder, 'admin.token'), 'secret-token\n');
  service = new FakeService();
  await new Promise<void>((resolve) => service.server.listen(0, '127.0.0.1', resolve));
  url = `http://127.0.0.1:${(service.server.address() as AddressInfo).port}`;
});

afterEach(async () => {
  service.server.closeAllConnections();
  await new Promise((resolve) => service.server.close(resolve));
  fs.rmSync(folder, { recursive: true, force: true });
});

async function run(args: string[], environment: NodeJS.ProcessEnv = {}, input = '') {
  const stdout = new PassThrough();
  const stderr = new PassThrough();
  const stdin = new PassThrough();
  stdin.end(input);
  const code = await runCli(args, {
    stdout,
    stderr,
    stdin,
    environment: { EVERPOINT_URL: url, EVERPOINT_STATE: folder, ...environment },
    cwd: folder,
  });
  const read = (stream: PassThrough) => String(stream.read() ?? '');
  return { code, out: read(stdout), err: read(stderr) };
}

const GROUP: Group = {
  id: '1b2c3d4e-5f60-4718-8a9b-0c1d2e3f4a5b',
  name: 'web-1',
  policy: 'default',
  ack: 'primary',
  flush: 'both',
  onLogPressure: 'throttle',
  throttleMaxMs: 5000,
  logBuffer: { kind: 'tmpfs' },
  devices: ['default'],
  state: 'protected',
  reason: '',
  lsn: 1234,
  durableLsn: 1200,
  rpoSeconds: 0.25,
  historyFrom: null,
  logBytes: 1024 * 1024,
  logPressure: 0.12,
  bufferDurable: false,
  gap: null,
  resync: null,
  deviceStates: [{ name: 'default', state: 'ok' }],
  volumes: ['vda', 'vdb'].map((name) => ({
    name,
    sizeBytes: 10 * 1024 ** 3,
    primary: { kind: 'file', path: `/images/${name}.raw` },
    exports: [
      {
        kind: 'vhost-user-blk',
        queues: 1,
        uri: `unix:/run/${name}.sock`,
        connected: false,
        qemuArgs: [
          ...['-m', '1G', '-object', 'memory-backend-memfd,id=m,size=1G,share=on'],
          ...['-numa', 'node,memdev=m', '-chardev', `socket,id=${name},path=/run/a b/${name}`],
          ...['-device', `vhost-user-blk-pci,chardev=${name}`],
        ],
      },
    ],
  })),
};

const JOB: Job = {
  id: 'job-1',
  kind: 'restore',
  state: 'running',
  createdAt: '2026-03-01T12:00:00.000000000Z',
  progress: { done: 0, total: 2048, unit: 'bytes', perSecond: 512, etaSeconds: 4 },
};

describe('everpoint', () => {
  it('asks with the token of the state folder, and shows a table', async () => {
    service.on('GET /v1/groups', [GROUP]);
    const { code, out, err } = await run(['group', 'list']);
    expect({ code, err }).toEqual({ code: 0, err: '' });
    expect(out.split('\n')[1]).toMatch(
      /^web-1 +protected +1234 +1200 +0\.3s +12% +1 MiB +vda,vdb +default$/,
    );
    expect(service.seen).toMatchObject([
      { method: 'GET', url: '/v1/groups?limit=1000', authorization: 'Bearer secret-token' },
    ]);
  });

  it('takes the token of the most particular place', async () => {
    service.on('GET /v1/groups', []);
    fs.writeFileSync(path.join(folder, 'other'), 'from-file');
    await run(['group', 'list'], { EVERPOINT_TOKEN: 'from-env' });
    await run(['group', 'list'], {
      EVERPOINT_TOKEN: 'from-env',
      EVERPOINT_TOKEN_FILE: `${folder}/other`,
    });
    await run(['--token-file', `${folder}/other`, 'group', 'list']);
    await run(['group', 'list'], { EVERPOINT_STATE: path.join(folder, 'none') });
    expect(service.seen.map((seen) => seen.authorization)).toEqual([
      'Bearer from-env',
      'Bearer from-file',
      'Bearer from-file',
      undefined,
    ]);
    const missing = await run(['--token-file', `${folder}/nothing`, 'group', 'list']);
    expect(missing).toMatchObject({ code: 1 });
    expect(service.seen).toHaveLength(4);
  });

  it('gives machines the answer and nothing else, before and after the verb', async () => {
    service.on('GET /v1/groups/web-1', GROUP);
    for (const args of [
      ['--json', 'group', 'show', 'web-1'],
      ['group', 'show', 'web-1', '--json'],
    ]) {
      const { out, err } = await run(args);
      expect(JSON.parse(out)).toEqual(GROUP);
      expect(err).toBe('');
    }
  });

  it('reads every page', async () => {
    const markers = Array.from({ length: 2500 }, (_, at) => ({ label: `m ${at}`, lsn: at }));
    service.server.removeAllListeners('request');
    service.server.on('request', (request: http.IncomingMessage, response: http.ServerResponse) => {
      const query = new URL(request.url ?? '', url).searchParams;
      const after = query.get('after');
      const from = after === null ? 0 : markers.findIndex((one) => one.label === after) + 1;
      response.end(JSON.stringify(markers.slice(from, from + Number(query.get('limit')))));
    });
    const { out } = await run(['markers', 'web-1', '--json']);
    expect(JSON.parse(out)).toEqual(markers);
  });

  it('has an exit code for each way to fail', async () => {
    const problem = { title: 'Not Found', status: 404, detail: 'There is no group "x".' };
    service.on('GET /v1/groups/x', problem, 404);
    expect(await run(['group', 'show', 'x'])).toEqual({
      code: 3,
      out: '',
      err: 'everpoint: There is no group "x".\n',
    });
    const down = await run(['group', 'list', '--url', 'http://127.0.0.1:1']);
    expect(down).toMatchObject({ code: 4, out: '' });
    expect(down.err).toMatch(/cannot reach the service at http:\/\/127\.0\.0\.1:1: .*ECONNREFUSED/);
    expect((await run(['--url', `unix:${folder}/none.sock`, 'info'])).code).toBe(4);
    service.on('GET /v1/info', { title: 'Internal Server Error' }, 500);
    expect((await run(['info'])).code).toBe(1);
    expect((await run(['--help'])).code).toBe(0);
    expect((await run(['--version'])).out).toMatch(/^\d+\.\d+\.\d+\n$/);
  });

  it.each([
    [[]],
    [['frobnicate']],
    [['group']],
    [['group', 'show']],
    [['group', 'show', 'a', 'b']],
    [['group', 'list', '--wrong']],
    [['resolve', 'a', '--wrong']],
    [['restore', 'a', '--at', 'latest']],
    [['restore', 'a', '--at', 'latest', '--volume', 'a', '--volume', 'b', '--to', 'c']],
    [['protect']],
    [['protect', 'a.raw', '--create']],
    [['protect', 'a.raw', '--create', '--size', '10X']],
    [['protect', 'a.raw', '--queues', '0']],
    [['group', 'create']],
    [['group', 'create', '--file', 'a', '--disk', 'b']],
    [['policy', 'create', 'p']],
    [['policy', 'create', 'p', '--keep-all', '1h', '--grid', '1h']],
    [['jobs', '--cancel']],
    [['--url', 'ftp://x', 'info']],
    [['--url', 'banana', 'info']],
    [['help', 'nonsense']],
    [['help', 'group', 'nonsense']],
    [['group', 'help', 'nonsense']],
    [['protect', 'a.raw']],
    [['group', 'create', '--disk', 'a.raw']],
    [['restore', 'a', '--at', 'latest', '--to', 'b', '--to', 'c']],
    [
      [
        'restore',
        'a',
        '--at',
        'latest',
        '--volume',
        'v',
        '--to',
        'b',
        '--volume',
        'v',
        '--to',
        'c',
      ],
    ],
  ])('calls %j wrong usage, and asks nobody', async (args) => {
    const { code, out, err } = await run(args);
    expect({ code, out }).toEqual({ code: 2, out: '' });
    expect(err).not.toBe('');
    const json = await run([...args, '--json']);
    expect(json).toMatchObject({ code: 2, out: '' });
    const shown = JSON.parse(json.err) as { message: string };
    expect(shown).toMatchObject({ exitCode: 2 });
    expect(shown.message).toMatch(/^(?!error)./);
    expect(json.err.trimEnd()).not.toContain('\n');
    expect(service.seen).toEqual([]);
  });

  it('shows what a problem says: fields, hint, nearest points', async () => {
    const body = {
      title: 'Conflict',
      detail: 'lsn:9 lies in a gap',
      hint: 'take one of the nearest',
      nearest: { before: { lsn: 8, time: 'T8' }, after: { lsn: 12, time: 'T12' } },
    };
    service.on('POST /v1/groups/g/restores', body, 409);
    const args = ['restore', 'g', '--at', 'lsn:9', '--volume', 'vda', '--to', 'out.raw'];
    expect(await run(args)).toEqual({
      code: 1,
      out: '',
      err: [
        'everpoint: lsn:9 lies in a gap',
        '  nearest before: lsn:8 T8',
        '  nearest after:  lsn:12 T12',
        'hint: take one of the nearest',
        '',
      ].join('\n'),
    });
    const json = await run([...args, '--json']);
    expect(json.out).toBe('');
    expect(JSON.parse(json.err)).toMatchObject({ ...body, exitCode: 1 });
    service.on('GET /v1/info', { title: 'Unauthorized' }, 401);
    const token = { EVERPOINT_STATE: path.join(folder, 'none') };
    const unsigned = await run(['info'], token);
    expect(unsigned.err.split('\n').slice(0, 2)).toEqual([
      'everpoint: not signed in: no token',
      `  there is no ${folder}/none/admin.token`,
    ]);
    expect(unsigned.err).toMatch(/^hint: --state FOLDER/m);
    expect((await run(['info'])).err).toMatch(/^everpoint: not signed in: .* knows no such token/);
  });

  it('says what a moment lacks, and ends as it is', async () => {
    const before = { lsn: 8, time: '2026-03-01T12:00:00.123456789Z' };
    const gap = { lsn: 9, time: null, reachable: false, reason: 'In a gap.' };
    service.on('GET /v1/groups/g/resolve', { ...gap, nearest: { before, after: null } });
    expect(await run(['resolve', 'g', 'lsn:9'])).toEqual({
      code: 1,
      out: 'lsn:9, not reachable: In a gap.\nnearest before: lsn:8 2026-03-01T12:00:00Z\n',
      err: '',
    });
    const machine = await run(['resolve', 'g', 'lsn:9', '--json']);
    expect(machine).toMatchObject({ code: 1, err: '' });
    expect(JSON.parse(machine.out)).toMatchObject({ nearest: { before } });
    // A marker that is there may lie in a gap.
    expect((await run(['resolve', 'g', 'marker:m'])).code).toBe(1);

    const missing = {
      lsn: null,
      time: null,
      reachable: false,
      reason: 'There is no marker "m".',
      nearest: { before: null, after: null },
    };
    service.on('GET /v1/groups/g/resolve', missing);
    expect((await run(['resolve', 'g', 'marker:m'])).code).toBe(3);
    expect((await run(['resolve', 'g', '-5m'])).code).toBe(1);
    const detail = 'marker:m is not reachable: There is no marker "m".';
    const hint = 'Take one of the points in "nearest".';
    service.on('POST /v1/groups/g/restores', { ...missing, title: 'Conflict', detail, hint }, 409);
    const restore = ['restore', 'g', '--volume', 'vda', '--to', 'o', '--at'];
    expect(await run([...restore, 'marker:m'])).toEqual({
      code: 3,
      out: '',
      err: `everpoint: ${detail}\n`,
    });
    expect((await run([...restore, 'lsn:9'])).code).toBe(1);
    const near = { ...gap, nearest: { before, after: before } };
    service.on('POST /v1/groups/g/restores', { ...near, detail: 'lsn:9: no', hint }, 409);
    expect((await run([...restore, 'marker:m'])).code).toBe(1);
    expect((await run([...restore, 'lsn:9'])).err.split('\n').slice(1)).toEqual([
      '  nearest before: lsn:8 2026-03-01T12:00:00Z',
      '  nearest after:  lsn:8 2026-03-01T12:00:00Z',
      'hint: Take one of the points above.',
      '',
    ]);
  });

  it.each([
    ['label', 'label must have 1 to 255 bytes', 'label must have 1 to 255 bytes'],
    ['volumes.0.primary.path', '/x is not under a root', '/x is not under a root'],
    [
      'volumes.1.primary.path',
      '/x does not exist; "create": true makes a file',
      '/x does not exist; --create with --size makes it',
    ],
    ['targets.0.path', 'path must be absolute', 'path of target 1 must be absolute'],
    [
      'volumes.0.primary.sizeBytes',
      'is needed with "create"',
      'size of disk 1 is needed with --create',
    ],
    [
      'volumes.0.baseline',
      '"exact" needs a copy; set "baseline": "none" (for an empty disk)',
      'baseline of disk 1: "exact" needs a copy; use --baseline none (for an empty disk)',
    ],
    ['devices.1', 'is given twice', 'device 2 is given twice'],
  ])('says what is wrong with %s in words of its own: %s', async (field, message, words) => {
    const problem = { title: 'Bad Request', detail: `${field}: ${message}` };
    service.on('POST /v1/groups', { ...problem, errors: [{ field, message }] }, 400);
    const args = ['protect', 'a.raw', '--baseline', 'none'];
    expect(await run(args)).toEqual({ code: 2, out: '', err: `everpoint: ${words}\n` });
    // Who wrote the body knows its fields.
    const file = await run(['group', 'create', '--file', '-'], {}, '{}');
    expect(file).toEqual({ code: 2, out: '', err: `everpoint: ${field}: ${message}\n` });
  });

  it('has the options in hints', async () => {
    const hint = 'Choose another path, or set "overwrite": true.';
    service.on(
      'POST /v1/groups/g/restores',
      { title: 'Conflict', detail: '/o exists.', hint },
      409,
    );
    const args = ['restore', 'g', '--at', 'latest', '--volume', 'vda', '--to', 'o'];
    expect((await run(args)).err).toBe(
      'everpoint: /o exists.\nhint: Choose another path, or use --overwrite.\n',
    );
  });

  it('finds the state folder where it works, then where it lies', async () => {
    const home = path.join(folder, 'home');
    fs.mkdirSync(path.join(home, 'var'), { recursive: true });
    service.on('GET /v1/policies', []);
    const places = { EVERPOINT_HOME: home, EVERPOINT_STATE: '' };
    service.on('GET /v1/info', {}, 401);
    const none = await run(['info'], places);
    expect(none.err).toContain(`there is no ${folder}/var/admin.token\n`);
    expect(none.err).toContain(`there is no ${home}/var/admin.token\n`);
    fs.writeFileSync(path.join(home, 'var', 'admin.token'), 'of-home');
    await run(['policy', 'list'], places);
    fs.mkdirSync(path.join(folder, 'var'));
    fs.writeFileSync(path.join(folder, 'var', 'admin.token'), 'of-here');
    await run(['policy', 'list'], places);
    await run(['policy', 'list'], { EVERPOINT_HOME: home });
    expect(service.seen.slice(1).map((seen) => seen.authorization)).toEqual([
      'Bearer of-home',
      'Bearer of-here',
      'Bearer secret-token',
    ]);
    const file = await run(['--token-file', 'gone', 'policy', 'list']);
    expect(file.code).toBe(1);
    expect(file.err).toMatch(
      /^everpoint: there is no token file \/.*\/gone\nhint: --token-file names/,
    );
  });

  it('shows the page of any command', async () => {
    for (const args of [
      ['help', 'group', 'create'],
      ['group', 'help', 'create'],
    ]) {
      const { code, out, err } = await run(args);
      expect({ code, err }).toEqual({ code: 0, err: '' });
      expect(out).toMatch(/^Usage: everpoint group create/);
    }
    expect((await run(['help'])).out).toMatch(/^Usage: everpoint \[/);
    expect((await run(['help', 'nonsense'])).err).toBe("everpoint: unknown command 'nonsense'\n");
  });

  it('warns of what history will lack', async () => {
    service.on('POST /v1/groups', GROUP, 201);
    fs.writeFileSync(path.join(folder, 'full.raw'), Buffer.alloc(65_536, 1));
    fs.writeFileSync(path.join(folder, 'empty.raw'), '');
    fs.truncateSync(path.join(folder, 'empty.raw'), 65_536);
    const said = await run(['protect', 'full.raw', 'empty.raw', '--baseline', 'none']);
    expect(said.code).toBe(0);
    expect(said.err).toBe(
      `warning: what is on ${folder}/full.raw now is not in history; restores show zeroes there\n`,
    );
    const json = await run(['protect', 'full.raw', '--baseline', 'none', '--json']);
    expect(JSON.parse(json.err)).toHaveProperty('warning');
    expect((await run(['protect', 'empty.raw', '--baseline', 'none'])).err).toBe('');
    const missing = await run(['protect', 'full.raw']);
    expect(missing.err).toMatch(
      /--baseline is missing\nhint: add --baseline none \(history starts/,
    );
  });

  it('restores the only volume without its name', async () => {
    service.on('POST /v1/groups/g/restores', JOB, 202);
    service.on('GET /v1/groups/g', { ...GROUP, volumes: GROUP.volumes.slice(0, 1) });
    const args = ['restore', 'g', '--at', 'latest', '--to', 'o', '--no-wait'];
    expect((await run(args)).code).toBe(0);
    expect(service.seen[1]?.body).toMatchObject({ targets: [{ volume: 'vda' }] });
    service.on('GET /v1/groups/g', GROUP);
    const { code, err } = await run(args);
    expect({ code, err }).toEqual({
      code: 2,
      err: 'everpoint: --volume is missing: the group has vda, vdb\n',
    });
  });

  it('fits 80 columns, in seconds, with names for ids', async () => {
    const since = '2026-03-01T12:00:00.123456789Z';
    service.on('GET /v1/groups/web-1', { ...GROUP, historyFrom: since });
    const group = (await run(['group', 'show', 'web-1'])).out.split('\n');
    expect(group).toContain('  unix:/run/vda.sock (not connected)');
    expect(group.find((line) => line.startsWith('lsn'))).toMatch(/rpo 0\.3 s$/);
    expect(group.find((line) => line.startsWith('history from'))).toMatch(/12:00:00Z$/);
    const result = { lsn: 9, time: since, targets: [{ path: '/images/out.raw' }] };
    service.on('GET /v1/groups', [GROUP]);
    service.on('GET /v1/jobs', [{ ...JOB, state: 'done', group: GROUP.id, result }]);
    const jobs = (await run(['jobs'])).out.split('\n');
    expect(jobs[1]).toMatch(/^job-1 +restore +done +web-1 +9 +2026-03-01T12:00:00Z$/);
    expect(jobs[3]).toBe('  to /images/out.raw');
    const troubled: Group = {
      ...GROUP,
      state: 'resyncing',
      reason: 'the device hung',
      gap: { fromLsn: 1200, from: since, reason: 'the device hung' },
      resync: { leftBytes: 3 * 1024 ** 3, totalBytes: 10 * 1024 ** 3 },
      rpoSeconds: 7_500,
      deviceStates: [{ name: 'default', state: 'full', reason: 'no space left' }],
    };
    service.on('GET /v1/groups', [troubled]);
    const list = (await run(['group', 'list'])).out.split('\n');
    expect(list[1]).toMatch(/^web-1 +resyncing +1234 +1200 +2h 5m +12% /);
    expect(list.slice(2)).toEqual([
      'web-1: the device hung',
      'web-1: gap open since 2026-03-01T12:00:00Z, after lsn:1200',
      'web-1: resync: 3 GiB of 10 GiB left to compare',
      '',
    ]);
    service.on('GET /v1/groups/web-1', { ...troubled, gap: { ...troubled.gap, reason: 'hung' } });
    const shown = (await run(['group', 'show', 'web-1'])).out.split('\n');
    expect(shown).toContain('gap open since 2026-03-01T12:00:00Z, after lsn:1200: hung');
    expect(shown.find((line) => line.startsWith('devices'))).toMatch(
      /default \(full: no space left\)$/,
    );
    service.on('GET /v1/groups', [GROUP]);
    for (const line of [...group, ...jobs, ...list, ...shown])
      expect(line.length).toBeLessThanOrEqual(80);
    service.onRaw('GET /v1/events', (stream) => {
      stream.setHeader('Content-Type', 'text/event-stream');
      stream.write(`event: gap\ndata: {"group":"${GROUP.id}","from":"${since}"}\n\n`);
    });
    expect((await run(['events', '--count', '1'])).out).toBe(
      'gap        group=web-1 from=2026-03-01T12:00:00Z\n',
    );
    expect((await run(['events', '--count', '1', '--json'])).out).toContain(GROUP.id);
  });

  it('pauses and resumes when it is meant, and shows gaps', async () => {
    const gap = { fromLsn: 7, from: '2026-03-01T12:00:00.000000000Z', reason: 'paused by request' };
    const paused = { ...GROUP, state: 'paused', reason: 'paused by request', gap };
    service.on('POST /v1/groups/web-1/pause', paused);
    service.on('POST /v1/groups/web-1/resume', GROUP);
    expect(await run(['pause', 'web-1'])).toMatchObject({
      code: 2,
      err: 'everpoint: pause needs --yes: no moment from now until resume can be restored\n',
    });
    expect((await run(['resume', 'web-1'])).code).toBe(2);
    expect(service.seen).toEqual([]);
    expect((await run(['pause', 'web-1', '--yes'])).out).toBe(
      'group web-1 is paused\ngap open since 2026-03-01T12:00:00Z, after lsn:7\n',
    );
    expect((await run(['resume', 'web-1', '--yes'])).out).toBe('group web-1 is protected\n');
    expect(service.seen.map(({ body }) => body)).toEqual([{ confirm: true }, { confirm: true }]);
    service.on('GET /v1/groups/web-1/gaps', []);
    expect((await run(['gaps', 'web-1'])).out).toBe('no gaps\n');
    const all = [
      { ...gap, toLsn: 9, to: '2026-03-01T12:05:00.000000000Z', healed: true },
      { ...gap, fromLsn: 20, toLsn: null, to: null, healed: false },
    ];
    service.on('GET /v1/groups/web-1/gaps', all);
    const lines = (await run(['gaps', 'web-1'])).out.split('\n');
    expect(lines[1]).toMatch(
      /^ +7 +9 +2026-03-01T12:00:00Z +2026-03-01T12:05:00Z +paused by request$/,
    );
    expect(lines[2]).toMatch(/^ +20 +open +2026-03-01T12:00:00Z +- +paused by request$/);
    expect(JSON.parse((await run(['gaps', 'web-1', '--json'])).out)).toEqual(all);
  });

  it('says what became of the history of a deleted group', async () => {
    service.on('GET /v1/groups/web-1', GROUP);
    service.on('GET /v1/devices', [{ id: 'd', name: 'default', path: '/logs' }]);
    service.on('DELETE /v1/groups/web-1', undefined, 204);
    const kept = await run(['group', 'delete', 'web-1']);
    expect(kept.out).toContain('its history was kept\n');
    expect(kept.out).toContain(`  /logs/groups/${GROUP.id}\n`);
    expect(kept.out).toContain('--delete-history');
    const gone = await run(['group', 'delete', 'web-1', '--delete-history']);
    expect(gone.out).toBe('group web-1 deleted, its history too\n');
    expect(service.seen.at(-1)?.url).toBe('/v1/groups/web-1?deleteHistory=true');
  });

  it('protects new files, and says how QEMU takes them', async () => {
    service.on('POST /v1/groups', GROUP, 201);
    const flags = ['--name', 'web-1', '--size', '10G', '--create', '--queues', '2'];
    const { code, out } = await run(['protect', 'a.raw', '/b/b.raw', ...flags]);
    expect(code).toBe(0);
    const volume = (name: string, file: string) => ({
      name,
      primary: { kind: 'file', path: file, sizeBytes: 10 * 1024 ** 3, create: true },
      baseline: 'none',
      exports: [{ kind: 'vhost-user-blk', queues: 2 }],
    });
    expect(service.seen[0]?.body).toEqual({
      name: 'web-1',
      volumes: [volume('vda', path.join(folder, 'a.raw')), volume('vdb', '/b/b.raw')],
    });
    expect(out.match(/-m 1G/g)).toHaveLength(1);
    expect(out).toContain("  -chardev 'socket,id=vda,path=/run/a b/vda' \\\n");
    expect(out.trimEnd().endsWith('-device vhost-user-blk-pci,chardev=vdb')).toBe(true);
  });

  it('sends how the log is to behave', async () => {
    service.on('POST /v1/groups', GROUP, 201);
    const protect = ['protect', 'a.raw', '--create', '--size', '1G'];
    const options = [
      ...[
        '--device',
        'fast',
        '--device',
        'slow',
        '--on-log-pressure',
        'gap',
        '--throttle-max',
        '2s',
      ],
      ...['--log-buffer', 'file:buffers/a:b', '--ack', 'both', '--flush', 'primary'],
    ];
    expect((await run([...protect, ...options])).code).toBe(0);
    expect(service.seen[0]?.body).toMatchObject({
      devices: ['fast', 'slow'],
      onLogPressure: 'gap',
      throttleMaxMs: 2000,
      logBuffer: { kind: 'file', path: path.join(folder, 'buffers/a:b') },
      ack: 'both',
      flush: 'primary',
    });
    await run([...protect, '--log-buffer', 'tmpfs', '--throttle-max', '250ms']);
    expect(service.seen[1]?.body).toMatchObject({
      throttleMaxMs: 250,
      logBuffer: { kind: 'tmpfs' },
    });
    for (const wrong of [
      ['--log-buffer', 'file'],
      ['--log-buffer', 'tmpfs:/x'],
      ['--log-buffer', 'disk:/x'],
      ['--throttle-max', '5'],
    ]) {
      expect((await run([...protect, ...wrong])).code, wrong.join(' ')).toBe(2);
    }
    expect(service.seen).toHaveLength(2);
  });

  it('creates a group from a file, or from standard input', async () => {
    service.on('POST /v1/groups', GROUP, 201);
    const body = { name: 'from-json', volumes: [{ name: 'vda' }] };
    fs.writeFileSync(path.join(folder, 'group.json'), JSON.stringify(body));
    expect((await run(['group', 'create', '--file', 'group.json'])).code).toBe(0);
    expect((await run(['group', 'create', '--file', '-'], {}, JSON.stringify(body))).code).toBe(0);
    expect(service.seen.map((seen) => seen.body)).toEqual([body, body]);
    expect((await run(['group', 'create', '--file', 'none.json'])).code).toBe(1);
    fs.writeFileSync(path.join(folder, 'bad.json'), '{');
    expect((await run(['group', 'create', '--file', 'bad.json'])).err).toContain('cannot read');
  });

  it('sends names and moments as they are, whatever they hold', async () => {
    const marker = { label: 'a/b \u001b[31m', lsn: 5, time: 'T', keepUntil: null, pinned: true };
    service.on('POST /v1/groups/a%2Fb/markers', marker, 201);
    const marked = await run(['mark', 'a/b', 'a/b \u001b[31m', '--keep', '30d']);
    expect(marked).toEqual({ code: 0, out: 'marked a/b ?[31m at lsn:5 T\n', err: '' });
    expect(service.seen[0]?.body).toEqual({ label: 'a/b \u001b[31m', keep: '30d' });
    const answer = { lsn: 7, time: 'T7', reachable: true };
    service.on('GET /v1/groups/g/resolve', answer);
    expect((await run(['resolve', 'g', '-5m'])).out).toBe('lsn:7 T7, reachable\n');
    expect(JSON.parse((await run(['resolve', 'g', 'marker:x&y', '--json'])).out)).toEqual(answer);
    expect(service.seen.slice(1).map((seen) => seen.url)).toEqual([
      '/v1/groups/g/resolve?at=-5m',
      '/v1/groups/g/resolve?at=marker%3Ax%26y',
    ]);
    const gone = { lsn: null, time: null, reachable: false, reason: 'in the future' };
    service.on('GET /v1/groups/g/resolve', gone);
    const unreachable = await run(['resolve', 'g', 'lsn:99']);
    expect(unreachable).toMatchObject({ code: 1, err: '' });
    expect(unreachable.out).toContain('not reachable: in the future');
  });

  it('follows a restore to its end, over a service that is away for a moment', async () => {
    service.on('POST /v1/groups/g/restores', JOB, 202);
    let asked = 0;
    service.onRaw('GET /v1/jobs/job-1', (answer) => {
      asked += 1;
      if (asked === 2) {
        answer.destroy();
        return;
      }
      const result = { lsn: 9, time: 'T9', targets: [{ path: '/o', dataBytes: 1, sizeBytes: 2 }] };
      const ended = { ...JOB, state: 'done', result };
      answer.end(JSON.stringify(asked < 4 ? JOB : ended));
    });
    const args = ['restore', 'g', '--at', '-5m', '--volume', 'vda', '--to', 'o.raw'];
    const { code, out } = await run([...args, '--overwrite']);
    expect({ code, asked }).toEqual({ code: 0, asked: 4 });
    expect(out).toBe('restored as of lsn:9 T9\n  /o: 1 B of data in 2 B\n');
    expect(service.seen[0]?.body).toEqual({
      at: '-5m',
      targets: [
        { volume: 'vda', path: path.join(folder, 'o.raw'), format: 'raw', overwrite: true },
      ],
    });
    const noWait = await run([...args, '--no-wait', '--json']);
    expect(JSON.parse(noWait.out)).toEqual(JOB);
    expect(asked).toBe(4);
  });

  it('draws a bar on a terminal, and none elsewhere', async () => {
    service.on('POST /v1/groups/g/restores', JOB, 202);
    service.on('GET /v1/jobs/job-1', { ...JOB, state: 'done' });
    const args = ['restore', 'g', '--at', 'latest', '--volume', 'vda', '--to', 'o'];
    expect((await run(args)).err).toBe('');
    const stderr = Object.assign(new PassThrough(), {
      isTTY: true,
      cursorTo: () => true,
      clearLine: () => true,
    });
    const code = await runCli(args, {
      stdout: new PassThrough(),
      stderr,
      stdin: new PassThrough(),
      environment: { EVERPOINT_URL: url, EVERPOINT_STATE: folder },
      cwd: folder,
    });
    expect(code).toBe(0);
    expect(String(stderr.read())).toContain('0 B of 2 KiB');
  });

  it('fails with the fault of a job', async () => {
    const error = { code: 'CORRUPTION', message: 'checksum of batch 7', hint: 'run verify' };
    const failed = { ...JOB, state: 'failed', error };
    service.on('POST /v1/groups/g/restores', JOB, 202);
    service.on('GET /v1/jobs/job-1', failed);
    const args = ['restore', 'g', '--at', 'latest', '--volume', 'vda', '--to', 'o'];
    expect(await run(args)).toEqual({
      code: 1,
      out: '',
      err: 'everpoint: restore job job-1 failed: checksum of batch 7 (CORRUPTION)\nhint: run verify\n',
    });
    const shown = await run(['jobs', 'job-1']);
    expect(shown.code).toBe(0);
    expect(shown.out).toContain('checksum of batch 7');
    service.on('DELETE /v1/jobs/job-1', { ...JOB, state: 'cancelled' });
    expect((await run(['jobs', 'job-1', '--cancel'])).out).toBe('job job-1 is cancelled\n');
  });

  it('shows events as they come', async () => {
    service.onRaw('GET /v1/events', (stream) => {
      stream.setHeader('Content-Type', 'text/event-stream');
      stream.write('event: ping\ndata: {}\n\nevent: sea');
      setTimeout(() => {
        stream.write('led\nid: 1\ndata: {"group":"g",\ndata: "segment":3}\n\nevent: gap\n');
        stream.write('data: {"reason":"log is full"}\n\n');
      }, 20);
    });
    const { code, out } = await run(['events', '--count', '2']);
    expect(code).toBe(0);
    expect(out).toBe('sealed     group=g segment=3\ngap        reason="log is full"\n');
    const json = await run(['events', '--count', '1', '--json']);
    expect(JSON.parse(json.out)).toEqual({ type: 'sealed', data: { group: 'g', segment: 3 } });
  });

  it('speaks over a unix socket', async () => {
    const socket = path.join(folder, 's.sock');
    await new Promise((resolve) => service.server.close(resolve));
    await new Promise<void>((resolve) => service.server.listen(socket, resolve));
    service.on('GET /v1/policies', []);
    expect((await run(['policy', 'list', '--url', socket])).code).toBe(0);
    expect((await run(['policy', 'list'], { EVERPOINT_URL: `unix:${socket}` })).code).toBe(0);
    expect(service.seen).toHaveLength(2);
  });

  it('does the rest of its verbs', async () => {
    const info = {
      version: '1.2.3',
      uptimeSeconds: 5,
      reactors: 1,
      pid: 7,
      build: { uring: true, pmem: false, spdk: false, sanitizer: '' },
      dataPlane: { state: 'down', reason: 'it went away', pid: null, notes: ['no O_DIRECT'] },
    };
    const device = { id: 'd1', name: 'fast', path: '/f', sizeBytes: 1, freeBytes: 1, usedBytes: 0 };
    const policy = { id: 'p', name: 'gold', keepAll: '1h', grid: [{ every: '1h', for: '1d' }] };
    service.on('GET /v1/info', info);
    service.on('GET /v1/devices', [{ ...device, state: 'ready' }]);
    service.on('GET /v1/groups', []);
    service.on('POST /v1/devices', device, 201);
    service.on('DELETE /v1/devices/fast', undefined, 204);
    service.on('POST /v1/policies', policy, 201);
    service.on('GET /v1/policies/gold', policy);
    service.on('DELETE /v1/policies/gold', undefined, 204);
    service.on('DELETE /v1/groups/g', undefined, 204);
    service.on('POST /v1/groups/g/seal', { sealedLsn: 4, mappedLsn: 4 });
    service.on('GET /v1/groups/g/recovery-points', [{ lsn: 1, time: 'T', kind: 'marker' }]);
    const expected: [string[], string][] = [
      [['status'], 'down: it went away'],
      [['info'], 'note: no O_DIRECT'],
      [['device', 'add', 'sub', '--name', 'fast'], 'device fast (d1) added: /f'],
      [['device', 'list'], 'fast'],
      [['device', 'remove', 'fast'], 'removed'],
      [['policy', 'create', 'gold', '--keep-all', '1h', '--grid', '1h:1d'], 'created'],
      [['policy', 'show', 'gold'], '1h for 1d'],
      [['policy', 'delete', 'gold'], 'deleted'],
      [['group', 'delete', 'g', '--force', '--delete-history'], 'deleted'],
      [['seal', 'g'], 'sealed up to lsn:4'],
      [['points', 'g', '--from', '-24h'], 'marker'],
    ];
    for (const [args, text] of expected) {
      const { code, out, err } = await run(args);
      expect({ args, code, err }).toEqual({ args, code: 0, err: '' });
      expect(out).toContain(text);
      const json = await run([...args, '--json']);
      expect(() => JSON.parse(json.out) as unknown).not.toThrow();
    }
    const asked = service.seen.map((seen) => `${seen.method} ${seen.url}`);
    expect(asked).toContain('DELETE /v1/groups/g?force=true&deleteHistory=true');
    expect(asked).toContain('GET /v1/groups/g/recovery-points?from=-24h&limit=1000');
    const added = service.seen.find((seen) => seen.method === 'POST');
    expect(added?.body).toEqual({ path: path.join(folder, 'sub'), name: 'fast' });
  });
});

describe('parts', () => {
  it('parse sizes', () => {
    expect(['10G', '512MiB', '1.5T', '4096', '1k', '2 MB'].map(parseSize)).toEqual([
      10 * 1024 ** 3,
      512 * 1024 ** 2,
      1.5 * 1024 ** 4,
      4096,
      1024,
      2 * 1024 ** 2,
    ]);
    for (const bad of ['', '0', '-1G', '1.0001K', 'G', '1e9', '99999999P']) {
      expect(() => parseSize(bad)).toThrow(/not a size/);
    }
  });

  it('say how long', () => {
    expect([0, 0.9, 59, 60, 549, 3600, 3661, 90_061].map(formatSeconds)).toEqual([
      ...['0s', '0s', '59s', '1m', '9m 9s', '1h', '1h 1m', '1d 1h'],
    ]);
  });

  it('parse addresses', () => {
    expect(parseAddress(':8320')).toMatchObject({ host: '127.0.0.1', port: 8320 });
    expect(parseAddress('127.0.0.1:8320')).toMatchObject({ kind: 'http', port: 8320 });
    expect(parseAddress('http://[::1]:80/base/')).toEqual({
      kind: 'http',
      host: '::1',
      port: 80,
      prefix: '/base',
    });
    expect(parseAddress('https://backup.example')).toMatchObject({ kind: 'https', port: 443 });
    for (const text of ['/run/e.sock', 'unix:/run/e.sock', 'unix:///run/e.sock']) {
      expect(parseAddress(text)).toEqual({ kind: 'unix', socketPath: '/run/e.sock' });
    }
  });

  it('name disks, group bodies and quoted words', () => {
    expect([0, 25, 26, 51, 52].map(diskName)).toEqual(['vda', 'vdz', 'vdaa', 'vdaz', 'vdba']);
    expect(groupBody(['/dev/sdb'], { baseline: 'none' }, '/')).toEqual({
      name: 'sdb',
      volumes: [
        {
          name: 'vda',
          primary: { kind: 'device', path: '/dev/sdb' },
          baseline: 'none',
          exports: [{ kind: 'vhost-user-blk', queues: 1 }],
        },
      ],
    });
    expect(qemuArguments(GROUP).filter((arg) => arg === '-m')).toHaveLength(1);
    expect(shellQuote("it's")).toBe("'it'\\''s'");
    expect(table(['A', 'N'], [['x', 5]])).toEqual(['A  N', 'x  5']);
  });
});
