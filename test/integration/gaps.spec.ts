// SPDX-License-Identifier: Apache-2.0
/* eslint-disable @typescript-eslint/no-explicit-any, @typescript-eslint/no-unsafe-argument, @typescript-eslint/no-unsafe-call, @typescript-eslint/no-unsafe-return
   -- answers over HTTP are JSON of any shape: whether it is the right one is what is tested here. */

/** Interruptions of protection, as the control plane shows them and what it makes of history around them. */

import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import Database from 'better-sqlite3';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { formatTime } from '../../src/common/time.js';
import { ControlPlane, groupBody, temporaryFolder } from '../support/control-plane.js';
import { FakeDataPlane } from '../support/fake-data-plane.js';

/** As expect.poll, with a bound that a busy machine keeps too. */
const eventually = <T>(look: () => T) => expect.poll(look, { timeout: 15_000 });

const URL = '/v1/groups/web-1';

let folder: string;
let remove: () => void;
let state: string;
let dataPlane: FakeDataPlane;
let plane: ControlPlane;
let id: string;
let written = 0;

beforeEach(async () => {
  ({ folder, remove } = temporaryFolder());
  state = path.join(folder, 'var');
  dataPlane = new FakeDataPlane();
  plane = await ControlPlane.start(state, dataPlane);
  mkdirSync(path.join(folder, 'second'));
  await plane.post('/v1/devices', { path: path.join(folder, 'second'), name: 'second' });
  const body = { ...groupBody(state, 'web-1'), devices: ['default', 'second'] };
  const created = await plane.post('/v1/groups', body);
  expect(created.status, created.text).toBe(201);
  ({ id } = created.body);
});
afterEach(async () => {
  await plane.close();
  remove();
});

/** Some writes that overlap, all different. */
function write(count: number): void {
  for (let i = 0; i < count; i += 1) {
    written += 1;
    const sector = (written * 37) % 1000;
    dataPlane.write(id, 0, sector, Buffer.alloc(512 * (1 + (written % 5)), written % 256));
  }
}

async function resolve(at: string | number): Promise<any> {
  const moment = typeof at === 'number' ? `lsn:${at}` : at;
  const { body, status, text } = await plane.get(`${URL}/resolve?at=${encodeURIComponent(moment)}`);
  expect(status, text).toBe(200);
  return body;
}

let restores = 0;

/** The volume as a restore has it. */
async function restore(at: string): Promise<{ lsn: number; bytes: Buffer }> {
  restores += 1;
  const file = path.join(state, `out-${restores}.raw`);
  const targets = [{ volume: 'vda', path: file }];
  const asked = await plane.post(`${URL}/restores`, { at, targets });
  expect(asked.status, asked.text).toBe(202);
  const job = await plane.jobEnd(asked.body.id);
  expect(job.state, JSON.stringify(job)).toBe('done');
  return { lsn: job.result.lsn, bytes: readFileSync(file) };
}

async function expectModel(at: string): Promise<number> {
  const { lsn, bytes } = await restore(at);
  expect(bytes.equals(dataPlane.model(id, 0, lsn)), `${at}, LSN ${lsn}`).toBe(true);
  return lsn;
}

async function restart(between: () => void | Promise<void> = () => undefined): Promise<void> {
  await plane.close();
  await between();
  plane = await ControlPlane.start(state, dataPlane);
}

function tables(): Record<string, unknown[]> {
  const db = new Database(path.join(state, 'catalog.sqlite'), { readonly: true });
  const names = ['device', 'policy', 'protection_group', 'marker', 'gap', 'segment', 'map'];
  const rows = names.map((name) => [name, db.prepare(`select * from ${name} order by 1, 2`).all()]);
  db.close();
  return Object.fromEntries(rows) as Record<string, unknown[]>;
}

const manifestOf = (root: string) => path.join(root, 'groups', id, 'manifest');
const manifests = () =>
  [path.join(state, 'secondary'), path.join(folder, 'second')].map(manifestOf);

async function mapped(): Promise<void> {
  await eventually(async () =>
    (await plane.get(`${URL}/segments`)).body.every(
      (one: any) => one.mapped || one.state === 'active',
    ),
  ).toBe(true);
}

