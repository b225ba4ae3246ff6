// SPDX-License-Identifier: Apache-2.0
/* eslint-disable @typescript-eslint/no-explicit-any, @typescript-eslint/no-unsafe-argument, @typescript-eslint/no-unsafe-call, @typescript-eslint/no-unsafe-return
   -- answers over HTTP are JSON of any shape: whether it is the right one is what is tested here. */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import Database from 'better-sqlite3';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { formatTime } from '../../src/common/time.js';
import { Resolver } from '../../src/history/resolver.js';
import { ControlPlane, groupBody, temporaryFolder } from '../support/control-plane.js';
import { FakeDataPlane } from '../support/fake-data-plane.js';

/** As expect.poll, with a bound that a busy machine keeps too. */
const eventually = <T>(look: () => T) => expect.poll(look, { timeout: 15_000 });

/** Small and the same for the same seed. */
function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

const SECTORS = 2048;

/** Random requests to both volumes of a group; now and then something becomes durable. */
async function load(dataPlane: FakeDataPlane, group: string, random: () => number, count: number) {
  const below = (limit: number): number => Math.floor(random() * limit);
  for (let i = 0; i < count; i += 1) {
    const volume = below(2);
    const sector = below(SECTORS - 64);
    const sectors = 1 + below(63);
    const kind = random();
    if (kind < 0.75) {
      dataPlane.write(group, volume, sector, Buffer.alloc(sectors * 512, 1 + below(255)));
    } else if (kind < 0.9) {
      dataPlane.zero(group, volume, sector, sectors, kind < 0.83);
    } else {
      dataPlane.flush(group, volume);
    }
    if (random() < 0.05) await dataPlane.syncLog(group);
  }
}

function tablesOf(state: string): Record<string, unknown[]> {
  const db = new Database(path.join(state, 'catalog.sqlite'), { readonly: true });
  const tables: Record<string, unknown[]> = {};
  for (const table of ['device', 'policy', 'protection_group', 'marker', 'gap', 'segment', 'map']) {
    tables[table] = db.prepare(`select * from ${table} order by 1, 2`).all();
  }
  db.close();
  return tables;
}

