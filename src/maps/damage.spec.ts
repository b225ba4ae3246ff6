// SPDX-License-Identifier: Apache-2.0

/** Damaged segments and maps: an error or the right answer, never a wrong one and never a hang. */

import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';

import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { randomBatches, randomHistory, Random } from '../../test/support/history-model.js';
import {
  decodeSegment,
  encodeSegment,
  type SegmentContent,
} from '../../test/support/segment-writer.js';
import { EverpointError } from '../common/errors.js';
import { buildLevelZeroMap } from './build.js';
import { NO_KEY, RegionExtents } from './extents.js';
import { MapFile } from './map-reader.js';
import { restoreVolume } from './restore.js';
import { SegmentFile } from './segment/reader.js';

const SEED = Number(process.env['EVERPOINT_TEST_SEED'] ?? Date.now() % 1_000_000);
const GROUP = '11111111-2222-4333-8444-555555555555';
const DEVICE = 'aaaaaaaa-0000-4000-8000-000000000001';
const VOLUME = { volume: 0, name: 'vda', sizeBytes: 300 * 1024 * 1024 };

let folder: string;
let content: SegmentContent;
let sealed: Buffer;
let active: Buffer;
let map: Buffer;
let mapText: string;
let damagedPath: string;
const random = new Random(SEED);

beforeAll(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'everpoint-damage-'));
  damagedPath = path.join(folder, 'damaged');
  const entries = randomHistory(random, {
    volumes: [VOLUME],
    entries: 60,
    startNs: 1n,
    sectorsMax: 12,
    unknownShare: 0.3,
  });
  const header = {
    group: GROUP,
    device: DEVICE,
    segment: 1,
    epoch: 2,
    firstLsn: 100,
    createdNs: 3n,
    capacityBytes: 1 << 20,
  };
  const batches = randomBatches(random, entries, 16);
  content = { header, batches, seal: { sealedNs: 9n, reason: 3 } };
  sealed = encodeSegment(content);
  active = encodeSegment({ header, batches });
  const segmentPath = path.join(folder, '1.eplog');
  fs.writeFileSync(segmentPath, sealed);
  const outPath = path.join(folder, '1.epmap');
  buildLevelZeroMap({
    segmentPath,
    outPath,
    group: GROUP,
    device: DEVICE,
    mapId: 1,
    previousMap: 0,
    expiryClass: 0,
    geometryBefore: [],
  });
  map = fs.readFileSync(outPath);
  mapText = readMap(outPath);
});
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

function readMap(file: string): string {
  const open = MapFile.open(file);
  try {
    const lines: unknown[] = [open.segments, open.geometry];
    const extents = new RegionExtents();
    while (open.nextKey() !== NO_KEY) {
      open.load(extents);
      const { key, count, start, end, source, address } = extents;
      lines.push([key, ...[start, end, source, address].map((c) => [...c.subarray(0, count)])]);
    }
    const { createdNs, firstTimeNs, lastTimeNs, ...header } = open.header;
    return JSON.stringify([lines, header, `${createdNs} ${firstTimeNs} ${lastTimeNs}`]);
  } finally {
    open.close();
  }
}

function readSegment(bytes: Buffer, expectSealed: boolean): SegmentContent {
  fs.writeFileSync(damagedPath, bytes);
  const file = SegmentFile.open(damagedPath, { expectSealed });
  try {
    return decodeSegment(file);
  } finally {
    file.close();
  }
}

function text({ header, batches, seal }: SegmentContent): string {
  const rows = batches.map((batch) =>
    batch.map((e) => [
      ...[e.type, e.flags ?? 0, e.volume, e.sectors, e.sector, e.timeNs],
      e.payload?.toString('base64'),
    ]),
  );
  const { group, device, segment, epoch, firstLsn, createdNs, capacityBytes } = header;
  const names = [group, device, segment, epoch, firstLsn, createdNs, capacityBytes];
  const end = [seal?.sealedNs, seal?.reason];
  return JSON.stringify([names, rows, end], (_, field: unknown) =>
    typeof field === 'bigint' ? `${field}n` : field,
  );
}

