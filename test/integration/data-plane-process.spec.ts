// SPDX-License-Identifier: Apache-2.0

import { type ChildProcess, spawn } from 'node:child_process';
import * as fs from 'node:fs';
import { connect } from 'node:net';
import * as path from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { DataPlaneClient } from '../../src/data-plane/client.js';
import {
  controlSocket,
  definitionsDir,
  logFile,
  packageNode,
  packageRoot,
  pidFile,
} from '../../src/data-plane/paths.js';
import type { DataPlaneLog } from '../../src/data-plane/in-process.js';
import type { DataPlaneEvent } from '../../src/data-plane/port.js';
import { DataPlaneSupervisor } from '../../src/data-plane/supervisor.js';
import {
  fakeAddonPath,
  sampleGroup,
  temporaryFolder,
  until,
} from '../support/data-plane/sample.js';

// The real processes with an addon that has no disks: what is tested is who starts, finds, asks and
// ends whom. The host is the built one (dist/), as in production.

const HOST = path.join(packageRoot(), 'dist', 'data-plane', 'host', 'main.js');
const environment = { EVERPOINT_ADDON: fakeAddonPath() };

function isAlive(pid: number): boolean {
  try {
    return !/^\d+ \(.*\) Z/s.test(fs.readFileSync(`/proc/${pid}/stat`, 'latin1'));
  } catch {
    return false;
  }
}

/** Processes that were started for the state folder. */
function dataPlanesOf(at: string): number[] {
  return fs
    .readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        const words = fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
        return words.includes(HOST) && words.includes(at);
      } catch {
        return false;
      }
    })
    .map(Number);
}

interface Host {
  child: ChildProcess;
  pid: number;
  output: () => string;
  ended: Promise<number | NodeJS.Signals | null>;
}

let temporary: ReturnType<typeof temporaryFolder>;
let state: string;
const cleanUp: (() => unknown)[] = [];

beforeEach(() => {
  temporary = temporaryFolder();
  state = path.join(temporary.folder, 'state');
});

afterEach(async () => {
  for (const one of cleanUp.splice(0).reverse()) await one();
  expect(dataPlanesOf(state)).toEqual([]);
  temporary.remove();
});