describe('the history of a group', () => {
  const { folder, remove } = temporaryFolder();
  const state = path.join(folder, 'var');
  const dataPlane = new FakeDataPlane();
  const random = generator(20260301);
  let plane: ControlPlane;
  let id = '';
  const url = '/v1/groups/web-1';

  beforeAll(async () => {
    plane = await ControlPlane.start(state, dataPlane);
  });
  afterAll(async () => {
    await plane.close();
    remove();
  });

  async function restore(at: string, name: string): Promise<{ job: any; files: Buffer[] }> {
    const targets = ['vda', 'vdb'].map((volume) => ({
      volume,
      path: path.join(state, `${name}-${volume}.raw`),
    }));
    const asked = await plane.post(`${url}/restores`, { at, targets });
    expect(asked.status, asked.text).toBe(202);
    const job = await plane.jobEnd(asked.body.id);
    expect(job.state, JSON.stringify(job)).toBe('done');
    return { job, files: targets.map((target) => readFileSync(target.path)) };
  }

  it('creates a group that is ready to be connected to', async () => {
    const created = await plane.post('/v1/groups', groupBody(state, 'web-1', ['vda', 'vdb']));
    expect(created.status, created.text).toBe(201);
    const group = created.body;
    id = group.id;
    expect(group).toMatchObject({
      name: 'web-1',
      policy: 'default',
      ack: 'primary',
      flush: 'both',
      onLogPressure: 'throttle',
      devices: ['default'],
      state: 'protected',
      reason: '',
      lsn: 2,
      durableLsn: 2,
      rpoSeconds: 0,
    });
    expect(group.historyFrom).toBe(formatTime(dataPlane.timeOf(id, 1)));
    const [one] = group.volumes[0].exports;
    expect(one.uri).toBe(`unix:${one.path}`);
    expect(Buffer.byteLength(one.path)).toBeLessThanOrEqual(107);
    expect(one.qemuArgs.join(' ')).toContain(`path=${one.path},reconnect=1`);
    expect(one.libvirtXml).toContain(`path="${one.path}"`);
    expect(group.volumes[1].exports[0].path).not.toBe(one.path);
    expect((await plane.get(`/v1/groups/${id}`)).body).toEqual((await plane.get(url)).body);
    expect((await plane.post('/v1/groups', groupBody(state, 'web-1'))).status).toBe(409);
  });

  it('does not let one disk be protected twice', async () => {
    const body = groupBody(state, 'thief');
    const primary = { kind: 'file', path: path.join(state, 'web-1-vda.raw') };
    const stolen = { ...body, volumes: [{ ...body.volumes[0], primary }] };
    const answer = await plane.post('/v1/groups', stolen);
    expect(answer.status).toBe(409);
    expect(answer.body.detail).toMatch(/web-1/);
  });

  it('takes back a creation that the data plane refused', async () => {
    const { EverpointError } = await import('../../src/common/errors.js');
    dataPlane.failNextCreation = new EverpointError('NO_SPACE', 'no room for the buffer', {
      operation: 'create group',
    });
    const answer = await plane.post('/v1/groups', groupBody(state, 'web-2'));
    expect(answer.status).toBe(507);
    expect((await plane.get('/v1/groups')).body).toHaveLength(1);
    expect(readdirSync(path.join(state, 'secondary/groups'))).toEqual([id]);
    expect((await plane.post('/v1/groups', groupBody(state, 'web-2'))).status).toBe(201);
    expect((await plane.call('DELETE', '/v1/groups/web-2?deleteHistory=true')).status).toBe(204);
    expect(readdirSync(path.join(state, 'secondary/groups'))).toEqual([id]);
  });

  it('lets a creation disappear in which the data plane died', async () => {
    // Broke: the manifest of such a group stayed on the device for good, and, with a data plane that
    // opened what it had of it, came back as a group that nobody had been told of.
    const groups = path.join(state, 'secondary/groups');
    dataPlane.onNextCreation = () => {
      dataPlane.setUp(false);
    };
    expect((await plane.post('/v1/groups', groupBody(state, 'cut'))).status).toBe(503);
    // The data plane may have the group; so long its manifest stays.
    expect(readdirSync(groups)).toHaveLength(2);
    dataPlane.setUp(true);
    await eventually(() => readdirSync(groups)).toEqual([id]);
    expect((await plane.get('/v1/groups')).body).toHaveLength(1);
    expect((await plane.post('/v1/groups', groupBody(state, 'cut'))).status).toBe(201);
    expect((await plane.call('DELETE', '/v1/groups/cut?deleteHistory=true')).status).toBe(204);
    // The same, and the control plane ends too before it can look.
    dataPlane.onNextCreation = () => {
      dataPlane.setUp(false);
    };
    expect((await plane.post('/v1/groups', groupBody(state, 'cut-2'))).status).toBe(503);
    await plane.close();
    dataPlane.setUp(true);
    plane = await ControlPlane.start(state, dataPlane);
    expect(readdirSync(groups)).toEqual([id]);
    expect((await plane.get('/v1/groups')).body).toHaveLength(1);
  });

  it('names moments, and refuses a label twice', async () => {
    await load(dataPlane, id, random, 100);
    const made = await plane.post(`${url}/markers`, { label: 'before / the update', keep: '30d' });
    expect(made.status, made.text).toBe(201);
    expect(made.body).toMatchObject({ lsn: 103, label: 'before / the update', pinned: true });
    expect(made.body.time).toBe(formatTime(dataPlane.timeOf(id, 103)));
    expect((await plane.post(`${url}/markers`, { label: 'before / the update' })).status).toBe(409);
    for (const body of [
      {},
      { label: '' },
      { label: 'a'.repeat(256) },
      { label: 'a\nb' },
      { label: '\ud800' },
      { label: 'x', keep: 'long' },
    ]) {
      expect((await plane.post(`${url}/markers`, body)).status, JSON.stringify(body)).toBe(400);
    }
    const points = (await plane.get(`${url}/recovery-points`)).body;
    expect(points).toEqual([
      {
        lsn: 103,
        time: made.body.time,
        kind: 'marker',
        label: 'before / the update',
        expiry: made.body.keepUntil,
      },
    ]);
    expect((await plane.get(`${url}/recovery-points?from=-1h&to=-30m`)).body).toEqual([]);
  });

  it('seals, and answers when the map is in place', async () => {
    const sealed = await plane.post(`${url}/seal`);
    expect(sealed.status, sealed.text).toBe(200);
    expect(sealed.body).toEqual({ sealedLsn: 103, mappedLsn: 103 });
    const [map] = (await plane.get(`${url}/maps`)).body;
    expect(map).toMatchObject({
      id: '1',
      level: 0,
      firstLsn: 1,
      lastLsn: 103,
      previous: null,
      merged: null,
    });
    expect(existsSync(path.join(state, 'secondary/groups', id, map.file))).toBe(true);
    const [segment] = (await plane.get(`${url}/segments`)).body;
    expect(segment).toMatchObject({
      state: 'sealed',
      mapped: true,
      firstLsn: 1,
      lastLsn: 103,
      entries: 103,
    });
    expect(existsSync(path.join(state, 'secondary/groups', id, segment.file))).toBe(true);
  });

  it('says which point a moment means', async () => {
    await load(dataPlane, id, random, 50);
    const resolve = async (at: string) =>
      (await plane.get(`${url}/resolve?at=${encodeURIComponent(at)}`)).body;
    const timeOf = (lsn: number) => formatTime(dataPlane.timeOf(id, lsn));
    expect(await resolve('latest')).toEqual({ lsn: 153, time: timeOf(153), reachable: true });
    for (const lsn of [1, 60, 103, 104, 130, 153]) {
      expect(await resolve(`lsn:${lsn}`)).toMatchObject({
        lsn,
        time: timeOf(lsn),
        reachable: true,
      });
      expect(await resolve(timeOf(lsn))).toMatchObject({ lsn, reachable: true });
      const justBefore = formatTime(dataPlane.timeOf(id, lsn) - 1n);
      if (lsn > 1) expect(await resolve(justBefore)).toMatchObject({ lsn: lsn - 1 });
    }
    expect(await resolve('marker:before / the update')).toMatchObject({
      lsn: 103,
      label: 'before / the update',
      reachable: true,
    });
    expect(await resolve('marker:never')).toMatchObject({ lsn: null, reachable: false });
    expect(await resolve('lsn:154')).toMatchObject({
      reachable: false,
      nearest: { before: { lsn: 153 }, after: null },
    });
    expect(await resolve('2999-01-01T00:00:00Z')).toMatchObject({
      reachable: false,
      nearest: { before: { lsn: 153 }, after: null },
    });
    for (const at of ['2001-01-01T00:00:00Z', '-1y', 'lsn:0']) {
      expect(await resolve(at), at).toMatchObject({
        reachable: false,
        nearest: { before: null, after: { lsn: 1 } },
      });
    }
    expect((await plane.get(`${url}/resolve?at=yesterday`)).status).toBe(400);
    expect((await plane.get(`${url}/resolve`)).status).toBe(400);
  });

  it('restores both volumes at any LSN as a naive replay has them', async () => {
    await plane.post(`${url}/seal`);
    await load(dataPlane, id, random, 80);
    await dataPlane.syncLog(id);
    const lsns = [2, 3, 50, 103, 104, 130, 153, 154, 200, 233];
    for (let i = 0; i < 10; i += 1) lsns.push(2 + Math.floor(random() * 232));
    for (const [index, lsn] of lsns.entries()) {
      const { job, files } = await restore(`lsn:${lsn}`, `r${index}`);
      expect(job.result).toMatchObject({ lsn, bytes: 2 << 20 });
      expect(job.result.time).toBe(formatTime(dataPlane.timeOf(id, lsn)));
      expect(job.progress).toMatchObject({ done: 2 << 20, total: 2 << 20, unit: 'bytes' });
      for (const [volume, file] of files.entries()) {
        expect(file.equals(dataPlane.model(id, volume, lsn)), `LSN ${lsn} volume ${volume}`).toBe(
          true,
        );
      }
    }
    const different = dataPlane.model(id, 0, 50).equals(dataPlane.model(id, 0, 233));
    expect(different).toBe(false);
  });

  it('refuses targets and moments that cannot be', async () => {
    const target = { volume: 'vda', path: path.join(state, 'new.raw') };
    const ask = (at: string, change: object) =>
      plane.post(`${url}/restores`, { at, targets: [{ ...target, ...change }] });
    expect((await ask('latest', { volume: 'vdz' })).status).toBe(404);
    expect((await ask('latest', { format: 'qcow2' })).body.errors[0].field).toBe(
      'targets.0.format',
    );
    expect((await ask('latest', { path: path.join(folder, 'out.raw') })).status).toBe(400);
    expect((await ask('latest', { path: path.join(state, 'secondary/x.raw') })).status).toBe(400);
    expect(
      (await ask('latest', { path: path.join(state, 'admin.token'), overwrite: true })).status,
    ).toBe(400);
    expect((await ask('latest', { path: path.join(state, 'r0-vda.raw') })).status).toBe(409);
    const primary = path.join(state, 'web-1-vda.raw');
    expect((await ask('latest', { path: primary, overwrite: true })).status).toBe(409);
    // At LSN 1 the second volume does not exist yet.
    expect((await ask('lsn:1', { volume: 'vdb' })).status).toBe(404);
    const future = await ask('lsn:99999', {});
    expect(future.status).toBe(409);
    expect(future.body).toMatchObject({
      code: 'CONFLICT',
      reachable: false,
      nearest: { before: { lsn: 233 } },
    });
    const unknown = await ask('marker:never', {});
    expect(unknown.status).toBe(409);
    expect(unknown.body.reason).toMatch(/no marker/);
    expect(existsSync(target.path)).toBe(false);
    const again = await ask('lsn:233', { path: path.join(state, 'r0-vda.raw'), overwrite: true });
    expect(again.status).toBe(202);
    expect((await plane.jobEnd(again.body.id)).state).toBe('done');
    const file = readFileSync(path.join(state, 'r0-vda.raw'));
    expect(file.equals(dataPlane.model(id, 0, 233))).toBe(true);
  });

  it('pages lists', async () => {
    const all = (await plane.get('/v1/jobs?limit=1000')).body;
    expect(all.length).toBeGreaterThan(20);
    const first = (await plane.get('/v1/jobs?limit=7')).body;
    const second = (await plane.get(`/v1/jobs?limit=7&after=${first[6].id}`)).body;
    expect([...first, ...second]).toEqual(all.slice(0, 14));
    expect((await plane.get('/v1/jobs?after=nothing')).body).toEqual([]);
    const maps = (await plane.get(`${url}/maps?limit=1&after=1`)).body;
    expect(maps).toMatchObject([{ id: '2', previous: '1', firstLsn: 104 }]);
  });

  it('takes everything up again after a restart, with markers that nobody wrote down', async () => {
    await load(dataPlane, id, random, 40);
    await plane.close();
    // While no control plane runs the data plane seals, and a marker reaches the log alone.
    await dataPlane.seal(id);
    await load(dataPlane, id, random, 30);
    await dataPlane.addMarker(id, { label: 'alone' });
    const token = readFileSync(path.join(state, 'admin.token'), 'utf8');
    // A map file that a crash left before its record was written.
    const maps = path.join(state, 'secondary/groups', id, 'maps');
    writeFileSync(path.join(maps, '0000000000000003.epmap'), 'half a map');
    writeFileSync(path.join(maps, '.0000000000000004.epmap.1-x-1.tmp'), 'less');
    plane = await ControlPlane.start(state, dataPlane);
    expect(readFileSync(path.join(state, 'admin.token'), 'utf8')).toBe(token);
    await eventually(async () => (await plane.get(`${url}/maps`)).body.length).toBe(3);
    await eventually(async () =>
      (await plane.get(`${url}/markers`)).body.map((one: any) => one.label),
    ).toEqual(['before / the update', 'alone']);
    expect(readdirSync(maps).sort()).toEqual([1, 2, 3].map((n) => `000000000000000${n}.epmap`));
    const { lsn } = (await plane.get(`${url}/resolve?at=marker:alone`)).body;
    const { files } = await restore('marker:alone', 'alone');
    expect(files[0]?.equals(dataPlane.model(id, 0, lsn))).toBe(true);
    expect(files[1]?.equals(dataPlane.model(id, 1, lsn))).toBe(true);
  });

  it('unpins a marker, also when its segment is mapped later', async () => {
    const gone = await plane.call('DELETE', `${url}/markers/alone`);
    expect(gone.status).toBe(200);
    expect(gone.body).toMatchObject({ label: 'alone', pinned: false });
    expect((await plane.call('DELETE', `${url}/markers/never`)).status).toBe(404);
    await plane.post(`${url}/seal`);
    const marker = (await plane.get(`${url}/markers`)).body.find(
      (one: any) => one.label === 'alone',
    );
    expect(marker.pinned).toBe(false);
    const slash = encodeURIComponent('before / the update');
    expect((await plane.call('DELETE', `${url}/markers/${slash}`)).status).toBe(200);
  });

  it('changes a group, and keeps the change', async () => {
    const policy = { name: 'gold', keepAll: '1w', grid: [] };
    expect((await plane.post('/v1/policies', policy)).status).toBe(201);
    const body = { policy: 'gold', ack: 'both', throttleMaxMs: 100, onLogPressure: 'gap' };
    const patched = await plane.call('PATCH', url, { body });
    expect(patched.status, patched.text).toBe(200);
    expect(patched.body).toMatchObject(body);
    expect(dataPlane.groups.get(id)?.definition.ack).toBe('both');
    expect((await plane.call('PATCH', url, { body: { volumes: [] } })).status).toBe(400);
    expect((await plane.call('PATCH', url, { body: { name: 'other' } })).status).toBe(400);
    expect((await plane.call('DELETE', '/v1/policies/gold')).status).toBe(409);
    const put = { ...policy, keepAll: '2w' };
    expect((await plane.call('PUT', '/v1/policies/gold', { body: put })).status).toBe(200);
    const manifest = readFileSync(path.join(state, 'secondary/groups', id, 'manifest'), 'utf8');
    expect(manifest.trimEnd().split('\n').at(-1)).toContain('"keepAll":"2w"');
  });

  it('rebuilds the catalog, when it is missing, as it was', async () => {
    await plane.close();
    const before = tablesOf(state);
    expect(before['map']?.length).toBe(4);
    for (const tail of ['', '-wal', '-shm'])
      rmSync(path.join(state, `catalog.sqlite${tail}`), { force: true });
    // Groups come from their manifests even while the data plane is away.
    dataPlane.up = false;
    plane = await ControlPlane.start(state, dataPlane);
    expect((await plane.get(url)).body).toMatchObject({ state: 'failed', policy: 'gold' });
    expect((await plane.get(url)).body.reason).toMatch(/not running/);
    await plane.close();
    expect(tablesOf(state)).toEqual(before);
    dataPlane.up = true;
    plane = await ControlPlane.start(state, dataPlane);
    expect((await plane.get(url)).body.state).toBe('protected');
  });

  it('makes a damaged catalog anew', async () => {
    await plane.close();
    const before = tablesOf(state);
    for (const tail of ['-wal', '-shm'])
      rmSync(path.join(state, `catalog.sqlite${tail}`), { force: true });
    writeFileSync(path.join(state, 'catalog.sqlite'), Buffer.alloc(8192, 0x5a));
    plane = await ControlPlane.start(state, dataPlane);
    await plane.close();
    expect(tablesOf(state)).toEqual(before);
    plane = await ControlPlane.start(state, dataPlane);
  });

  it('takes over a group whose creation was interrupted', async () => {
    expect((await plane.post('/v1/groups', groupBody(state, 'half'))).status).toBe(201);
    const half = (await plane.get('/v1/groups/half')).body;
    await plane.close();
    const db = new Database(path.join(state, 'catalog.sqlite'));
    db.prepare('delete from protection_group where id = ?').run(half.id);
    db.close();
    plane = await ControlPlane.start(state, dataPlane);
    const { rpoSeconds: _a, ...again } = (await plane.get('/v1/groups/half')).body;
    expect(half).toMatchObject(again);
  });

  it('refuses to delete what is in use, and leaves history unless told otherwise', async () => {
    const half = (await plane.get('/v1/groups/half')).body;
    dataPlane.connect(half.id, true);
    expect((await plane.call('DELETE', '/v1/groups/half')).status).toBe(409);
    expect((await plane.call('DELETE', '/v1/devices/default')).status).toBe(409);
    expect((await plane.call('DELETE', '/v1/groups/half?force=true')).status).toBe(204);
    expect(existsSync(path.join(state, 'secondary/groups', half.id, 'manifest'))).toBe(true);
    expect((await plane.get('/v1/groups/half')).status).toBe(404);
    // Its manifest is still there, and does not bring it back.
    await plane.close();
    for (const tail of ['', '-wal', '-shm'])
      rmSync(path.join(state, `catalog.sqlite${tail}`), { force: true });
    plane = await ControlPlane.start(state, dataPlane);
    const names = (await plane.get('/v1/groups')).body.map((group: any) => group.name);
    expect(names).toEqual(['web-1']);
  });

  it('leaves nothing of a deleted group behind, also when its maps are just being made', async () => {
    for (let round = 0; round < 5; round += 1) {
      const { id: brief } = (await plane.post('/v1/groups', groupBody(state, `brief-${round}`)))
        .body;
      dataPlane.write(brief, 0, 0, Buffer.alloc(4096, round));
      await dataPlane.seal(brief);
      await new Promise((resolve) => setTimeout(resolve, round * 3));
      const gone = await plane.call('DELETE', `/v1/groups/${brief}?deleteHistory=true`);
      expect(gone.status, gone.text).toBe(204);
      await new Promise((resolve) => setTimeout(resolve, 50));
      expect(existsSync(path.join(state, 'secondary/groups', brief))).toBe(false);
    }
  });

  it('restarts a restore that an end of the service interrupted', async () => {
    await plane.close();
    const target = path.join(state, 'interrupted.raw');
    const db = new Database(path.join(state, 'catalog.sqlite'));
    const params = {
      groupId: id,
      lsn: 100,
      time: formatTime(dataPlane.timeOf(id, 100)),
      targets: [{ volume: 'vda', path: target, overwrite: false }],
    };
    const progress = { done: 5, total: 10, unit: 'bytes', perSecond: 1, etaSeconds: 5 };
    const insert = db.prepare(
      `insert into job (id, kind, group_id, state, params, progress, created_ns, updated_ns)
       values (?, ?, ?, 'running', ?, ?, '1', '1')`,
    );
    insert.run('jinterrupted', 'restore', id, JSON.stringify(params), JSON.stringify(progress));
    db.close();
    const left = path.join(state, '.interrupted.raw.4711-abc-1.tmp');
    writeFileSync(left, 'half');
    plane = await ControlPlane.start(state, dataPlane);
    const job = await plane.jobEnd('jinterrupted');
    expect(job.state, JSON.stringify(job)).toBe('done');
    expect(existsSync(left)).toBe(false);
    expect(readFileSync(target).equals(dataPlane.model(id, 0, 100))).toBe(true);
    expect((await plane.call('DELETE', '/v1/jobs/jinterrupted')).status).toBe(409);
  });

  it('refuses to start with a job that it cannot do', async () => {
    await plane.close();
    const db = new Database(path.join(state, 'catalog.sqlite'));
    db.prepare(
      `insert into job (id, kind, state, params, progress, created_ns, updated_ns)
       values ('jnew', 'of-a-newer-version', 'queued', '{}', '{}', '1', '1')`,
    ).run();
    await expect(ControlPlane.start(state, dataPlane)).rejects.toThrow(/of-a-newer-version/);
    db.prepare("delete from job where id = 'jnew'").run();
    db.close();
    plane = await ControlPlane.start(state, dataPlane);
  });

  it('never takes an older point for a marker or LSN of a tail that cannot be read', async () => {
    // Broke: with the data plane down, or the group failed, a marker that no map held yet was taken
    // for "between two epochs", and the restore ended well, with the bytes of the last mapped LSN.
    // Whoever went back to "before the update" would have lost everything since the map before it.
    await plane.post(`${url}/seal`);
    const { lsn: mapped } = (await plane.get(`${url}/resolve?at=latest`)).body;
    await load(dataPlane, id, random, 30);
    const made = (await plane.post(`${url}/markers`, { label: 'in the tail' })).body;
    expect(made.lsn).toBe(mapped + 31);
    const ask = async (at: string) => ({
      resolved: await plane.get(`${url}/resolve?at=${encodeURIComponent(at)}`),
      restore: await plane.post(`${url}/restores`, {
        at,
        targets: [{ volume: 'vda', path: path.join(state, 'never.raw') }],
      }),
    });
    const named = ['marker:in the tail', `lsn:${made.lsn}`, `lsn:${mapped + 5}`, made.time];
    dataPlane.up = false;
    for (const at of [...named, 'latest']) {
      const { resolved, restore: refused } = await ask(at);
      expect([resolved.status, refused.status], `${at}: ${resolved.text}`).toEqual([503, 503]);
    }
    dataPlane.up = true;
    dataPlane.fail(id, 'its primary is away');
    for (const at of [...named, 'latest']) {
      const { resolved, restore: refused } = await ask(at);
      expect([resolved.status, refused.status], `${at}: ${resolved.text}`).toEqual([409, 409]);
      expect(refused.body.detail).toMatch(/its primary is away/);
    }
    expect((await plane.get(`${url}/resolve?at=lsn:${mapped}`)).body).toMatchObject({
      lsn: mapped,
      reachable: true,
    });
    dataPlane.fail(id, undefined);
    for (const at of named.slice(0, 3)) {
      const wanted = at === named[2] ? mapped + 5 : made.lsn;
      const answer = (await plane.get(`${url}/resolve?at=${encodeURIComponent(at)}`)).body;
      expect(answer, at).toMatchObject({ lsn: wanted, reachable: true });
    }
    expect(existsSync(path.join(state, 'never.raw'))).toBe(false);
  });

  it('refuses what a lost segment held, and what came after it', async () => {
    // Broke: a segment that was gone without a gap to say so was stepped over; a point inside it
    // gave the bytes before it, and one after it the bytes without what it held.
    const body = groupBody(state, 'holed', ['vda', 'vdb']);
    const { id: holed } = (await plane.post('/v1/groups', body)).body;
    await load(dataPlane, holed, random, 20);
    await plane.post('/v1/groups/holed/seal');
    await load(dataPlane, holed, random, 20);
    await plane.post('/v1/groups/holed/markers', { label: 'lost' });
    await plane.close();
    await dataPlane.seal(holed);
    await load(dataPlane, holed, random, 20);
    await dataPlane.syncLog(holed);
    dataPlane.loseSegment(holed, 2);
    plane = await ControlPlane.start(state, dataPlane);
    const ask = (at: string) => plane.get(`/v1/groups/holed/resolve?at=${encodeURIComponent(at)}`);
    expect((await ask('lsn:22')).body).toMatchObject({ lsn: 22, reachable: true });
    const lostTime = formatTime(dataPlane.timeOf(holed, 40));
    for (const at of ['marker:lost', 'lsn:30', lostTime, 'lsn:50', 'latest']) {
      const answer = await ask(at);
      expect(answer.body, at).toMatchObject({ code: 'CORRUPTION', lsnRange: { first: 23 } });
      expect(answer.body.hint).toMatch(/points before that LSN are whole/);
      const refused = await plane.post('/v1/groups/holed/restores', {
        at,
        targets: [{ volume: 'vda', path: path.join(state, 'never.raw') }],
      });
      expect(refused.body.code, at).toBe('CORRUPTION');
    }
    expect((await plane.call('DELETE', '/v1/groups/holed')).status).toBe(204);
  });

  it('does not restore another LSN than the one that was named', async () => {
    // The second lock on the same door: whatever the resolver may get wrong, bytes of another LSN
    // than the named one are never written.
    const resolver = plane.app.get(Resolver);
    const point = { lsn: 50, time: formatTime(dataPlane.timeOf(id, 50)), reachable: true };
    const wrong = vi.spyOn(resolver, 'resolve').mockResolvedValue(point);
    try {
      const targets = [{ volume: 'vda', path: path.join(state, 'never.raw') }];
      for (const at of ['lsn:60', 'marker:in the tail']) {
        const refused = await plane.post(`${url}/restores`, { at, targets });
        expect(refused.body, at).toMatchObject({ code: 'CORRUPTION' });
        expect(refused.body.detail).toMatch(/LSN 50 was found/);
      }
    } finally {
      wrong.mockRestore();
    }
    expect(existsSync(path.join(state, 'never.raw'))).toBe(false);
  });

  it('offers no point inside a gap', async () => {
    await load(dataPlane, id, random, 10);
    const { lsn } = (await plane.get(`${url}/resolve?at=latest`)).body;
    dataPlane.openGap(id, 'the log buffer was lost');
    dataPlane.write(id, 0, 0, Buffer.alloc(512, 7));
    await new Promise((resolve) => setTimeout(resolve, 5));
    const group = (await plane.get(url)).body;
    expect(group).toMatchObject({
      state: 'gap',
      reason: 'the log buffer was lost',
      durableLsn: lsn,
    });
    expect((await plane.get(`${url}/gaps`)).body).toMatchObject([
      { fromLsn: lsn, toLsn: null, to: null, reason: 'the log buffer was lost', healed: false },
    ]);
    for (const at of [
      'latest',
      `lsn:${lsn + 1}`,
      '-0s'.replace('-0s', formatTime(dataPlane.timeOf(id, lsn) + 1000n)),
    ]) {
      const answer = (await plane.get(`${url}/resolve?at=${encodeURIComponent(at)}`)).body;
      expect(answer, at).toMatchObject({
        reachable: false,
        nearest: { before: { lsn }, after: null },
      });
      expect(answer.reason).toMatch(/gap/);
    }
    expect((await plane.get(`${url}/resolve?at=lsn:${lsn}`)).body.reachable).toBe(true);
    expect((await plane.post(`${url}/markers`, { label: 'no' })).status).toBe(409);
    expect((await plane.post(`${url}/seal`)).status).toBe(409);
    const asked = await plane.post(`${url}/restores`, {
      at: 'latest',
      targets: [{ volume: 'vda', path: path.join(state, 'gap.raw') }],
    });
    expect(asked.status).toBe(409);
    expect(asked.body.nearest.before.lsn).toBe(lsn);
    // Broke with the real addon: every moment in a gap was answered 409 "busy", the points before it
    // too: the way back was shut in the very moment in which it is asked for.
    const inside = formatTime(dataPlane.timeOf(id, lsn) + 1n);
    for (const at of [inside, `lsn:${lsn + 1}`, '-0s']) {
      const resolved = await plane.get(`${url}/resolve?at=${encodeURIComponent(at)}`);
      expect(resolved.status, resolved.text).toBe(200);
      expect(resolved.body, at).toMatchObject({ reachable: false, nearest: { before: { lsn } } });
      const targets = [{ volume: 'vda', path: path.join(state, 'gap.raw') }];
      const refused = await plane.post(`${url}/restores`, { at, targets });
      expect(refused.status, at).toBe(409);
      const { time: _a, ...fields } = resolved.body;
      if (at !== '-0s') expect(refused.body).toMatchObject(fields);
      expect(refused.body.nearest.before.lsn).toBe(lsn);
    }
    for (const at of [`lsn:${lsn}`, formatTime(dataPlane.timeOf(id, lsn)), 'marker:in the tail']) {
      const wanted = (await plane.get(`${url}/resolve?at=${encodeURIComponent(at)}`)).body;
      expect(wanted, at).toMatchObject({ reachable: true });
      const { files } = await restore(at, `before-the-gap-${wanted.lsn}-${at.length}`);
      expect(files[0]?.equals(dataPlane.model(id, 0, wanted.lsn)), at).toBe(true);
    }
    await eventually(() => tablesOf(state)['gap']?.length).toBe(1);
    // Asked for while the data plane is down: what is mapped is known, what is not needs it.
    dataPlane.up = false;
    expect((await plane.get(`${url}/resolve?at=lsn:50`)).body).toMatchObject({
      lsn: 50,
      reachable: true,
    });
    expect((await plane.get(`${url}/resolve?at=latest`)).status).toBe(503);
    dataPlane.up = true;
  });

  it('shows its figures', async () => {
    const { text } = await plane.get('/metrics');
    expect(text).toMatch(/everpoint_group_state\{group="web-1",state="gap"\} 1/);
    expect(text).toMatch(/everpoint_group_gaps\{group="web-1"\} 1/);
    expect(text).toMatch(/everpoint_group_lsn\{group="web-1"\} \d+/);
    expect(text).toMatch(/everpoint_group_map_lag_lsns\{group="web-1"\} 0/);
    expect(text).toMatch(/everpoint_dataplane_up 1/);
    expect(text).toMatch(/everpoint_jobs\{state="done"\} \d+/);
    // Broke: everpoint_process_process_cpu_…, which no dashboard would look for.
    expect(text).toMatch(/^everpoint_process_cpu_seconds_total /m);
    expect(text).toMatch(/^everpoint_nodejs_eventloop_lag_seconds /m);
    expect(text).not.toMatch(/process_process/);
    expect(text).not.toContain(plane.token);
  });
});