describe('a gap', () => {
  it('ends, and history goes on behind it', async () => {
    write(20);
    await plane.post(`${URL}/markers`, { label: 'good' });
    const from = dataPlane.groups.get(id)!.lsn;
    dataPlane.openGap(id, 'the device hangs');
    write(10);
    let group = (await plane.get(URL)).body;
    expect(group).toMatchObject({
      state: 'gap',
      reason: 'the device hangs',
      gap: { fromLsn: from, from: formatTime(dataPlane.timeOf(id, from)) },
      resync: null,
    });
    const { rpoSeconds } = group;
    expect(rpoSeconds).toBeGreaterThan(0);
    expect((await resolve('latest')).nearest).toMatchObject({ before: { lsn: from }, after: null });

    // Five LSNs were taken and lost. What is logged while the resync runs lies in the gap too.
    dataPlane.beginResync(id, 5);
    write(3);
    dataPlane.resyncMissed(id);
    await dataPlane.syncLog(id).catch(() => undefined);
    group = (await plane.get(URL)).body;
    expect(group).toMatchObject({ state: 'resyncing', gap: { fromLsn: from } });
    expect(group.durableLsn).toBeGreaterThan(from);
    expect(group.resync.totalBytes).toBeGreaterThan(0);
    expect(group.rpoSeconds).toBeGreaterThan(rpoSeconds);
    for (const at of ['latest', group.durableLsn, from + 1]) {
      expect(await resolve(at), String(at)).toMatchObject({
        reachable: false,
        nearest: { before: { lsn: from }, after: null },
      });
    }
    expect((await plane.post(`${URL}/markers`, { label: 'no' })).status).toBe(409);

    const { toLsn } = dataPlane.endResync(id);
    const newest = await resolve('latest');
    expect(newest).toMatchObject({ lsn: toLsn + 1, reachable: true });
    const around = { before: { lsn: from }, after: { lsn: toLsn + 1 } };
    for (const at of [from + 1, from + 5, from + 6, toLsn]) {
      const answer = await resolve(at);
      expect(answer, String(at)).toMatchObject({ reachable: false, nearest: around });
      expect(answer.reason).toMatch(/In a gap from .* until .*the device hangs/);
    }
    const inside = formatTime(dataPlane.timeOf(id, toLsn));
    expect(await resolve(inside)).toMatchObject({ reachable: false, nearest: around });
    write(10);
    await plane.post(`${URL}/markers`, { label: 'after' });
    expect((await plane.get(URL)).body).toMatchObject({
      state: 'protected',
      gap: null,
      reason: '',
    });
    for (const at of ['latest', `lsn:${toLsn + 1}`, `lsn:${from}`, 'marker:good', 'marker:after']) {
      await expectModel(at);
    }
    await plane.post(`${URL}/seal`);
    await mapped();
    for (const at of ['latest', `lsn:${toLsn + 4}`, `lsn:${from - 3}`]) await expectModel(at);
    expect((await plane.get(`${URL}/gaps`)).body).toEqual([
      {
        fromLsn: from,
        toLsn,
        from: formatTime(dataPlane.timeOf(id, from)),
        to: inside,
        reason: 'the device hangs',
        healed: true,
      },
    ]);
  });

  it('is known over every restart, also one that nobody watched', async () => {
    // Broke: a gap that opened and healed while the control plane was away was known to a data plane
    // that then ended too. Until its segments had maps, every moment of it was offered.
    write(20);
    await plane.post(`${URL}/seal`);
    write(5);
    await plane.close();
    const first = { from: dataPlane.groups.get(id)!.lsn, to: 0 };
    dataPlane.openGap(id, 'first');
    write(4);
    first.to = dataPlane.heal(id, 7).toLsn;
    write(6);
    const second = { from: dataPlane.groups.get(id)!.lsn, to: 0 };
    dataPlane.openGap(id, 'second');
    write(2);
    dataPlane.beginResync(id, 2);
    dataPlane.resyncMissed(id);
    // It ends in the middle of the resync, and takes it up again.
    dataPlane.restart();
    dataPlane.beginResync(id, 3);
    second.to = dataPlane.endResync(id).toLsn;
    write(3);
    await dataPlane.syncLog(id);
    dataPlane.restart();
    expect(dataPlane.groups.get(id)!.gaps).toEqual([]);
    write(3);

    plane = await ControlPlane.start(state, dataPlane);
    for (const { from, to } of [first, second]) {
      for (const lsn of [from + 1, to]) {
        const around = { before: { lsn: from }, after: { lsn: to + 1 } };
        expect(await resolve(lsn)).toMatchObject({ reachable: false, nearest: around });
      }
    }
    const check = async () => {
      expect((await plane.get(`${URL}/gaps`)).body).toMatchObject([
        { fromLsn: first.from, toLsn: first.to, reason: 'first', healed: true },
        { fromLsn: second.from, toLsn: second.to, reason: 'second', healed: true },
      ]);
      await expectModel('latest');
      await expectModel(`lsn:${first.to + 1}`);
    };
    await check();
    await mapped();
    await check();
    const before = tables();
    await restart(() => {
      for (const name of ['', '-wal', '-shm']) {
        rmSync(path.join(state, `catalog.sqlite${name}`), { force: true });
      }
    });
    await check();
    expect(tables()).toEqual(before);
  });

  it('is the only thing that LSNs may be missing for', async () => {
    write(10);
    await plane.post(`${URL}/seal`);
    const lost = dataPlane.groups.get(id)!.lsn;
    dataPlane.openGap(id, 'with a hole');
    dataPlane.heal(id, 4);
    write(5);
    await plane.post(`${URL}/seal`);
    const hole = dataPlane.groups.get(id)!.lsn;
    write(5);
    await plane.close();
    await dataPlane.seal(id);
    dataPlane.loseSegment(id, dataPlane.groups.get(id)!.segments.at(-1)!.number);
    write(5);
    plane = await ControlPlane.start(state, dataPlane);
    await expectModel(`lsn:${hole}`);
    expect((await resolve(lost + 1)).nearest.before.lsn).toBe(lost);
    const answer = await plane.get(`${URL}/resolve?at=lsn:${hole + 7}`);
    expect(answer.body).toMatchObject({ code: 'CORRUPTION', lsnRange: { first: hole + 1 } });
  });

  it('shows in metrics and events', async () => {
    const seen: string[] = [];
    dataPlane.onEvent((event) => seen.push(event.kind));
    write(5);
    dataPlane.openGap(id, 'for the figures');
    write(5);
    const device = dataPlane.groups.get(id)!.definition.devices[1]!.id;
    const failed = { id: device, state: 'full' as const, reason: 'no space left' };
    dataPlane.setLog(id, { pressure: 0.75, trouble: 'the log waits', device: failed });
    const line = (name: string) => `everpoint_group_${name}{group="web-1"}`;
    let { text } = await plane.get('/metrics');
    expect(text).toContain('everpoint_group_state{group="web-1",state="gap"} 1');
    expect(text).toContain(`${line('gaps')} 1`);
    expect(text).toContain(`${line('gaps_opened')} 1`);
    expect(text).toContain(`${line('log_pressure_ratio')} 0.75`);
    expect(text).toContain(`${line('log_trouble')} 1`);
    expect(text).toContain(`${line('throttled_ms')} 0`);
    expect(text).toMatch(/everpoint_group_gap_open_seconds\{group="web-1"\} 0\.\d/);
    expect(text).toMatch(/everpoint_group_rpo_seconds\{group="web-1"\} 0\.\d/);
    expect(text).toContain(
      `everpoint_group_device_state{group="web-1",device="${device}",state="full"} 1`,
    );
    const shown = (await plane.get('/v1/devices/second')).body;
    expect(shown).toMatchObject({ state: 'full', reason: 'The log of web-1: no space left' });
    expect((await plane.get('/v1/devices/default')).body.state).toBe('ready');
    const group = (await plane.get(URL)).body;
    expect(group.reason).toBe(
      'for the figures; the log waits; the device second is full (no space left)',
    );
    expect(group).toMatchObject({ logPressure: 0.75, bufferDurable: false });
    expect(group.deviceStates).toEqual([
      { name: 'default', state: 'ok' },
      { name: 'second', state: 'full', reason: 'no space left' },
    ]);
    dataPlane.beginResync(id);
    ({ text } = await plane.get('/metrics'));
    expect(text).toMatch(/everpoint_group_resync_left_bytes\{group="web-1"\} [1-9]/);
    dataPlane.endResync(id);
    ({ text } = await plane.get('/metrics'));
    expect(text).toContain(`${line('gap_open_seconds')} 0`);
    expect(text).toContain(`${line('gaps')} 0`);
    expect(seen.filter((kind) => kind === 'gap')).toHaveLength(2);
  });
});