function startHost(at = state, extra: Record<string, string> = {}): Host {
  const child = spawn(packageNode(), [HOST, '--state', at], {
    env: { ...process.env, ...environment, ...extra },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let text = '';
  child.stderr.on('data', (chunk: Buffer) => (text += chunk.toString()));
  const ended = new Promise<number | NodeJS.Signals | null>((resolve) => {
    child.once('close', (code, signal) => {
      resolve(code ?? signal);
    });
  });
  cleanUp.push(async () => {
    if (child.exitCode === null) child.kill('SIGKILL');
    await ended;
  });
  return { child, pid: child.pid ?? 0, output: () => text, ended };
}

async function startClient(at = state, timeoutMs?: number): Promise<DataPlaneClient> {
  const bound = timeoutMs === undefined ? {} : { timeoutMs };
  const client = new DataPlaneClient({ socketPath: controlSocket(at), ...bound });
  cleanUp.push(() => client.close());
  client.start();
  expect(await client.waitUp(10_000)).toBe(true);
  return client;
}

function makeSupervisor(at = state, extra: Record<string, string> = {}, log?: DataPlaneLog) {
  const client = new DataPlaneClient({ socketPath: controlSocket(at) });
  const supervisor = new DataPlaneSupervisor({
    state: at,
    client,
    environment: { ...environment, ...extra },
    log,
  });
  cleanUp.push(async () => {
    await supervisor.stop(10_000);
    await client.close();
  });
  return { client, supervisor };
}

describe('everpoint-dataplane', () => {
  it('serves several clients, tells all of them, and ends cleanly on a signal', async () => {
    const host = startHost();
    const one = await startClient();
    const two = await startClient();
    expect(one.peer).toMatchObject({ pid: host.pid, version: '0.0.0-fake' });
    expect(fs.statSync(controlSocket(state)).mode & 0o777).toBe(0o600);
    expect(fs.readFileSync(pidFile(state), 'utf8')).toBe(`${host.pid}\n`);
    const events: DataPlaneEvent[] = [];
    two.onEvent((event) => events.push(event));

    const group = sampleGroup(temporary.folder, 'one');
    expect(await one.createGroup(group)).toMatchObject({ state: 'protected', epoch: 1 });
    const marked = await one.addMarker(group.id, { label: 'before' });
    expect(marked).toEqual({ lsn: 2, timeNs: '2000000000' });
    await until('the event', () => events.length > 0);
    expect(events).toMatchObject([{ kind: 'connected', group: group.id, volume: 'before' }]);
    expect(await two.info()).toMatchObject({ pid: host.pid, reactors: 1 });

    host.child.kill('SIGTERM');
    host.child.kill('SIGTERM');
    host.child.kill('SIGINT');
    expect(await host.ended).toBe(0);
    expect(fs.existsSync(pidFile(state))).toBe(false);
    expect(fs.existsSync(controlSocket(state))).toBe(false);
    const record = path.join(state, 'data-plane', 'native', group.id, 'record.json');
    expect(JSON.parse(fs.readFileSync(record, 'utf8'))).toMatchObject({ clean: true, lsn: 2 });
  });

  it('is killed and started again: stale files do not matter, groups are there again', async () => {
    const first = startHost();
    const client = await startClient();
    const events: DataPlaneEvent[] = [];
    client.onEvent((event) => events.push(event));
    const group = sampleGroup(temporary.folder, 'one');
    await client.createGroup(group);
    first.child.kill('SIGKILL');
    expect(await first.ended).toBe('SIGKILL');
    expect(fs.existsSync(controlSocket(state))).toBe(true);
    await until('the link is down', () => !client.up);
    const started = Date.now();
    await expect(client.listGroups()).rejects.toMatchObject({
      name: 'DataPlaneUnavailableError',
      retryable: true,
    });
    expect(Date.now() - started).toBeLessThan(200);

    const second = startHost();
    expect(await client.waitUp(10_000)).toBe(true);
    expect(client.peer?.pid).toBe(second.pid);
    const opened = await until('the group is open', async () => {
      const status = await client.groupStatus(group.id);
      return status.state === 'protected' && status;
    });
    expect(opened.epoch).toBe(2);
    expect(events.filter((event) => event.kind === 'link')).toEqual([
      { kind: 'link', up: false },
      { kind: 'link', up: true },
    ]);
  });

  it('lets only one live per state folder, and leaves the other folder alone', async () => {
    const first = startHost();
    const client = await startClient();
    const second = startHost();
    expect(await second.ended).toBe(3);
    expect(second.output()).toContain(`pid ${first.pid}`);
    expect((await client.info()).pid).toBe(first.pid);

    const other = path.join(temporary.folder, 'other');
    const beside = startHost(other);
    const otherClient = await startClient(other);
    await client.createGroup(sampleGroup(temporary.folder, 'here'));
    await otherClient.createGroup(sampleGroup(temporary.folder, 'there'));
    expect((await client.listGroups()).map((group) => group.name)).toEqual(['here']);
    expect((await otherClient.listGroups()).map((group) => group.name)).toEqual(['there']);
    await otherClient.shutdown();
    expect(await beside.ended).toBe(0);
    expect((await client.info()).pid).toBe(first.pid);
  });

  it('ends only the client that sends nonsense', async () => {
    const host = startHost();
    const client = await startClient();
    const nonsense = [
      'GET / HTTP/1.1\r\nHost: x\r\n\r\n',
      'Content-Length: 99999999999\r\n\r\n',
      'Content-Length: 7\r\n\r\n{"a": 1',
      'Content-Length: 4\r\n\r\nnull',
      'Content-Length: 45\r\n\r\n{"jsonrpc":"2.0","method":"$/cancelRequest"}\n',
      Buffer.alloc(100_000, 0xff),
    ];
    for (const bytes of nonsense) {
      const socket = connect(controlSocket(state));
      const closed = new Promise((resolve) => socket.once('close', resolve));
      socket.on('error', () => undefined);
      socket.write(bytes);
      await closed;
    }
    const silent = connect(controlSocket(state));
    await new Promise((resolve) => silent.once('connect', resolve));
    silent.destroy();
    expect((await client.info()).pid).toBe(host.pid);
    await expect(client.createGroup({} as never)).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
    await expect(client.groupStatus('../x')).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    expect(client.up).toBe(true);
    expect(host.output()).toContain('a client is let go');
  });

  it('carries errors with code and hint, and bounds every call', async () => {
    startHost();
    const client = await startClient(state, 300);
    const gap = sampleGroup(temporary.folder, 'gap-one');
    await client.createGroup(gap);
    await expect(client.syncLog(gap.id)).rejects.toMatchObject({
      code: 'CONFLICT',
      hint: 'wait until the gap is healed',
    });
    const stuck = sampleGroup(temporary.folder, 'stuck-one');
    await client.createGroup(stuck);
    await expect(client.syncLog(stuck.id)).rejects.toMatchObject({
      name: 'DataPlaneUnavailableError',
      message: 'no answer to syncLog within 0.3 s',
    });
    expect(client.up).toBe(true);
  });

  it('ends with a code other than 0 on a fault of its own, the call under way failing', async () => {
    const host = startHost();
    const client = await startClient();
    const crash = sampleGroup(temporary.folder, 'crash-one');
    await client.createGroup(crash);
    await expect(client.addMarker(crash.id, { label: 'x' })).rejects.toMatchObject({
      name: 'DataPlaneUnavailableError',
      retryable: true,
    });
    expect(await host.ended).toBe(1);
    expect(host.output()).toContain('uncaught error: the fake addon was told to crash');
  });

  it('opens what it can when a definition is damaged', async () => {
    const first = startHost();
    const client = await startClient();
    const good = sampleGroup(temporary.folder, 'good');
    const bad = sampleGroup(temporary.folder, 'bad');
    await client.createGroup(good);
    await client.createGroup(bad);
    first.child.kill('SIGKILL');
    await first.ended;
    fs.writeFileSync(path.join(definitionsDir(state), `${bad.id}.json`), '{"magic":"ever');
    startHost();
    await until('down, then up', () => client.up && client.peer?.pid !== first.pid);
    await until('open', async () => (await client.groupStatus(good.id)).state === 'protected');
    const failed = await client.groupStatus(bad.id);
    expect(failed.state).toBe('failed');
    expect(failed.reason).toMatch(/damaged: it is not JSON/);
  });

  it('passes test seams on and says so loudly; refuses wrong arguments', async () => {
    const host = startHost(state, {
      EVERPOINT_TEST_PRIMARY_DELAY_US: '1,5,7',
      EVERPOINT_TEST_RESUBMIT: 'off',
    });
    const client = await startClient();
    expect((await client.info()).notes[1]).toBe(
      '{"primaryDelayUs":{"min":1,"max":5,"seed":7},"resubmitInFlight":false}',
    );
    expect(host.output()).toContain('TEST SEAMS ARE ON');
    const wrong = startHost(state, { EVERPOINT_TEST_RESUBMIT: 'maybe' });
    expect(await wrong.ended).toBe(2);
  });
});

describe('DataPlaneSupervisor', () => {
  it('starts the data plane in a session of its own, and ends it', async () => {
    const { client, supervisor } = makeSupervisor();
    expect(await supervisor.start()).toBe(true);
    const status = supervisor.status();
    expect(status).toMatchObject({ state: 'running', restarts: 0, adopted: false });
    const pid = status.pid ?? 0;
    const stat = fs.readFileSync(`/proc/${pid}/stat`, 'latin1');
    const session = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[3]);
    expect(session).toBe(pid);
    expect(fs.readlinkSync(`/proc/${pid}/fd/0`)).toBe('/dev/null');
    expect(fs.readlinkSync(`/proc/${pid}/fd/2`)).toBe(logFile(state));
    expect(fs.readlinkSync(`/proc/${pid}/exe`)).toBe(fs.realpathSync(packageNode()));
    await client.createGroup(sampleGroup(temporary.folder, 'one'));
    await supervisor.stop();
    expect(isAlive(pid)).toBe(false);
    expect(supervisor.status()).toMatchObject({ state: 'stopped', pid: undefined });
    expect(fs.readFileSync(logFile(state), 'utf8')).toContain('"closed"');
  });

  it('starts it again within a second each time it is killed', async () => {
    const startedAt: number[] = [];
    const log = {
      info: (_: object, message: string) => {
        if (message === 'the data plane is started') startedAt.push(Date.now());
      },
      warn: () => undefined,
      error: () => undefined,
    };
    const { client, supervisor } = makeSupervisor(state, {}, log);
    await supervisor.start();
    const group = sampleGroup(temporary.folder, 'one');
    await client.createGroup(group);
    const startMs: number[] = [];
    const reachMs: number[] = [];
    for (let round = 1; round <= 6; round += 1) {
      const before = supervisor.status().pid ?? 0;
      const killedAt = Date.now();
      process.kill(before, 'SIGKILL');
      await until('another one', () => client.up && client.peer?.pid !== before);
      reachMs.push(Date.now() - killedAt);
      startMs.push((startedAt[round] ?? Infinity) - killedAt);
      expect(supervisor.status()).toMatchObject({ state: 'running', restarts: round });
      expect(dataPlanesOf(state)).toEqual([supervisor.status().pid]);
    }
    await until('open', async () => (await client.groupStatus(group.id)).state === 'protected');
    // How long Node takes to start is the machine's; that it is started at once is ours.
    console.log(
      `killed: started again after ${startMs.join(', ')} ms, reached: ${reachMs.join(', ')}`,
    );
    expect(Math.max(...startMs)).toBeLessThan(1000);
    expect(startedAt).toHaveLength(7);
  });

  it('adopts one that runs, watches it, starts it again, and ends it', async () => {
    const first = makeSupervisor();
    await first.supervisor.start();
    const pid = first.supervisor.status().pid ?? 0;
    first.supervisor.detach();
    await first.client.close();
    expect(isAlive(pid)).toBe(true);

    const second = makeSupervisor();
    expect(await second.supervisor.start()).toBe(true);
    expect(second.supervisor.status()).toMatchObject({ state: 'running', pid, adopted: true });
    process.kill(pid, 'SIGKILL');
    await until('another one', () => second.client.up && second.client.peer?.pid !== pid);
    expect(second.supervisor.status()).toMatchObject({ restarts: 1, adopted: false });
    expect(dataPlanesOf(state)).toHaveLength(1);
    const last = second.supervisor.status().pid ?? 0;

    const third = makeSupervisor();
    await third.supervisor.start();
    expect(third.supervisor.status()).toMatchObject({ pid: last, adopted: true });
    second.supervisor.detach();
    await third.supervisor.stop();
    expect(isAlive(last)).toBe(false);
  });

  it('does not start a second one beside one that is still starting', async () => {
    const one = makeSupervisor();
    const two = makeSupervisor();
    const reached = await Promise.all([one.supervisor.start(), two.supervisor.start()]);
    expect(reached).toEqual([true, true]);
    expect(one.client.peer?.pid).toBe(two.client.peer?.pid);
    expect(one.supervisor.status().state).toBe('running');
    // The one that came second waits for the lock for a moment: ending the first within that moment
    // once left the second behind as a data plane that nobody knew of.
    two.supervisor.detach();
    await two.client.close();
    await one.supervisor.stop();
    await until('no data plane is left', () => dataPlanesOf(state).length === 0);
    await new Promise((resolve) => setTimeout(resolve, 2000));
    expect(dataPlanesOf(state)).toEqual([]);
  });

  it('backs off from one that cannot start, says why, and recovers by itself', async () => {
    const flag = path.join(temporary.folder, 'works');
    // An addon that refuses until a file is there: the operator's repair.
    const addon = path.join(temporary.folder, 'addon.cjs');
    fs.writeFileSync(
      addon,
      `const fake = require(${JSON.stringify(fakeAddonPath())});
       module.exports = { ...fake, DataPlane: class DataPlane extends fake.DataPlane {
         constructor(options) {
           if (!require('node:fs').existsSync(${JSON.stringify(flag)})) {
             throw Object.assign(new Error('the reactor is on holiday'), { code: 'IO_ERROR' });
           }
           super(options);
         }
       } };`,
    );
    const { supervisor } = makeSupervisor(state, { EVERPOINT_ADDON: addon });
    expect(await supervisor.start(500)).toBe(false);
    const status = await until('backoff', () => {
      const now = supervisor.status();
      return now.state === 'backoff' && now;
    });
    expect(status.reason).toContain('the reactor is on holiday');
    expect(status.restarts).toBe(4);
    fs.writeFileSync(flag, '');
    await until('running', () => supervisor.status().state === 'running');
    expect(isAlive(supervisor.status().pid ?? 0)).toBe(true);
  });

  it('leaves it running when the process that started it is killed', async () => {
    // A control plane that dies must not take the guests along: the whole reason for two processes.
    const script = path.join(temporary.folder, 'parent.mjs');
    const dist = (name: string) =>
      JSON.stringify(path.join(packageRoot(), 'dist', 'data-plane', name));
    fs.writeFileSync(
      script,
      `import { DataPlaneClient } from ${dist('client.js')};
       import { DataPlaneSupervisor } from ${dist('supervisor.js')};
       const client = new DataPlaneClient({ socketPath: process.argv[3] });
       const supervisor = new DataPlaneSupervisor({ state: process.argv[2], client });
       await supervisor.start();
       console.log(supervisor.status().pid);`,
    );
    const parent = spawn(packageNode(), [script, state, controlSocket(state)], {
      env: { ...process.env, ...environment },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const pid = await new Promise<number>((resolve) => {
      parent.stdout.once('data', (chunk: Buffer) => {
        resolve(Number(chunk.toString()));
      });
    });
    parent.kill('SIGKILL');
    await new Promise((resolve) => parent.once('close', resolve));
    const { client, supervisor } = makeSupervisor();
    await supervisor.start();
    expect(supervisor.status()).toMatchObject({ pid, adopted: true });
    expect((await client.info()).pid).toBe(pid);
  });
});
