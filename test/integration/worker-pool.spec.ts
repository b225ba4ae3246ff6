// SPDX-License-Identifier: Apache-2.0

/** The worker pool with real threads, running what is built in dist/. */

import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { EverpointError } from '../../src/common/errors.js';
import { GeometryAction } from '../../src/maps/segment/format.js';
import { WorkerPool } from '../../src/workers/pool.js';
import {
  encodeGeometryPayload,
  encodeMarkerPayload,
  encodeSegment,
  type EntryContent,
} from '../support/segment-writer.js';

const GROUP = '11111111-2222-4333-8444-555555555555';
const DEVICE = 'aaaaaaaa-0000-4000-8000-000000000001';
const SIZE = 80 * 1024 * 1024;

let folder: string;
let segmentPath: string;
let pool: WorkerPool;

beforeEach(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'everpoint-workers-'));
  segmentPath = path.join(folder, '1.eplog');
  const large = Buffer.alloc(1024 * 1024, 7);
  const geometry = { action: GeometryAction.add, blockBytes: 512, sizeBytes: SIZE, name: 'vda' };
  const one = { sectors: 1, sector: 0 };
  const entries: EntryContent[] = [
    { type: 6, volume: 0, ...one, timeNs: 100n, payload: encodeGeometryPayload(geometry) },
    ...Array.from({ length: 80 }, (_, i) => ({
      type: 1,
      volume: 0,
      sectors: 2048,
      sector: i * 2048,
      timeNs: 110n + BigInt(i * 10),
      payload: large,
    })),
    { type: 4, volume: 0, sectors: 0, sector: 81, timeNs: 2000n },
    {
      type: 5,
      volume: 0,
      ...one,
      timeNs: 2001n,
      payload: encodeMarkerPayload({ keepUntilNs: 0n, label: 'here' }),
    },
  ];
  const header = {
    group: GROUP,
    device: DEVICE,
    segment: 1,
    epoch: 1,
    firstLsn: 1,
    createdNs: 0n,
    capacityBytes: 0,
  };
  const batches = [entries.slice(0, 20), entries.slice(20, 60), entries.slice(60)];
  const seal = { sealedNs: 3000n, reason: 1 } as const;
  fs.writeFileSync(segmentPath, encodeSegment({ header, batches, seal }));
  pool = new WorkerPool({ threads: 1 });
  pool.start();
});
afterEach(async () => {
  await pool.stop();
  fs.rmSync(folder, { recursive: true, force: true });
});

function buildInput() {
  return {
    segmentPath,
    outPath: path.join(folder, 'maps', '1.epmap'),
    group: GROUP,
    device: DEVICE,
    mapId: 1,
    previousMap: 0,
    expiryClass: 0,
    geometryBefore: [],
  };
}

function restoreInput(mapPath: string) {
  return {
    group: GROUP,
    volume: 0,
    sizeBytes: SIZE,
    lsn: 83,
    sources: [{ kind: 'map', path: mapPath, firstLsn: 1, lastLsn: 83 } as const],
    segments: [{ device: DEVICE, segment: 1, path: segmentPath, sealed: true }],
    target: path.join(folder, 'disk'),
  };
}

describe('the worker pool', () => {
  it('builds a map and restores from it, with progress', async () => {
    const built = await pool.run('buildLevelZeroMap', buildInput());
    expect(built.map).toMatchObject({ id: 1, firstLsn: 1, lastLsn: 83, lastTimeNs: 2001n });
    expect(built.geometry).toEqual([{ volume: 0, name: 'vda', sizeBytes: SIZE, blockBytes: 512 }]);
    expect(built.labels.map((label) => [label.kind, label.lsn])).toEqual([
      ['geometry', 1],
      ['marker', 83],
    ]);
    const seen: number[] = [];
    const onProgress = ({ done }: { done: number }) => seen.push(done);
    const result = await pool.run('restoreVolume', restoreInput(built.path), { onProgress });
    expect(result.dataBytes).toBe(SIZE);
    expect(seen).toEqual([...seen].sort((a, b) => a - b));
    expect(fs.readFileSync(result.target).equals(Buffer.alloc(SIZE, 7))).toBe(true);
  });

  it('answers questions about a segment', async () => {
    const query = { path: segmentPath, sealed: true };
    const read = await pool.run('readSegment', query);
    expect(read.summary).toMatchObject({ firstLsn: 1, lastLsn: 83, sealed: true, reason: 1 });
    expect(read.flushes).toEqual([{ lsn: 82, timeNs: 2000n, volume: 0 }]);
    const at = (timeNs: bigint) => pool.run('findLsnAtTime', { ...query, timeNs });
    expect(await at(99n)).toBeNull();
    expect(await at(100n)).toEqual({ lsn: 1, timeNs: 100n });
    expect(await at(119n)).toEqual({ lsn: 2, timeNs: 110n });
    expect(await at(9999n)).toEqual({ lsn: 83, timeNs: 2001n });
    expect(await pool.run('timesOfLsns', { ...query, lsns: [83, 2] })).toEqual([2001n, 110n]);
  });

  it('brings errors over with all that they know', async () => {
    const damaged = fs.readFileSync(segmentPath);
    damaged[40]! ^= 1;
    fs.writeFileSync(segmentPath, damaged);
    const error: unknown = await pool
      .run('buildLevelZeroMap', buildInput())
      .catch((e: unknown) => e);
    expect(error).toBeInstanceOf(EverpointError);
    expect(error).toMatchObject({ code: 'CORRUPTION', file: segmentPath, retryable: false });
  });

  it('cancels a running restore, which leaves nothing behind', async () => {
    const { path: map } = await pool.run('buildLevelZeroMap', buildInput());
    const before = fs.readdirSync(folder).sort();
    const cancel = new AbortController();
    const restore = pool.run('restoreVolume', restoreInput(map), {
      signal: cancel.signal,
      onProgress: () => cancel.abort(),
    });
    await expect(restore).rejects.toMatchObject({ code: 'CANCELLED' });
    expect(fs.readdirSync(folder).sort()).toEqual(before);
  });

  it('survives a worker that dies, and tells its caller to try again', async () => {
    const deadly = path.join(folder, 'deadly.mjs');
    fs.writeFileSync(deadly, 'export default () => process.exit(3);\n');
    const other = new WorkerPool({ threads: 1, filename: deadly });
    other.start();
    const lsns = { path: segmentPath, sealed: true, lsns: [1] };
    for (let i = 0; i < 3; i += 1) {
      await expect(other.run('timesOfLsns', lsns)).rejects.toMatchObject({
        code: 'BUSY',
        retryable: true,
      });
    }
    await other.stop();
    expect(await pool.run('timesOfLsns', lsns)).toEqual([100n]);
  });

  it('runs no more tasks at once than it may, and none after stop', async () => {
    const lsns = { path: segmentPath, sealed: true, lsns: [1] };
    const runs = Array.from({ length: 20 }, () => pool.run('timesOfLsns', lsns));
    expect(pool.queued).toBeGreaterThan(10);
    await Promise.all(runs);
    await pool.stop();
    await expect(pool.run('timesOfLsns', lsns)).rejects.toMatchObject({ code: 'BUSY' });
  });
});