describe('damage', () => {
  it('is named in the answers, with the file and what to do', async () => {
    // Broke: a group whose manifest was damaged went on as "protected" with an empty reason, no map
    // was made any more, and a restore ended in an HTTP 500 or a 404 without a hint.
    const { folder, remove } = temporaryFolder();
    const state = path.join(folder, 'var');
    const dataPlane = new FakeDataPlane();
    let plane = await ControlPlane.start(state, dataPlane);
    try {
      const { id } = (await plane.post('/v1/groups', groupBody(state, 'web-1'))).body;
      for (let i = 0; i < 3; i += 1) dataPlane.write(id, 0, i, Buffer.alloc(512, i));
      await plane.post('/v1/groups/web-1/seal');
      const ask = (name: string) =>
        plane.post('/v1/groups/web-1/restores', {
          at: 'lsn:3',
          targets: [{ volume: 'vda', path: path.join(state, name) }],
        });
      const segments = (await plane.get('/v1/groups/web-1/segments')).body;
      const home = path.join(state, 'secondary/groups', id);
      const segment = path.join(home, segments[0].file);
      const manifest = path.join(home, 'manifest');

      // Names as long as a file system takes them; two that begin alike are told apart.
      for (const name of [`${'a'.repeat(251)}.raw`, 'ü'.repeat(115)]) {
        const asked = await ask(name);
        expect(asked.status, asked.text).toBe(202);
        const job = await plane.jobEnd(asked.body.id);
        expect(job.state, JSON.stringify(job)).toBe('done');
        expect(existsSync(path.join(state, name))).toBe(true);
      }
      expect(readdirSync(state).filter((name) => name.endsWith('.tmp'))).toEqual([]);

      renameSync(segment, `${segment}.away`);
      const holed = await ask('new.raw');
      expect(holed.body, holed.text).toMatchObject({ code: 'CORRUPTION', file: segment });
      expect(holed.body.detail).toMatch(/is missing/);
      expect(holed.body.hint).toMatch(/mount the device/);
      renameSync(`${segment}.away`, segment);

      const good = readFileSync(manifest);
      const flipped = Buffer.from(good);
      flipped[40] = (flipped[40] ?? 0) ^ 0xff;
      for (const [bytes, text] of [
        [flipped, /is damaged at offset/],
        [undefined, /manifest is missing/],
      ] as const) {
        await plane.close();
        if (bytes === undefined) rmSync(manifest);
        else writeFileSync(manifest, bytes);
        plane = await ControlPlane.start(state, dataPlane);
        const refused = await ask('new.raw');
        expect(refused.body, refused.text).toMatchObject({ code: 'CORRUPTION', file: manifest });
        expect(refused.body.detail).toMatch(text);
        expect(refused.body.hint).toMatch(/copy/);
        await eventually(async () => (await plane.get('/v1/groups/web-1')).body.reason).toMatch(
          text,
        );
        expect((await plane.get('/v1/groups/web-1')).body.state).toBe('protected');
      }
      await plane.close();
      writeFileSync(manifest, good);
      plane = await ControlPlane.start(state, dataPlane);
      expect((await ask('new.raw')).status).toBe(202);
      await eventually(async () => (await plane.get('/v1/groups/web-1')).body.reason).toBe('');
    } finally {
      await plane.close();
      remove();
    }
  });
});