describe('a pause', () => {
  it('is asked for, confirmed, and ended the same way', async () => {
    write(5);
    for (const verb of ['pause', 'resume']) {
      for (const body of [undefined, {}, { confirm: false }, { confirm: 'true' }]) {
        const refused = await plane.post(`${URL}/${verb}`, body);
        expect(refused.status, refused.text).toBe(400);
        expect(refused.body.detail).toMatch(/set "confirm": true to do it: /);
      }
      expect((await plane.post(`/v1/groups/none/${verb}`, { confirm: true })).status).toBe(404);
    }
    expect((await plane.post(`${URL}/resume`, { confirm: true })).status).toBe(409);
    const { lsn } = await resolve('latest');
    const paused = await plane.post(`${URL}/pause`, { confirm: true });
    expect(paused.status, paused.text).toBe(200);
    expect(paused.body).toMatchObject({ state: 'paused', reason: 'paused by request' });
    expect(paused.body.gap.fromLsn).toBe(lsn);
    expect((await plane.post(`${URL}/pause`, { confirm: true })).body.state).toBe('paused');
    write(5);
    const marked = await plane.post(`${URL}/markers`, { label: 'no' });
    expect(marked.status).toBe(409);
    expect((await resolve('latest')).reason).toMatch(/paused by request/);
    await restart();
    expect((await plane.get(URL)).body.state).toBe('paused');
    const resumed = await plane.post(`${URL}/resume`, { confirm: true });
    expect(resumed.body).toMatchObject({ state: 'resyncing', gap: { fromLsn: lsn } });
    const { toLsn } = dataPlane.endResync(id);
    expect(await expectModel('latest')).toBe(toLsn + 1);
  });
});

