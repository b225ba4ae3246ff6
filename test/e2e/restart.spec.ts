// SPDX-License-Identifier: Apache-2.0
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { finishGuest, startGuest } from '../support/guest/guest.ts';
import { buildDiskLoad } from '../support/guest/initramfs.ts';
import { loadCheckArgs, loadJob, parseLoad, type LoadOptions } from '../support/guest/jobs.ts';
import { isAlive, Service } from '../support/service.ts';
import { compareImages } from './images.ts';
import {
  call,
  lastWords,
  restore,
  type GapAnswer,
  type GroupAnswer,
  type PointAnswer,
} from './rest.ts';

const MIB = 1 << 20;
const QUEUES = 2;
/** The guest's load goes on for this long, whatever happens to the service meanwhile. */
const LOAD_SECONDS = 14;
const LOAD: LoadOptions = { device: '/dev/vda', bytes: 16 * MIB, seed: 5, threads: 4 };

describe('a clean restart of the service', () => {
  let service: Service;
  beforeEach(async () => {
    service = await Service.start();
  });
  afterEach(async () => {
    await service.stop();
  });

  it('is a pause to a guest that stays connected, not an I/O error', async () => {
    const primary = join(service.folder, 'primary.raw');
    const volume = {
      name: 'vda',
      primary: { kind: 'file', path: primary, sizeBytes: 32 * MIB, create: true },
      baseline: 'none',
      exports: [{ kind: 'vhost-user-blk', queues: QUEUES }],
    };
    const group = await call<GroupAnswer>(service, 'POST', '/v1/groups', {
      name: 'kept',
      volumes: [volume],
    });
    const disk = { qemuArgs: group.volumes[0]?.exports[0]?.qemuArgs ?? [], queues: QUEUES };
    const script = loadJob({ ...LOAD, seconds: LOAD_SECONDS, tickMs: 500 });
    const guest = await startGuest({ disks: [disk], script });
    const progress = () => parseLoad(guest.lines.map((line) => line.text));
    try {
      await guest.waitForLine(/^flushed t=3 /, 60_000);
      const { flushed } = progress();
      const marker = await call<PointAnswer>(service, 'POST', '/v1/groups/kept/markers', {
        label: 'before',
      });
      const dataPlane = service.dataPlanePid();
      expect(await service.end()).toBe(0);
      expect(isAlive(dataPlane)).toBe(false);
      const ended = progress();
      expect(ended.ended).toBe(false);
      await sleep(500);
      await service.start().catch((error: unknown) => {
        throw new Error(`${(error as Error).message}\n${lastWords(service)}`);
      });
      const known = guest.lines.length;
      await guest.waitForLine(/^flushed /, 30_000, known);

      const result = await finishGuest(guest, 60_000);
      const load = parseLoad(result.output);
      expect(result.exitCode, result.output.slice(-10).join('\n')).toBe(0);
      expect(load.errors).toEqual([]);
      expect(load.ops).toBeGreaterThan(ended.ops);
      // It did wait: otherwise nothing was restarted under its load.
      expect(load.longestMs).toBeGreaterThan(500);
      const kernelSays = result.console.filter((line) => !line.includes('reboot: '));
      expect(kernelSays).toEqual([]);

      const now = await call<GroupAnswer>(service, 'GET', '/v1/groups/kept');
      expect(now).toMatchObject({ id: group.id, state: 'protected', reason: '' });
      expect(await call<GapAnswer[]>(service, 'GET', '/v1/groups/kept/gaps')).toEqual([]);
      expect(now.volumes[0]?.exports[0]?.uri).toBe(group.volumes[0]?.exports[0]?.uri);

      const latest = join(service.folder, 'latest.raw');
      const before = join(service.folder, 'before.raw');
      await restore(service, 'kept', 'latest', [{ volume: 'vda', path: latest }]);
      const point = await restore(service, 'kept', 'marker:before', [
        { volume: 'vda', path: before },
      ]);
      expect(point.lsn).toBe(marker.lsn);
      expect(await compareImages(latest, primary)).toMatchObject({ equal: true });
      const check = (device: string, atLeast: ReadonlyMap<number, number>): string =>
        execFileSync(buildDiskLoad(), loadCheckArgs({ ...LOAD, device }, atLeast), {
          encoding: 'utf8',
        });
      check(latest, load.flushed);
      check(before, flushed);
      // And the check can tell: the disk of before does not have what was flushed later.
      expect(() => check(before, load.flushed)).toThrow();
    } finally {
      guest.kill();
      await guest.exited;
    }
  });
});
