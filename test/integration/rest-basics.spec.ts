// SPDX-License-Identifier: Apache-2.0
/* eslint-disable @typescript-eslint/no-unsafe-argument, @typescript-eslint/no-unsafe-call
   -- answers over HTTP are JSON of any shape: whether it is the right one is what is tested here. */
import { chmodSync, mkdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { StateFolder, StateFolderBusyError } from '../../src/config/state-folder.js';
import { ControlPlane, groupBody, temporaryFolder } from '../support/control-plane.js';
import { FakeDataPlane } from '../support/fake-data-plane.js';

describe('the REST face', () => {
  const { folder, remove } = temporaryFolder();
  const state = path.join(folder, 'var');
  const dataPlane = new FakeDataPlane();
  let plane: ControlPlane;

  beforeAll(async () => {
    plane = await ControlPlane.start(state, dataPlane);
  });
  afterAll(async () => {
    await plane.close();
    remove();
  });

  it('writes the admin token once, for its owner only', async () => {
    expect(statSync(path.join(state, 'admin.token')).mode & 0o777).toBe(0o600);
    expect(plane.token.length).toBeGreaterThan(30);
  });

  it('refuses a second service on the same state folder', () => {
    expect(() => StateFolder.claim(state)).toThrow(StateFolderBusyError);
  });

  it('asks for a token, and knows the right one', async () => {
    const none = await plane.call('GET', '/v1/info', { token: null });
    expect(none.status).toBe(401);
    expect(none.headers['content-type']).toMatch(/^application\/problem\+json/);
    expect(none.headers['www-authenticate']).toMatch(/^Bearer/);
    expect(none.body).toMatchObject({
      status: 401,
      code: 'UNAUTHENTICATED',
      title: 'Unauthorized',
    });
    expect((await plane.call('GET', '/v1/info', { token: `${plane.token}x` })).status).toBe(401);
    expect((await plane.get('/v1/info')).status).toBe(200);
    // Also where there is no such route: who is nobody learns nothing.
    expect((await plane.call('GET', '/v1/groups/x', { token: null })).status).toBe(401);
  });

  it('lets roles do what they may', async () => {
    const { TokenService } = await import('../../src/auth/token.service.js');
    const tokens = plane.app.get(TokenService, { strict: false });
    tokens.accept('viewer-token-0123456789', { name: 'v', role: 'viewer' });
    tokens.accept('operator-token-0123456789', { name: 'o', role: 'operator' });
    const policy = { name: 'by-role', keepAll: '1h', grid: [] };
    const asViewer = { token: 'viewer-token-0123456789' };
    expect((await plane.call('GET', '/v1/policies', asViewer)).status).toBe(200);
    const refused = await plane.call('POST', '/v1/policies', { ...asViewer, body: policy });
    expect(refused.status).toBe(403);
    expect(refused.body).toMatchObject({ code: 'FORBIDDEN' });
    const asOperator = { token: 'operator-token-0123456789' };
    expect((await plane.call('POST', '/v1/policies', { ...asOperator, body: policy })).status).toBe(
      201,
    );
    const device = { path: path.join(folder, 'x') };
    expect((await plane.call('POST', '/v1/devices', { ...asOperator, body: device })).status).toBe(
      403,
    );
  });

  it('has health, readiness and metrics open on loopback only', async () => {
    for (const url of ['/healthz', '/readyz', '/metrics']) {
      expect((await plane.call('GET', url, { token: null })).status, url).toBe(200);
      const far = { token: null, remoteAddress: '192.0.2.7' };
      expect((await plane.call('GET', url, far)).status, url).toBe(401);
      const known = { remoteAddress: '192.0.2.7' };
      expect((await plane.call('GET', url, known)).status, url).toBe(200);
    }
  });

  it('is not ready while the data plane is down, and stays up itself', async () => {
    dataPlane.setUp(false);
    try {
      const ready = await plane.get('/readyz');
      expect(ready.status).toBe(503);
      expect(ready.body.missing.join()).toMatch(/data plane/);
      expect((await plane.get('/healthz')).status).toBe(200);
      expect((await plane.get('/v1/info')).body.dataPlane).toMatchObject({
        state: 'down',
        pid: null,
      });
      const create = await plane.post('/v1/groups', groupBody(state, 'later'));
      expect(create.status).toBe(503);
      expect(create.body).toMatchObject({ code: 'UNAVAILABLE', retryable: true });
      expect(create.body.hint).toMatch(/\w/);
    } finally {
      dataPlane.setUp(true);
    }
    expect((await plane.get('/readyz')).status).toBe(200);
  });

  it('makes a device and a policy named default', async () => {
    const [device] = (await plane.get('/v1/devices')).body;
    expect(device).toMatchObject({
      name: 'default',
      path: path.join(state, 'secondary'),
      state: 'ready',
    });
    expect(device.sizeBytes).toBeGreaterThan(device.freeBytes);
    const policy = (await plane.get('/v1/policies/default')).body;
    expect(policy).toMatchObject({
      name: 'default',
      keepAll: '48h',
      grid: [
        { every: '1h', for: '14d' },
        { every: '1d', for: '12w' },
      ],
    });
    expect((await plane.get(`/v1/policies/${policy.id}`)).body).toEqual(policy);
    expect((await plane.call('DELETE', '/v1/policies/default')).status).toBe(409);
    expect((await plane.call('DELETE', '/v1/devices/default')).status).toBe(409);
  });

  it('keeps the identity of a device that is removed and added again', async () => {
    const file = path.join(folder, 'second');
    const added = await plane.post('/v1/devices', { path: file });
    expect(added.status).toBe(201);
    expect(added.body).toMatchObject({ name: 'second', path: file, state: 'ready' });
    expect((await plane.post('/v1/devices', { path: file })).status).toBe(409);
    expect((await plane.call('DELETE', '/v1/devices/second')).status).toBe(204);
    expect((await plane.get('/v1/devices/second')).status).toBe(404);
    const again = await plane.post('/v1/devices', { path: file });
    expect(again.body.id).toBe(added.body.id);
    expect((await plane.post('/v1/devices', { path: path.join(folder, 'a/b/c') })).status).toBe(
      400,
    );
    const identity = path.join(file, 'everpoint.device');
    const content = readFileSync(identity, 'utf8');
    writeFileSync(identity, content.replace(added.body.id.slice(0, 8), '00000000'));
    const damaged = (await plane.get('/v1/devices/second')).body;
    expect(damaged).toMatchObject({ state: 'failed' });
    expect(damaged.reason).toMatch(/checksum/);
  });

  it('stores, replaces and removes policies', async () => {
    const gold = { name: 'gold', keepAll: '1w', grid: [{ every: '1h', for: '4w' }], pinLimit: 5 };
    const made = await plane.post('/v1/policies', gold);
    expect(made.status).toBe(201);
    expect(made.body).toMatchObject(gold);
    expect((await plane.post('/v1/policies', gold)).status).toBe(409);
    const changed = { ...gold, keepAll: '2w' };
    const put = await plane.call('PUT', '/v1/policies/gold', { body: changed });
    expect(put.body).toMatchObject({ id: made.body.id, keepAll: '2w' });
    for (const bad of [
      { ...gold, name: 'x', keepAll: '5 minutes' },
      { ...gold, name: 'x', keepAll: '0s' },
      { ...gold, name: 'x', grid: [{ every: '1h', for: '1d' }] },
      { ...gold, name: 'x', grid: [{ every: '1h' }] },
      { ...gold, name: '../x' },
      { ...gold, name: 'x', unheardOf: 1 },
      { name: 'x', keepAll: '1h' },
    ]) {
      const refused = await plane.post('/v1/policies', bad);
      expect(refused.status, JSON.stringify(bad)).toBe(400);
      expect(refused.body.errors.length).toBeGreaterThan(0);
    }
    expect((await plane.call('DELETE', '/v1/policies/gold')).status).toBe(204);
    expect((await plane.get('/v1/policies/gold')).status).toBe(404);
  });

  it('answers hostile requests with problems and goes on', async () => {
    const requests: [string, string, object][] = [
      ['POST', '/v1/groups', { raw: '{"name": ' }],
      ['POST', '/v1/groups', { raw: 'null' }],
      ['POST', '/v1/groups', { raw: '[]' }],
      ['POST', '/v1/groups', { raw: '"text"' }],
      ['POST', '/v1/groups', { raw: '' }],
      ['POST', '/v1/groups', { raw: '{"__proto__": {"name": 1}}' }],
      ['POST', '/v1/groups', { raw: '{"constructor": {"prototype": 1}}' }],
      ['POST', '/v1/groups', { raw: `{"a":${'['.repeat(100_000)}${']'.repeat(100_000)}}` }],
      ['POST', '/v1/groups', { raw: Buffer.alloc(2 * 1024 * 1024, 0x20) }],
      ['POST', '/v1/groups', { raw: Buffer.from([0xff, 0xfe, 0x00, 0x80]) }],
      ['POST', '/v1/groups', { raw: '<a/>', headers: { 'content-type': 'text/xml' } }],
      ['POST', '/v1/groups', { body: { name: 'x', volumes: [null] } }],
      ['POST', '/v1/groups', { body: { name: 'x', volumes: [[]] } }],
      [
        'POST',
        '/v1/groups',
        { body: { name: 'x', volumes: [[groupBody(state, 'x').volumes[0]]] } },
      ],
      [
        'POST',
        '/v1/groups',
        { body: { name: 'x', volumes: [{ name: 'vda', primary: [], baseline: 'none' }] } },
      ],
      [
        'POST',
        '/v1/groups',
        { body: { ...groupBody(state, 'x'), logBuffer: [{ kind: 'tmpfs' }] } },
      ],
      ['POST', '/v1/groups', { body: { name: 'x', volumes: { length: 1e9 } } }],
      ['POST', '/v1/policies', { body: { name: 'x', keepAll: '1h', grid: [[]] } }],
      ['POST', '/v1/groups', { body: { name: { $gt: '' }, volumes: 'x' } }],
      ['POST', '/v1/devices', { body: { path: '/\0' } }],
      ['POST', '/v1/devices', { body: { path: '/proc/self/x' } }],
      ['POST', '/v1/devices', { body: { path: '/dev/null' } }],
      ['GET', '/v1/groups/%00', {}],
      ['GET', '/v1/groups/%ff', {}],
      ['GET', `/v1/groups/${'a'.repeat(5000)}`, {}],
      ['GET', '/v1/jobs?limit=-1', {}],
      ['GET', '/v1/jobs?limit=1e9', {}],
      ['GET', '/v1/jobs?limit=1&limit=2', {}],
      ['GET', '/v1/jobs?surprise=1', {}],
      ['GET', '/v1/groups/x/resolve?at[a]=1', {}],
      ['GET', '/nowhere', {}],
      ['DELETE', '/v1/jobs/..%2f..', {}],
    ];
    for (const [method, url, options] of requests) {
      const answer = await plane.call(method, url, options);
      const name = `${method} ${url.slice(0, 60)} ${JSON.stringify(options).slice(0, 60)}`;
      expect(answer.status, name).toBeGreaterThanOrEqual(400);
      expect(answer.status, name).toBeLessThan(500);
      expect(answer.headers['content-type'], name).toMatch(/^application\/problem\+json/);
      expect(answer.body, name).toMatchObject({ status: answer.status });
      expect(answer.body.detail, name).toMatch(/\w/);
    }
    expect((await plane.get('/readyz')).status).toBe(200);
  });

  it('names the field of every fault in a group', async () => {
    mkdirSync(path.join(folder, 'outside'), { recursive: true });
    symlinkSync(path.join(folder, 'outside'), path.join(state, 'link'));
    writeFileSync(path.join(state, 'there.raw'), Buffer.alloc(4096));
    const good = groupBody(state, 'checked');
    const [volume] = good.volumes;
    const withVolume = (change: object) => ({ ...good, volumes: [{ ...volume, ...change }] });
    const withPrimary = (change: object) =>
      withVolume({ primary: { ...volume?.primary, ...change } });
    const cases: [object, string, RegExp, number?][] = [
      [{ ...good, name: 'a b' }, 'name', /letters/],
      [{ ...good, volumes: [] }, 'volumes', /at least 1/],
      [{ ...good, volumes: [volume, volume] }, 'volumes', /differ/],
      [{ ...good, policy: 'none-such' }, 'policy', /none-such/],
      [{ ...good, devices: ['none-such'] }, 'devices.0', /none-such/],
      [{ ...good, ack: 'maybe' }, 'ack', /primary, both/],
      [{ ...good, logBuffer: { kind: 'pmem' } }, 'logBuffer.path', /is needed/],
      [{ ...good, logBuffer: { kind: 'tmpfs', path: '/x' } }, 'logBuffer.path', /its own place/],
      [{ ...good, logBuffer: { kind: 'file', path: '/x' } }, 'logBuffer.path', /configured root/],
      [{ ...good, throttleMaxMs: -1 }, 'throttleMaxMs', /less than 0/],
      [withVolume({ baseline: undefined }), 'volumes.0.baseline', /"baseline": "none"/],
      [withVolume({ baseline: 'fuzzy' }), 'volumes.0.baseline', /"baseline": "none"/],
      [withVolume({ blockSize: 1024 }), 'volumes.0.blockSize', /512, 4096/],
      [withVolume({ exports: [{ kind: 'nbd' }] }), 'volumes.0.exports.0.kind', /not supported yet/],
      [
        withVolume({ exports: [{ kind: 'vhost-user-blk', queues: 65 }] }),
        'volumes.0.exports.0.queues',
        /64/,
      ],
      [
        withVolume({ exports: [{ kind: 'vhost-user-blk', path: `/${'a'.repeat(110)}` }] }),
        'volumes.0.exports.0.path',
        /107/,
      ],
      [
        withVolume({ exports: [{ kind: 'vhost-user-blk', owner: 'nobody-here:nobody-here' }] }),
        'volumes.0.exports.0.owner',
        /no such user/,
      ],
      [withPrimary({ kind: 'spdk' }), 'volumes.0.primary.kind', /not supported yet/],
      [withPrimary({ kind: 'none' }), 'volumes.0.primary.kind', /not supported yet/],
      [withPrimary({ path: 'relative.raw' }), 'volumes.0.primary.path', /absolute/],
      [
        withPrimary({ path: path.join(folder, 'out.raw') }),
        'volumes.0.primary.path',
        /configured root/,
      ],
      [
        withPrimary({ path: path.join(state, 'link/x.raw') }),
        'volumes.0.primary.path',
        /configured root/,
      ],
      [withPrimary({ path: `${state}/../out.raw` }), 'volumes.0.primary.path', /plain absolute/],
      [
        withPrimary({ path: path.join(state, 'secondary/x') }),
        'volumes.0.primary.path',
        /device default/,
      ],
      [
        withPrimary({ path: path.join(state, 'catalog.sqlite-x') }),
        'volumes.0.primary.path',
        /itself/,
      ],
      [
        withPrimary({ path: path.join(state, 'no/x.raw') }),
        'volumes.0.primary.path',
        /does not exist/,
      ],
      [withPrimary({ sizeBytes: undefined }), 'volumes.0.primary.sizeBytes', /needed/],
      [withPrimary({ sizeBytes: 1000 }), 'volumes.0.primary.sizeBytes', /multiple/],
      [withPrimary({ create: false }), 'volumes.0.primary.path', /"create": true/],
      [
        withPrimary({ create: false, path: path.join(state, 'there.raw'), sizeBytes: 512 }),
        'volumes.0.primary.sizeBytes',
        /4096 bytes/,
      ],
      [
        withPrimary({ kind: 'device', create: false, path: path.join(state, 'there.raw') }),
        'volumes.0.primary.kind',
        /block device/,
      ],
      [{ ...good, extra: true }, 'extra', /should not exist/],
    ];
    for (const [body, field, message] of cases) {
      const answer = await plane.post('/v1/groups', body);
      expect(answer.status, `${field} ${answer.text}`).toBe(400);
      const fields = answer.body.errors.map((error: { field: string }) => error.field);
      expect(fields, answer.text).toContain(field);
      expect(answer.body.detail, field).toMatch(message);
    }
    const exists = await plane.post(
      '/v1/groups',
      withPrimary({ path: path.join(state, 'there.raw') }),
    );
    expect(exists.status).toBe(409);
    expect((await plane.get('/v1/groups')).body).toEqual([]);
    expect(dataPlane.groups.size).toBe(0);
  });

  it('says in OpenAPI what it can do', async () => {
    const { body, status } = await plane.call('GET', '/docs/openapi.json', { token: null });
    expect(status).toBe(200);
    const paths = Object.keys(body.paths);
    for (const wanted of [
      '/v1/info',
      '/v1/devices',
      '/v1/devices/{id}',
      '/v1/policies/{id}',
      '/v1/groups/{group}',
      '/v1/groups/{group}/markers',
      '/v1/groups/{group}/markers/{label}',
      '/v1/groups/{group}/resolve',
      '/v1/groups/{group}/recovery-points',
      '/v1/groups/{group}/segments',
      '/v1/groups/{group}/maps',
      '/v1/groups/{group}/seal',
      '/v1/groups/{group}/gaps',
      '/v1/groups/{group}/restores',
      '/v1/jobs/{id}',
      '/v1/events',
    ]) {
      expect(paths).toContain(wanted);
    }
    expect(body.components.schemas.GroupBody.properties.volumes.items.$ref).toMatch(/VolumeBody/);
    expect((await plane.call('GET', '/docs', { token: null })).status).toBe(200);
  });

  it('does not have routes of later versions', async () => {
    expect((await plane.post('/v1/devices/default/drain')).status).toBe(404);
  });

  it('refuses a token file that others could have replaced with nothing', async () => {
    const other = path.join(folder, 'other');
    mkdirSync(other);
    writeFileSync(path.join(other, 'admin.token'), '\n');
    chmodSync(path.join(other, 'admin.token'), 0o644);
    await expect(ControlPlane.start(other, new FakeDataPlane())).rejects.toThrow(/no usable token/);
  });
});