describe('several devices', () => {
  it('take over from one that fails, whose segment ends where the next one begins', async () => {
    write(20);
    await dataPlane.syncLog(id);
    write(5);
    const at = dataPlane.groups.get(id)!.lsn;
    // Its last batch was not synced: it stands in both.
    dataPlane.moveLog(id, 1);
    write(10);
    expect(await expectModel('latest')).toBeGreaterThan(at);
    await expectModel(`lsn:${at}`);
    await plane.post(`${URL}/seal`);
    await mapped();
    const segments = (await plane.get(`${URL}/segments`)).body;
    expect(segments).toMatchObject([
      { segment: 1, state: 'given-up', firstLsn: 1, lastLsn: at - 5, mapped: true },
      { segment: 2, state: 'sealed', firstLsn: at - 4 },
    ]);
    expect(segments[0].device).not.toBe(segments[1].device);
    for (const lsn of [at - 6, at - 5, at - 4, at, at + 3]) await expectModel(`lsn:${lsn}`);
    await restart();
    for (const lsn of [at - 5, at + 3]) await expectModel(`lsn:${lsn}`);
    expect((await plane.get('/v1/devices/default')).body).toMatchObject({ state: 'failed' });
    expect((await plane.get(URL)).body).toMatchObject({
      state: 'protected',
      reason: 'the device default is failed (input/output error)',
    });
  });

  it('cut what two segments hold, where the data plane does not', async () => {
    write(20);
    dataPlane.moveLog(id, 1);
    // As if the first one's end was not known.
    const [first] = dataPlane.groups.get(id)!.segments;
    first!.givenUp = undefined;
    write(5);
    await dataPlane.syncLog(id);
    for (const at of ['latest', 'lsn:1', 'lsn:10', 'lsn:21']) await expectModel(at);
    await plane.post(`${URL}/seal`);
    await mapped();
    for (const at of ['latest', 'lsn:10', 'lsn:21']) await expectModel(at);
  });

  it('have the manifest twice; the catalog can be made from either', async () => {
    write(10);
    await plane.post(`${URL}/markers`, { label: 'one' });
    dataPlane.openGap(id, 'short');
    dataPlane.heal(id);
    write(4);
    await plane.post(`${URL}/seal`);
    await mapped();
    const [first = '', second = ''] = manifests();
    expect(readFileSync(first).equals(readFileSync(second))).toBe(true);
    const before = tables();
    const dropCatalog = () => {
      for (const name of ['', '-wal', '-shm']) {
        rmSync(path.join(state, `catalog.sqlite${name}`), { force: true });
      }
    };
    for (const gone of [first, second]) {
      const whole = readFileSync(first);
      await restart(() => {
        dropCatalog();
        rmSync(gone);
      });
      expect(tables()).toEqual(before);
      await eventually(() => existsSync(gone) && readFileSync(gone).equals(whole)).toBe(true);
    }
    // A torn tail, and damage in the middle.
    const whole = readFileSync(first);
    for (const [file, bytes] of [
      [first, whole.subarray(0, whole.length - 9)],
      [second, Buffer.concat([whole.subarray(0, 60), Buffer.alloc(5, 1), whole.subarray(65)])],
    ] as const) {
      await restart(() => {
        dropCatalog();
        writeFileSync(file, bytes);
      });
      expect(tables()).toEqual(before);
      expect(readFileSync(file).equals(whole)).toBe(true);
    }
  });

  it('work on when the first one is away, and bring its manifest along afterwards', async () => {
    write(10);
    await plane.post(`${URL}/markers`, { label: 'one' });
    await plane.post(`${URL}/seal`);
    await mapped();
    const root = path.join(state, 'secondary');
    await restart(() => {
      renameSync(root, `${root}.away`);
    });
    expect((await plane.call('DELETE', `${URL}/markers/one`)).body.pinned).toBe(false);
    const group = (await plane.get(URL)).body;
    expect(group.reason).toMatch(/secondary.* is behind: .*is its disk mounted\?/);
    expect((await plane.get('/v1/devices/default')).body.state).toBe('missing');
    expect(existsSync(root)).toBe(false);
    await restart(() => {
      renameSync(`${root}.away`, root);
    });
    const [first = '', second = ''] = manifests();
    expect(readFileSync(first).equals(readFileSync(second))).toBe(true);
    expect((await plane.get(URL)).body.reason).toBe('');
    expect((await plane.get(`${URL}/markers`)).body).toMatchObject([{ pinned: false }]);
    await expectModel('latest');
  });
});