describe('events', () => {
  it('are sent as they happen', async () => {
    const { folder, remove } = temporaryFolder();
    const state = path.join(folder, 'var');
    mkdirSync(state);
    const dataPlane = new FakeDataPlane();
    const plane = await ControlPlane.start(state, dataPlane);
    try {
      await plane.app.listen({ host: '127.0.0.1', port: 0 });
      const base = (await plane.app.getUrl()).replace('[::1]', '127.0.0.1');
      const headers = { authorization: `Bearer ${plane.token}` };
      const response = await fetch(`${base}/v1/events`, { headers });
      expect(response.headers.get('content-type')).toMatch(/text\/event-stream/);
      let seen = '';
      const reading = (async () => {
        for await (const chunk of response.body ?? []) seen += Buffer.from(chunk).toString();
      })().catch(() => undefined);
      const group = (await plane.post('/v1/groups', groupBody(state, 'web-1'))).body;
      dataPlane.write(group.id, 0, 0, Buffer.alloc(512, 1));
      await plane.post('/v1/groups/web-1/markers', { label: 'one' });
      await plane.post('/v1/groups/web-1/seal');
      dataPlane.openGap(group.id, 'for the test');
      for (const type of ['groups', 'marker', 'sealed', 'mapped', 'gap', 'group']) {
        await eventually(() => seen).toContain(`event: ${type}\n`);
      }
      // An open stream does not hold the end of the service up.
      await plane.close();
      await reading;
    } finally {
      remove();
    }
  });
});