/** One flipped bit each: a sample of all bytes, denser where headers and tables stand. */
function* flips(bytes: Buffer, random: Random): Generator<[at: number, flipped: Buffer]> {
  for (let at = 0; at < bytes.length; at += 1) {
    const inHead = at % 4096 < 200 || at >= bytes.length - 200;
    if (!random.chance(inHead ? 0.12 : 0.005)) continue;
    const flipped = Buffer.from(bytes);
    flipped[at]! ^= 1 << random.below(8);
    yield [at, flipped];
  }
}

describe(`damage, seed ${SEED}`, () => {
  it('to a sealed segment is an error, or in bytes that mean nothing', () => {
    const expected = text(content);
    let errors = 0;
    for (const [at, flipped] of flips(sealed, random)) {
      try {
        expect(text(readSegment(flipped, true)), `byte ${at}`).toBe(expected);
      } catch (error) {
        if (!(error instanceof EverpointError)) throw error;
        expect(['CORRUPTION', 'UNSUPPORTED'], error.message).toContain(error.code);
        expect(error.file).toBe(damagedPath);
        errors += 1;
      }
    }
    expect(errors).toBeGreaterThan(50);
  });

  it('to an active segment ends the log there', () => {
    const prefixes = content.batches.map((_, i) =>
      text({ header: content.header, batches: content.batches.slice(0, i) }),
    );
    prefixes.push(text({ header: content.header, batches: content.batches }));
    const seen = new Set<string>();
    for (const [at, flipped] of flips(active, random)) {
      if (at < 4096) {
        expect(() => readSegment(flipped, false)).toThrow(EverpointError);
        continue;
      }
      const found = text(readSegment(flipped, false));
      expect(prefixes, `byte ${at}`).toContain(found);
      seen.add(found);
    }
    expect(seen.size).toBeGreaterThan(2);
  });

  it('by cutting an active segment leaves its whole batches', () => {
    for (let length = 4096; length < active.length; length += random.between(1, 3000)) {
      const { batches } = readSegment(active.subarray(0, length), false);
      const whole = content.batches.slice(0, batches.length);
      expect(text({ header: content.header, batches })).toBe(
        text({ header: content.header, batches: whole }),
      );
      const size = encodeSegment({ header: content.header, batches: whole }).length;
      expect(size).toBeLessThanOrEqual(length);
    }
    // What is allocated ahead, and an older segment's bytes in it, are no part of the log.
    const ahead = Buffer.concat([active, Buffer.alloc(8192), active.subarray(4096)]);
    expect(readSegment(ahead, false).batches.length).toBe(content.batches.length);
  });

  it('to a map is an error, whichever of the sampled bytes it hits', () => {
    for (const [at, flipped] of flips(map, new Random(SEED))) {
      fs.writeFileSync(damagedPath, flipped);
      expect(() => readMap(damagedPath), `byte ${at}`).toThrow(EverpointError);
    }
    for (let length = 0; length < map.length; length += 97) {
      fs.writeFileSync(damagedPath, map.subarray(0, length));
      expect(() => readMap(damagedPath)).toThrow(EverpointError);
    }
    fs.writeFileSync(damagedPath, map);
    expect(readMap(damagedPath)).toBe(mapText);
  });

  it('to a payload fails the restore that needs it, and leaves no target', async () => {
    const volumeWrites = content.batches.flat().filter((entry) => entry.type === 1);
    const payload = volumeWrites.at(-1)!.payload!;
    const bad = Buffer.from(sealed);
    bad[bad.indexOf(payload) + 5]! ^= 0x10;
    const file = path.join(folder, 'bad.eplog');
    fs.writeFileSync(file, bad);
    const target = path.join(folder, 'target');
    const mapPath = path.join(folder, '1.epmap');
    const restore = restoreVolume({
      group: GROUP,
      volume: 0,
      sizeBytes: VOLUME.sizeBytes,
      lsn: 159,
      sources: [{ kind: 'map', path: mapPath, firstLsn: 100, lastLsn: 159 }],
      segments: [{ device: DEVICE, segment: 1, path: file, sealed: true }],
      target,
      unknown: 'zeroes',
    });
    await expect(restore).rejects.toMatchObject({ code: 'CORRUPTION', file });
    expect(fs.existsSync(target)).toBe(false);
  });
});
