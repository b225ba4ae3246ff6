// SPDX-License-Identifier: Apache-2.0

import * as fs from 'node:fs';
import * as path from 'node:path';
import { Worker } from 'node:worker_threads';

import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { InProcessDataPlane } from '../../src/data-plane/in-process.js';
import { addonPath, loadAddon, NATIVE_METHODS, openNative } from '../../src/data-plane/native.js';
import { sampleGroup, temporaryFolder } from '../support/data-plane/sample.js';

// The declaration in native-types.ts against what the built addon really exports.

const file = addonPath();
const absent = !fs.existsSync(file);
if (absent && process.env['CI']) throw new Error(`${file} is not built`);
if (absent) console.warn(`SKIPPED: ${file} is not built (run deploy/setup)`);

describe.skipIf(absent)('everpoint.node', () => {
  let temporary: ReturnType<typeof temporaryFolder>;
  beforeAll(() => {
    temporary = temporaryFolder();
  });
  afterAll(() => {
    temporary.remove();
  });

  it('exports what its declaration says, and nothing else', () => {
    const addon = loadAddon(file);
    expect(Object.keys(addon).sort()).toEqual(['DataPlane', 'build', 'version']);
    expect(addon.version()).toMatch(/^\d+\.\d+\.\d+/);
    expect(Object.entries(addon.build()).map(([key, value]) => [key, typeof value])).toEqual(
      expect.arrayContaining([
        ['uring', 'boolean'],
        ['pmem', 'boolean'],
        ['spdk', 'boolean'],
        ['sanitizer', 'string'],
      ]),
    );
    const names = Object.getOwnPropertyNames(addon.DataPlane.prototype);
    expect(names.filter((name) => name !== 'constructor').sort()).toEqual(
      [...NATIVE_METHODS].sort(),
    );
  });

  it('refuses wrong options and unknown groups with a code', async () => {
    const addon = loadAddon(file);
    const wrong = [undefined, {}, { stateDir: 1, reactors: 1, onEvent: () => undefined }];
    for (const options of wrong) {
      expect(() => new addon.DataPlane(options as never)).toThrow();
    }
    const stateDir = path.join(temporary.folder, 'refuse');
    fs.mkdirSync(stateDir);
    const native = openNative(addon, { stateDir, reactors: 1, onEvent: () => undefined });
    try {
      expect(Array.isArray(native.notes())).toBe(true);
      const none = '00000000-0000-4000-8000-000000000000';
      await expect(native.status(none)).rejects.toMatchObject({ code: 'NOT_FOUND' });
      await expect(native.seal(none)).rejects.toMatchObject({ code: 'NOT_FOUND' });
      await expect(native.closeGroup(none, { forget: false })).rejects.toMatchObject({
        code: 'NOT_FOUND',
      });
      // Handles are of their own type: a method is not for another object.
      const raw = Object.getOwnPropertyDescriptor(addon.DataPlane.prototype, 'notes');
      expect(() => (raw?.value as () => unknown).call({})).toThrow();
    } finally {
      await native.close();
    }
  });

  it('opens a group whose status has every declared field, and again after closing', async () => {
    const state = path.join(temporary.folder, 'state');
    const group = sampleGroup(temporary.folder, 'declared');
    const open = async () => {
      const plane = new InProcessDataPlane({ state, addon: loadAddon(file) });
      await (
        await plane.start()
      ).opened;
      return plane;
    };
    const first = await open();
    const status = await first.createGroup(group);
    expect(status).toMatchObject({ state: 'protected', reason: '', gaps: [] });
    expect(status.volumes).toMatchObject([{ number: 0, name: 'vda', sizeBytes: 1024 * 1024 }]);
    for (const [key, kind] of Object.entries({
      lsn: 'number',
      durableLsn: 'number',
      sealedLsn: 'number',
      epoch: 'number',
      lastTimeNs: 'string',
      rpoSeconds: 'number',
      logBytes: 'number',
    })) {
      expect([key, typeof status[key as keyof typeof status]]).toEqual([key, kind]);
    }
    expect(Object.values(status.counters).every((value) => typeof value === 'number')).toBe(true);
    expect(Object.keys(status.counters)).toHaveLength(16);
    const marker = await first.addMarker(group.id, { label: 'märk' });
    expect(marker.timeNs).toMatch(/^\d{19}$/);
    const { sealedLsn } = await first.seal(group.id);
    expect(sealedLsn).toBeGreaterThanOrEqual(marker.lsn);
    const segments = await first.listSegments(group.id, 0);
    expect(segments[0]).toMatchObject({ sealed: true, firstLsn: 1, device: group.devices[0]?.id });
    const at = path.join(group.devices[0]?.path ?? '', segments[0]?.path ?? '');
    expect(fs.existsSync(at)).toBe(true);
    await first.shutdown();

    const second = await open();
    const again = await second.groupStatus(group.id);
    expect(again).toMatchObject({ state: 'protected', epoch: status.epoch + 1 });
    await second.deleteGroup(group.id, {});
    await second.shutdown();
  });

  it('leaves nothing of a group that could not be created', async () => {
    const state = path.join(temporary.folder, 'rollback');
    const plane = new InProcessDataPlane({ state, addon: loadAddon(file) });
    const group = sampleGroup(temporary.folder, 'rollback');
    const second = structuredClone(group.volumes[0]!);
    Object.assign(second, { number: 1, name: 'vdb' });
    // Its socket cannot be made, which shows when the first volume's primary already is.
    second.primary = { kind: 'file', path: path.join(temporary.folder, 'second.raw') };
    fs.writeFileSync(second.primary.path, 'x'.repeat(4096));
    const socket = path.join(second.primary.path, 'below-a-file', 'v.sock');
    second.exports = [{ kind: 'vhost-user-blk', queues: 1, path: socket }];
    group.volumes.push(second);
    await expect(plane.createGroup(group)).rejects.toThrow();
    expect(fs.existsSync(group.volumes[0]?.primary.path ?? '')).toBe(false);
    const groups = path.join(group.devices[0]?.path ?? '', 'groups');
    expect(fs.existsSync(groups) ? fs.readdirSync(groups) : []).not.toContain(group.id);
    expect(await plane.listGroups()).toEqual([]);
    expect(fs.readFileSync(second.primary.path, 'utf8')).toHaveLength(4096);
    await plane.shutdown();
  });

  it('is loaded, used and unloaded inside a worker, several times', async () => {
    const stateDir = path.join(temporary.folder, 'worker');
    fs.mkdirSync(stateDir);
    for (let round = 0; round < 3; round += 1) {
      const code = await new Promise<number>((resolve, reject) => {
        const worker = new Worker(
          `const { workerData, parentPort } = require('node:worker_threads');
           const addon = require(workerData.file);
           const plane = new addon.DataPlane({
             stateDir: workerData.stateDir, reactors: 1, onEvent() {},
           });
           plane.close().then(() => parentPort.postMessage(plane.notes === undefined));`,
          { eval: true, workerData: { file, stateDir } },
        );
        worker.once('error', reject);
        worker.once('exit', resolve);
      });
      expect(code).toBe(0);
    }
  });
});
