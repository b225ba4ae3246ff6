// SPDX-License-Identifier: Apache-2.0

import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { EverpointError } from '../common/errors.js';
import { formatTime } from '../common/time.js';
import {
  encodeManifest,
  Manifest,
  parseManifest,
  volumesAt,
  type ManifestRecord,
  type ManifestState,
} from './manifest.js';

const GROUP = '11111111-2222-4333-8444-555555555555';
const DEVICE = 'aaaaaaaa-0000-4000-8000-000000000001';
const time = formatTime(1_700_000_000_123_456_789n);

const COMMITS: readonly (readonly ManifestRecord[])[] = [
  [
    { kind: 'group', group: GROUP, name: 'web-1', definition: { ack: 'primary' } },
    { kind: 'policy', policy: { keepAll: '48h' }, confirmed: true },
    {
      kind: 'volume',
      lsn: 1,
      volume: 0,
      name: 'vda',
      sizeBytes: 1024,
      blockBytes: 512,
      removed: false,
    },
  ],
  [
    {
      kind: 'segment',
      segment: 1,
      device: DEVICE,
      path: 'log/2026-03-01/0000000000000001.eplog',
      epoch: 1,
      firstLsn: 1,
      lastLsn: 20,
      firstTime: time,
      lastTime: time,
      entries: 20,
      dataBytes: 4096,
      fileBytes: 8192,
      sealedAt: time,
      reason: 1,
    },
    {
      kind: 'map',
      id: 4,
      device: DEVICE,
      path: 'maps/0000000000000004.epmap',
      level: 0,
      expiryClass: 0,
      firstLsn: 1,
      lastLsn: 20,
      firstTime: time,
      lastTime: time,
      previous: 0,
      firstChild: 0,
      extents: 3,
      dataSectors: 8,
      fileBytes: 4500,
    },
  ],
  [
    { kind: 'marker', label: 'vor Ärger', lsn: 7, time, keepUntil: 'forever' },
    {
      kind: 'gap',
      fromLsn: 20,
      toLsn: null,
      from: time,
      to: null,
      reason: 'lost buffer',
      healed: false,
    },
  ],
  [
    { kind: 'unpin', label: 'vor Ärger' },
    {
      kind: 'gap',
      fromLsn: 20,
      toLsn: 25,
      from: time,
      to: time,
      reason: 'lost buffer',
      healed: true,
    },
    {
      kind: 'volume',
      lsn: 9,
      volume: 0,
      name: 'vda',
      sizeBytes: 2048,
      blockBytes: 512,
      removed: false,
    },
    {
      kind: 'volume',
      lsn: 12,
      volume: 1,
      name: 'vdb',
      sizeBytes: 512,
      blockBytes: 512,
      removed: false,
    },
    {
      kind: 'volume',
      lsn: 15,
      volume: 1,
      name: 'vdb',
      sizeBytes: 0,
      blockBytes: 512,
      removed: true,
    },
  ],
];

function plain(state: ManifestState): unknown {
  const { group, volumes, segments, maps, markers, gaps, policy, nextMapId } = state;
  return {
    group,
    volumes: [...volumes],
    segments: [...segments],
    maps: [...maps],
    markers: [...markers],
    gaps: [...gaps],
    policy,
    nextMapId,
  };
}

let folder: string;
let file: string;
beforeEach(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'everpoint-manifest-'));
  file = path.join(folder, 'groups', GROUP, 'manifest');
});
afterEach(() => fs.rmSync(folder, { recursive: true, force: true }));

async function fill(): Promise<unknown> {
  const manifest = await Manifest.create(file, GROUP);
  await Promise.all(COMMITS.map((records) => manifest.commit(records)));
  const state = plain(manifest.state);
  await manifest.close();
  return state;
}

