// SPDX-License-Identifier: Apache-2.0

// The built service with the built data plane, as `npm start` runs them.

import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, statSync } from 'node:fs';
import { type AddressInfo, connect, createServer } from 'node:net';
import path from 'node:path';
import { promisify } from 'node:util';
import Database from 'better-sqlite3';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { packageNode, packageRoot, pidFile } from '../../src/data-plane/paths.js';
import { groupBody, temporaryFolder } from '../support/control-plane.js';

/** As expect.poll, with a bound that a busy machine keeps too. */
const eventually = <T>(look: () => T) => expect.poll(look, { timeout: 30_000 });

interface Service {
  child: ChildProcess;
  output: () => string;
  url: string;
  ended: Promise<number | NodeJS.Signals | null>;
}

let temporary: ReturnType<typeof temporaryFolder>;
let state = '';
const started: Service[] = [];

beforeEach(() => {
  temporary = temporaryFolder();
  state = path.join(temporary.folder, 'var');
});

afterEach(async () => {
  for (const service of started.splice(0)) {
    if (service.child.exitCode === null && service.child.signalCode === null) {
      service.child.kill('SIGKILL');
      await service.ended;
    }
  }
  const pid = dataPlanePid();
  if (pid !== undefined && isAlive(pid)) process.kill(pid, 'SIGKILL');
  temporary.remove();
});

function dataPlanePid(): number | undefined {
  return existsSync(pidFile(state)) ? Number(readFileSync(pidFile(state), 'utf8')) : undefined;
}

function isAlive(pid: number): boolean {
  try {
    return !/^\d+ \(.*\) Z/s.test(readFileSync(`/proc/${pid}/stat`, 'latin1'));
  } catch {
    return false;
  }
}

