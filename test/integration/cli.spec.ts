// SPDX-License-Identifier: Apache-2.0

// The built CLI through its launcher, against the built service, over a unix socket.

import { type ChildProcess, execFile, spawn } from 'node:child_process';
import * as fs from 'node:fs';
import * as path from 'node:path';

import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { packageNode, packageRoot, pidFile } from '../../src/data-plane/paths.js';
import { temporaryFolder, until } from '../support/data-plane/sample.js';

const LAUNCHER = path.join(packageRoot(), 'deploy', 'bin', 'everpoint');

describe('everpoint, against the service', () => {
  const temporary = temporaryFolder();
  const state = path.join(temporary.folder, 'var');
  const socket = path.join(temporary.folder, 'rest.sock');
  const environment = {
    ...process.env,
    EVERPOINT_STATE: state,
    EVERPOINT_LISTEN: socket,
    // The launcher has a Node of its own: nothing of what PATH names runs.
    PATH: '/usr/bin:/bin',
  };
  let service: ChildProcess | undefined;
  let ended: Promise<unknown> | undefined;

  function cli(...args: string[]): Promise<{ code: number; out: string; err: string }> {
    return new Promise((resolve) => {
      const options = { env: environment, cwd: temporary.folder };
      const child = execFile(LAUNCHER, args, options, (_, out, err) => {
        resolve({ code: child.exitCode ?? -1, out, err });
      });
    });
  }

  async function json<T>(...args: string[]): Promise<T> {
    const { code, out, err } = await cli('--json', ...args);
    expect({ args, code, err }).toEqual({ args, code: 0, err: '' });
    return JSON.parse(out) as T;
  }

  beforeAll(async () => {
    expect((await cli('info')).code).toBe(4);
    service = spawn(packageNode(), [path.join(packageRoot(), 'dist', 'main.js')], {
      env: environment,
      stdio: 'ignore',
    });
    ended = new Promise((resolve) => service?.once('close', resolve));
    await until('the service', async () => (await cli('info')).code === 0, 60_000);
  });

  afterAll(async () => {
    service?.kill('SIGTERM');
    await ended;
    expect(fs.existsSync(pidFile(state))).toBe(false);
    temporary.remove();
  });

  it('protects, marks, seals and restores', async () => {
    const disk = path.join(state, 'web-1.raw');
    fs.mkdirSync(state, { recursive: true });
    const made = await cli('protect', disk, '--create', '--size', '16M', '--queues', '2');
    expect(made).toMatchObject({ code: 0, err: '' });
    expect(made.out).toMatch(/^group web-1 \(.*\) is protected\n/);
    expect(made.out).toMatch(/-device vhost-user-blk-pci,.*num-queues=2/);
    expect(fs.statSync(disk).size).toBe(16 * 1024 * 1024);

    const marker = await json<{ lsn: number; time: string }>(
      'mark',
      'web-1',
      'one',
      '--keep',
      '1d',
    );
    const sealed = await json<{ sealedLsn: number }>('seal', 'web-1');
    expect(sealed.sealedLsn).toBeGreaterThanOrEqual(marker.lsn);
    expect(await json('markers', 'web-1')).toMatchObject([{ label: 'one', pinned: true }]);
    expect(await json('points', 'web-1')).toMatchObject([{ kind: 'marker', lsn: marker.lsn }]);
    for (const at of ['marker:one', 'latest', `lsn:${marker.lsn}`, marker.time, '-0s']) {
      expect(await json('resolve', 'web-1', at)).toMatchObject({ reachable: true });
    }

    const out = path.join(state, 'out.raw');
    const args = ['restore', 'web-1', '--at', 'marker:one', '--volume', 'vda', '--to', out];
    expect(await json(...args)).toMatchObject({ kind: 'restore', state: 'done' });
    expect(fs.readFileSync(out).equals(fs.readFileSync(disk))).toBe(true);
    const again = await cli(...args);
    expect(again).toMatchObject({ code: 1, out: '' });
    expect(again.err).toContain(out);
    expect((await cli(...args, '--overwrite')).code).toBe(0);
    expect(await json('jobs')).toHaveLength(2);
  });

  it('shows the service, and every refusal with its exit code', async () => {
    const status = await json<{ groups: unknown[]; devices: unknown[] }>('status');
    expect(status.devices).toHaveLength(1);
    expect((await cli('status')).out).toMatch(/data plane +up, pid \d+/);
    expect((await cli('group', 'show', 'none')).code).toBe(3);
    expect((await cli('restore', 'none')).code).toBe(2);
    const wrong = await cli('protect', '/proc/version', '--name', 'outside', '--baseline', 'none');
    expect(wrong).toMatchObject({ code: 2, out: '' });
    expect(wrong.err).toMatch(/^everpoint: \/proc\/version is not under a configured root/);
    const disk = path.join(state, 'plain.raw');
    fs.writeFileSync(disk, Buffer.alloc(1024 * 1024, 7));
    const to = ['--to', path.join(state, 'never.raw')];
    const refusals: [number, RegExp, string[]][] = [
      [2, /^everpoint: not a moment: "foo"\nhint: /, ['resolve', 'web-1', 'foo']],
      [2, /^everpoint: keep must be a duration/, ['mark', 'web-1', 'x', '--keep', 'banana']],
      [2, /^everpoint: label must have 1 to/, ['mark', 'web-1', '']],
      [
        2,
        /^everpoint: name must be 1 to/,
        ['protect', disk, '--baseline', 'none', '--name', 'we b'],
      ],
      [2, /use --baseline none/, ['protect', disk, '--baseline', 'exact']],
      [2, /^everpoint: --baseline is missing/, ['protect', disk]],
      [3, /There is no marker "no"/, ['restore', 'web-1', '--at', 'marker:no', ...to]],
      [1, /nearest before: lsn:\d+ /, ['restore', 'web-1', '--at', 'lsn:999999999', ...to]],
      [
        3,
        /There is no volume "vdz"/,
        ['restore', 'web-1', '--at', 'latest', '--volume', 'vdz', ...to],
      ],
    ];
    for (const [code, says, args] of refusals) {
      const refusal = await cli(...args);
      expect({ args, ...refusal }).toMatchObject({ args, code, out: '' });
      expect(refusal.err).toMatch(says);
      expect(refusal.err).not.toMatch(/Bad Request|Conflict|volumes\.|targets\.|": /);
    }
    const missing = await cli('resolve', 'web-1', 'marker:no');
    expect(missing).toMatchObject({ code: 3, err: '' });
    const future = await cli('resolve', 'web-1', 'lsn:999999999');
    expect(future).toMatchObject({ code: 1, err: '' });
    expect(future.out).toMatch(/not reachable: .*\nnearest before: lsn:\d+ /);
    const token = path.join(temporary.folder, 'token');
    fs.writeFileSync(token, 'of-somebody-else');
    const refused = await cli('--token-file', token, 'status');
    expect(refused).toMatchObject({ code: 1, out: '' });
    expect(refused.err).toMatch(/^everpoint: not signed in: /);
  });

  it('manages devices and policies', async () => {
    const folder = path.join(temporary.folder, 'second');
    expect(await json('device', 'add', folder, '--name', 'second')).toMatchObject({ path: folder });
    expect(await json('device', 'list')).toHaveLength(2);
    expect((await cli('device', 'remove', 'second')).code).toBe(0);
    const flags = ['--keep-all', '24h', '--grid', '1h:7d', '--grid', '1d:4w'];
    await json('policy', 'create', 'gold', ...flags);
    expect(await json('policy', 'show', 'gold')).toMatchObject({
      keepAll: '24h',
      grid: [
        { every: '1h', for: '7d' },
        { every: '1d', for: '4w' },
      ],
    });
    expect((await cli('policy', 'delete', 'gold')).code).toBe(0);
    expect((await cli('policy', 'show', 'gold')).code).toBe(3);
  });

  it('pauses, shows the gap, and resumes', async () => {
    interface Gap {
      fromLsn: number;
      toLsn: number | null;
      healed: boolean;
    }
    const gaps = () => json<Gap[]>('gaps', 'web-1');
    const doubted = await cli('pause', 'web-1');
    expect(doubted).toMatchObject({ code: 2, out: '' });
    expect(doubted.err).toMatch(/needs --yes/);
    expect((await cli('resume', 'web-1', '--yes')).code).toBe(1);
    expect(await gaps()).toEqual([]);
    const { lsn } = await json<{ lsn: number }>('resolve', 'web-1', 'latest');
    const paused = await json<{ gap: Gap }>('pause', 'web-1', '--yes');
    expect(paused).toMatchObject({ state: 'paused', gap: { fromLsn: lsn } });
    expect(await gaps()).toMatchObject([{ fromLsn: lsn, toLsn: null, healed: false }]);
    const shown = (await cli('status')).out;
    expect(shown).toMatch(/^web-1 +paused /m);
    expect(shown).toContain(`, after lsn:${lsn}`);
    const refused = await cli('mark', 'web-1', 'in the gap');
    expect(refused).toMatchObject({ code: 1, out: '' });
    expect(refused.err).toMatch(/hint: resume the group/);
    const now = await cli('resolve', 'web-1', 'latest');
    expect(now.code).toBe(1);
    expect(now.out).toContain(`nearest before: lsn:${lsn} `);
    const resumed = await json<{ state: string }>('resume', 'web-1', '--yes');
    expect(['resyncing', 'protected']).toContain(resumed.state);
    const [healed] = await until(
      'the end of the resync',
      async () => {
        const all = await gaps();
        return all[0]?.healed === true && all;
      },
      30_000,
    );
    expect(healed?.toLsn).toBeGreaterThan(lsn);
    // Nothing was written since: there is a newest point all the same.
    const { lsn: newest } = await json<{ lsn: number }>('resolve', 'web-1', 'latest');
    expect(newest).toBeGreaterThan(healed?.toLsn ?? Infinity);
    expect((await cli('resolve', 'web-1', `lsn:${healed?.toLsn}`)).code).toBe(1);
    await json('mark', 'web-1', 'after the gap');
  });

  it('follows events while things happen, and deletes the group', async () => {
    const follow = cli('events', '--count', '1', '--json');
    // The stream must stand before something happens; a marker each moment makes sure of it.
    let count = 0;
    const beat = setInterval(() => void cli('mark', 'web-1', `beat ${(count += 1)}`), 500);
    const { code, out } = await follow;
    clearInterval(beat);
    expect(code).toBe(0);
    expect(JSON.parse(out)).toHaveProperty('type');
    const { id } = await json<{ id: string }>('group', 'show', 'web-1');
    const deleted = await cli('group', 'delete', 'web-1');
    expect(deleted.code).toBe(0);
    const kept = /^ {2}(\/.*)$/m.exec(deleted.out)?.[1] ?? '';
    expect(path.basename(kept)).toBe(id);
    expect(fs.readdirSync(kept)).not.toEqual([]);
    expect(await json('group', 'list')).toEqual([]);
  });

  it('checks a configuration without a service', async () => {
    const file = path.join(temporary.folder, 'everpoint.yaml');
    fs.writeFileSync(file, 'reactors: 2\n');
    const good = await cli('config', 'check', '--config', file);
    expect(good.code).toBe(0);
    expect(JSON.parse(good.out)).toMatchObject({ reactors: 2 });
    fs.writeFileSync(file, 'reactors: many\nwhat: 1\n');
    const bad = await cli('config', 'check', '--config', 'everpoint.yaml');
    expect(bad.code).toBe(1);
    expect(bad.err).toMatch(/unknown key "what"/);
  });
});