describe('a log buffer that is a file', () => {
  const create = (name: string, logBuffer: object) =>
    plane.post('/v1/groups', { ...groupBody(state, name), logBuffer });

  it('has a place of its own, which nobody else gets', async () => {
    const file = path.join(state, 'buffers', 'two.buffer');
    const made = await create('two', { kind: 'file', path: file, bytes: 1 << 24 });
    expect(made.status, made.text).toBe(201);
    expect(made.body.logBuffer).toEqual({ kind: 'file', path: file, bytes: 1 << 24 });
    expect(made.body.bufferDurable).toBe(true);
    for (const [path, text] of [
      [file, /belongs to the group two/],
      [`${state}/buffers/../x`, /plain absolute path/],
      [`${state}/registry.json`, /itself/],
    ] as const) {
      const refused = await create('three', { kind: 'pmem', path });
      expect(refused.status, path).toBe(400);
      expect(refused.body.detail, path).toMatch(text);
    }
    const precious = path.join(state, 'precious.raw');
    writeFileSync(precious, 'bytes');
    expect((await create('three', { kind: 'file', path: precious })).status).toBe(409);
    const elsewhere = path.join(state, 'three.buffer');
    expect((await create('three', { kind: 'pmem', path: elsewhere })).status).toBe(201);
    const targets = [{ volume: 'vda', path: elsewhere }];
    const restored = await plane.post(`${URL}/restores`, { at: 'lsn:1', targets });
    expect(restored.status).toBe(400);
    expect(restored.body.detail).toMatch(/the group three: its log buffer/);
  });
});