function launch(environment: Record<string, string> = {}, args: string[] = []): Service {
  const child = spawn(packageNode(), [path.join(packageRoot(), 'dist/main.js'), ...args], {
    env: {
      ...process.env,
      EVERPOINT_STATE: state,
      EVERPOINT_LISTEN: '127.0.0.1:0',
      EVERPOINT_LOG_FORMAT: 'text',
      ...environment,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let text = '';
  child.stdout.on('data', (chunk: Buffer) => (text += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (text += chunk.toString()));
  const ended = new Promise<number | NodeJS.Signals | null>((resolve) => {
    child.once('close', (code, signal) => {
      resolve(code ?? signal);
    });
  });
  const service: Service = { child, output: () => text, url: '', ended };
  started.push(service);
  return service;
}

async function start(environment: Record<string, string> = {}): Promise<Service> {
  const service = launch(environment);
  await eventually(service.output).toMatch(/is ready\.[\s\S]*next /);
  service.url = /REST +(http:\S+)/.exec(service.output())?.[1] ?? '';
  return service;
}

async function call(
  service: Service,
  method: string,
  url: string,
  body?: unknown,
): Promise<{ status: number; body: Record<string, unknown> }> {
  const token = readFileSync(path.join(state, 'admin.token'), 'utf8').trim();
  const response = await fetch(`${service.url}${url}`, {
    method,
    headers: {
      authorization: `Bearer ${token}`,
      ...(body !== undefined && { 'content-type': 'application/json' }),
    },
    ...(body !== undefined && { body: JSON.stringify(body) }),
  });
  const text = await response.text();
  return {
    status: response.status,
    body: text === '' ? {} : (JSON.parse(text) as Record<string, unknown>),
  };
}

it('starts, protects, restores, outlives its control plane, and ends cleanly', async () => {
  let service = await start();
  expect(service.output()).toContain(path.join(state, 'admin.token'));
  const token = readFileSync(path.join(state, 'admin.token'), 'utf8').trim();
  expect((await call(service, 'GET', '/readyz')).status).toBe(200);
  const created = await call(service, 'POST', '/v1/groups', groupBody(state, 'web-1'));
  expect(created.status, JSON.stringify(created.body)).toBe(201);
  const group = created.body as { state: string; volumes: { exports: { path: string }[] }[] };
  expect(group.state).toBe('protected');
  const socket = group.volumes[0]?.exports[0]?.path ?? '';
  expect(statSync(socket).isSocket()).toBe(true);
  expect((await call(service, 'POST', '/v1/groups/web-1/markers', { label: 'one' })).status).toBe(
    201,
  );
  expect((await call(service, 'POST', '/v1/groups/web-1/seal')).status).toBe(200);
  const pid = dataPlanePid() ?? 0;
  expect((await call(service, 'GET', '/v1/info')).body['dataPlane']).toMatchObject({
    state: 'up',
    pid,
  });

  // The control plane dies: the data plane and its sockets stay, and are found again.
  service.child.kill('SIGKILL');
  await service.ended;
  expect(isAlive(pid)).toBe(true);
  service = await start();
  expect(dataPlanePid()).toBe(pid);
  const again = await call(service, 'GET', '/v1/groups/web-1');
  expect(again.body).toMatchObject({
    ...group,
    lsn: 2,
    durableLsn: 2,
    logBytes: expect.any(Number) as number,
  });
  const target = { volume: 'vda', path: path.join(state, 'restored.raw') };
  const asked = await call(service, 'POST', '/v1/groups/web-1/restores', {
    at: 'marker:one',
    targets: [target],
  });
  expect(asked.status, JSON.stringify(asked.body)).toBe(202);
  await eventually(
    async () => (await call(service, 'GET', `/v1/jobs/${String(asked.body['id'])}`)).body['state'],
  ).toBe('done');
  expect(readFileSync(target.path).equals(Buffer.alloc(1 << 20))).toBe(true);

  // The data plane dies: it is started again, and the group is open again.
  process.kill(pid, 'SIGKILL');
  await eventually(async () => (await call(service, 'GET', '/readyz')).status).toBe(200);
  await eventually(() => dataPlanePid() !== pid && isAlive(dataPlanePid() ?? 0)).toBe(true);
  await eventually(async () => (await call(service, 'GET', '/v1/groups/web-1')).body['state']).toBe(
    'protected',
  );

  // Two signals, as npm delivers them, end both once and cleanly.
  const next = dataPlanePid() ?? 0;
  service.child.kill('SIGTERM');
  service.child.kill('SIGINT');
  expect(await service.ended).toBe(0);
  expect(isAlive(next)).toBe(false);
  expect(existsSync(pidFile(state))).toBe(false);
  expect(service.output()).not.toContain(token);
});

it('refuses to start twice on a state folder, and says so', async () => {
  const first = await start();
  const second = launch();
  expect(await second.ended).toBe(1);
  expect(second.output()).toMatch(/Another everpoint service uses the state folder/);
  expect((await call(first, 'GET', '/readyz')).status).toBe(200);
  first.child.kill('SIGTERM');
  expect(await first.ended).toBe(0);
});

it('leaves no data plane behind when its address is taken, and says so once', async () => {
  // Broke: the start failed on the busy port after it had started a data plane, which then went on
  // alone: it held the disks, and the next service on another state folder could not have them.
  const squatter = createServer();
  await new Promise<void>((resolve) => squatter.listen(0, '127.0.0.1', resolve));
  const { port } = squatter.address() as AddressInfo;
  try {
    const service = launch({ EVERPOINT_LISTEN: `127.0.0.1:${port}` });
    expect(await service.ended).toBe(1);
    expect(service.output().match(/EADDRINUSE/g)).toHaveLength(1);
    expect(service.output()).toContain(`127.0.0.1:${port}`);
    expect(service.output()).toMatch(/EVERPOINT_LISTEN/);
    expect(service.output()).not.toMatch(/ {4}at /);
    expect(dataPlanePid()).toBeUndefined();
  } finally {
    squatter.close();
  }
});

it('ends the data plane that it had started when its start fails later', async () => {
  // A catalog that names a job of a newer program stops the start when the data plane runs already.
  const first = await start();
  first.child.kill('SIGTERM');
  expect(await first.ended).toBe(0);
  const db = new Database(path.join(state, 'catalog.sqlite'));
  db.prepare(
    `insert into job (id, kind, state, params, progress, created_ns, updated_ns)
     values ('jnew', 'of-a-newer-version', 'queued', '{}', '{}', '1', '1')`,
  ).run();
  db.close();
  const second = launch();
  expect(await second.ended).toBe(1);
  expect(second.output()).toMatch(/the data plane is started pid=/);
  expect(second.output()).toMatch(/of-a-newer-version/);
  expect(dataPlanePid()).toBeUndefined();
});

it('greets with a command that works, and says at its end who is connected', async () => {
  // Broke: the command of the greeting named a program that is in no PATH, and lacked what it needs;
  // and the end of the service froze guests without a word in the log.
  const service = await start();
  const command = /next {4}(.+)\n/.exec(service.output())?.[1] ?? '';
  expect(command).toMatch(/^deploy\/bin\/everpoint .*protect --create --size 10G --baseline none/);
  const { stdout } = await promisify(execFile)('/bin/sh', ['-c', command], { cwd: packageRoot() });
  expect(stdout).toContain('vhost-user-blk-pci');
  expect(statSync(path.join(state, 'web-1.raw')).size).toBe(10 * 2 ** 30);
  const { body } = await call(service, 'GET', '/v1/groups/web-1');
  const group = body as { volumes: { exports: { path: string }[] }[] };
  const guest = connect(group.volumes[0]?.exports[0]?.path ?? '');
  guest.on('error', () => undefined);
  await eventually(async () =>
    JSON.stringify((await call(service, 'GET', '/v1/groups/web-1')).body),
  ).toMatch(/"connected":true/);
  service.child.kill('SIGTERM');
  expect(await service.ended).toBe(0);
  guest.destroy();
  expect(
    service.output().match(/1 disk of a guest is connected: .* until the service is back/g),
  ).toHaveLength(1);
});

it('says what is wrong with its configuration', async () => {
  mkdirSync(state);
  const bad = launch({ EVERPOINT_LISTEN: 'nowhere', EVERPOINT_WORKERS: 'many' });
  expect(await bad.ended).toBe(1);
  expect(bad.output()).toMatch(/EVERPOINT_LISTEN/);
  expect(bad.output()).toMatch(/EVERPOINT_WORKERS/);
  expect(bad.output()).not.toMatch(/ {4}at /);
  const check = launch({}, ['--check-config']);
  expect(await check.ended).toBe(0);
  expect(JSON.parse(check.output())).toMatchObject({
    state,
    roots: [state, '/var/lib/libvirt/images'],
  });
});

it('listens on a unix socket, and takes the place of one that a crash left', async () => {
  const socket = path.join(temporary.folder, 'rest.sock');
  for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
    const service = launch({ EVERPOINT_LISTEN: socket });
    await eventually(service.output).toMatch(/is ready/);
    expect(statSync(socket).isSocket()).toBe(true);
    service.child.kill(signal);
    await service.ended;
  }
});