describe('a manifest', () => {
  it('says after opening what was committed', async () => {
    const state = await fill();
    const manifest = await Manifest.open(file, GROUP);
    expect(plain(manifest.state)).toEqual(state);
    expect(manifest.state.nextMapId).toBe(5);
    expect(manifest.state.markers.get('vor Ärger')).toMatchObject({ lsn: 7, pinned: false });
    expect(manifest.state.gaps).toEqual([expect.objectContaining({ toLsn: 25, healed: true })]);
    expect(volumesAt(manifest.state, 0)).toEqual([]);
    expect(volumesAt(manifest.state, 8)).toMatchObject([{ volume: 0, sizeBytes: 1024 }]);
    expect(volumesAt(manifest.state, 12)).toMatchObject([{ sizeBytes: 2048 }, { volume: 1 }]);
    expect(volumesAt(manifest.state, 15)).toMatchObject([{ volume: 0 }]);
    await manifest.close();
    expect(fs.readFileSync(file).equals(encodeManifest(GROUP, COMMITS))).toBe(true);
  });

  it('says the same after compaction, and goes on from there', async () => {
    const state = await fill();
    const manifest = await Manifest.open(file);
    const before = manifest.fileBytes;
    await manifest.compact();
    expect(plain(manifest.state)).toEqual(state);
    expect(manifest.fileBytes).toBeLessThan(before);
    await manifest.commit([{ kind: 'policy', policy: null, confirmed: false }]);
    await manifest.close();
    expect((await Manifest.read(file)).policy).toMatchObject({ confirmed: false });
  });

  it('refuses what is not there, there already, of another group, or no record', async () => {
    await expect(Manifest.open(file)).rejects.toMatchObject({ code: 'NOT_FOUND' });
    await fill();
    await expect(Manifest.create(file, GROUP)).rejects.toMatchObject({ code: 'ALREADY_EXISTS' });
    await expect(Manifest.open(file, DEVICE)).rejects.toMatchObject({ code: 'CORRUPTION' });
    const manifest = await Manifest.open(file);
    const bad = { kind: 'unpin', label: 7 } as unknown as ManifestRecord;
    await expect(manifest.commit([bad])).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    await manifest.commit([{ kind: 'unpin', label: 'none' }]);
    await manifest.close();
    await expect(manifest.commit([{ kind: 'unpin', label: 'none' }])).rejects.toThrow(
      EverpointError,
    );
  });

  it('refuses a version or a kind that it does not know', () => {
    const future = encodeManifest(GROUP, [
      [{ kind: 'tape', label: 'x' } as unknown as ManifestRecord],
    ]);
    expect(() => parseManifest(future, 'm')).toThrow(
      expect.objectContaining({ code: 'UNSUPPORTED' }),
    );
  });
});

describe('damage to a manifest', () => {
  const whole = encodeManifest(GROUP, COMMITS);
  const states = COMMITS.map((_, i) =>
    JSON.stringify(plain(parseManifest(encodeManifest(GROUP, COMMITS.slice(0, i)), 'm').fold)),
  );
  const headerBytes = encodeManifest(GROUP, []).length;

  it('is an error for every byte that changes', () => {
    for (let at = 0; at < whole.length; at += 1) {
      for (const change of [1 << (at % 8), 0x0a ^ whole[at]!, 0x20, whole[at]!]) {
        if (change === 0) continue;
        const bad = Buffer.from(whole);
        bad[at]! ^= change;
        // A single zero at a sector's end is what a torn write looks like; all others are not.
        if (bad[at] === 0 && (at % 512 === 511 || at === whole.length - 1)) continue;
        expect(() => parseManifest(bad, 'm'), `byte ${at}`).toThrow(EverpointError);
      }
    }
  });

  it('is a torn tail wherever the file ends, and commits go on from what is left', async () => {
    for (let length = headerBytes; length < whole.length; length += 1) {
      const { fold, goodBytes } = parseManifest(whole.subarray(0, length), 'm');
      expect(goodBytes).toBeLessThanOrEqual(length);
      expect(states).toContain(JSON.stringify(plain(fold)));
    }
    fs.mkdirSync(path.dirname(file), { recursive: true });
    fs.writeFileSync(file, whole.subarray(0, whole.length - 30));
    const manifest = await Manifest.open(file);
    await manifest.commit(COMMITS.at(-1)!);
    await manifest.close();
    expect(fs.readFileSync(file).equals(whole)).toBe(true);
  });

  it('cuts a last line whose sectors were never written, and nothing before it', () => {
    const last = whole.length;
    const definition = { text: 'x'.repeat(2000) };
    const longer = encodeManifest(GROUP, [
      ...COMMITS,
      [{ kind: 'group', group: GROUP, name: 'web-1', definition }],
    ]);
    for (let from = Math.ceil(last / 512) * 512; from < longer.length; from += 512) {
      const zeroed = Buffer.from(longer);
      zeroed.fill(0, from, Math.min(from + 512, zeroed.length));
      expect(parseManifest(zeroed, 'm').goodBytes).toBe(last);
    }
    const middle = Buffer.from(whole);
    middle.fill(0, 512, 1024);
    expect(() => parseManifest(middle, 'm')).toThrow(EverpointError);
  });
});
