// SPDX-License-Identifier: Apache-2.0

/** Maps, merges and restores against the naive model that replays one entry at a time. */

import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { randomBatches, randomHistory, Random, replay } from '../../test/support/history-model.js';
import { encodeSegment, type EntryContent } from '../../test/support/segment-writer.js';
import { REGION_SECTORS, SECTOR_BYTES } from '../common/limits.js';
import { buildLevelZeroMap, mergeMaps } from './build.js';
import {
  NO_KEY,
  RegionExtents,
  regionOfKey,
  SOURCE_UNKNOWN,
  SOURCE_ZERO,
  volumeOfKey,
  type RegionSource,
} from './extents.js';
import type { VolumeGeometry } from './geometry.js';
import { LevelZeroSource } from './level-zero.js';
import { MapFile } from './map-reader.js';
import { MergedSource } from './merge.js';
import { restoreVolume, type RestoreSource } from './restore.js';
import type { SegmentLocation } from './segment-store.js';
import { EntryType } from './segment/format.js';
import { SegmentFile } from './segment/reader.js';

const GROUP = '11111111-2222-4333-8444-555555555555';
const DEVICES = ['aaaaaaaa-0000-4000-8000-000000000001', 'aaaaaaaa-0000-4000-8000-000000000002'];
const VOLUMES = [
  { volume: 0, name: 'vda', sizeBytes: 260 * 1024 * 1024 },
  { volume: 3, name: 'vdb', sizeBytes: 2 * 1024 * 1024 },
];
/** A fixed one so that CI repeats itself, and a new one each run so that it also looks elsewhere. */
const SEEDS = [1, 2, 3, Number(process.env['EVERPOINT_TEST_SEED'] ?? Date.now() % 1_000_000)];

let folder: string;
beforeEach(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'everpoint-maps-'));
});
afterEach(() => fs.rmSync(folder, { recursive: true, force: true }));

interface Piece {
  readonly segment: number;
  readonly path: string;
  readonly sealed: boolean;
  readonly firstLsn: number;
  readonly lastLsn: number;
  readonly device: string;
  readonly map?: string;
}

interface History {
  readonly entries: readonly EntryContent[];
  readonly pieces: readonly Piece[];
}

/** A history in several segments on two devices; all but the last are sealed and mapped. */
function makeHistory(random: Random, count: number, firstLsn: number, unknownShare = 0): History {
  const entries = randomHistory(random, {
    volumes: VOLUMES,
    entries: count,
    startNs: 1_700_000_000_000_000_000n,
    unknownShare,
  });
  const pieces: Piece[] = [];
  let geometry: readonly VolumeGeometry[] = [];
  for (let from = 0; from < count;) {
    const to = Math.min(count, from + random.between(20, 120));
    const sealed = to < count;
    const segment = pieces.length + 1;
    const device = DEVICES[segment % 2]!;
    const file = path.join(folder, `${segment}.eplog`);
    const header = {
      group: GROUP,
      device,
      segment,
      epoch: 1,
      firstLsn: firstLsn + from,
      createdNs: 1n,
      capacityBytes: 1 << 30,
    };
    const batches = randomBatches(random, entries.slice(from, to), 30);
    const seal = sealed ? { seal: { sealedNs: 5n, reason: 1 as const } } : {};
    fs.writeFileSync(file, encodeSegment({ header, batches, ...seal }));
    const piece = {
      segment,
      path: file,
      sealed,
      device,
      firstLsn: firstLsn + from,
      lastLsn: firstLsn + to - 1,
    };
    if (sealed) {
      const map = path.join(folder, `${segment}.epmap`);
      const built = buildLevelZeroMap({
        segmentPath: file,
        outPath: map,
        group: GROUP,
        device,
        mapId: segment,
        previousMap: segment - 1,
        expiryClass: 0,
        geometryBefore: geometry,
      });
      ({ geometry } = built);
      pieces.push({ ...piece, map });
    } else {
      pieces.push(piece);
    }
    from = to;
  }
  return { entries, pieces };
}

function sourcesUpTo(history: History, lsn: number): RestoreSource[] {
  const sources: RestoreSource[] = [];
  for (const { map, path, sealed, firstLsn, lastLsn } of history.pieces) {
    if (firstLsn > lsn) break;
    if (map !== undefined && lastLsn <= lsn)
      sources.push({ kind: 'map', path: map, firstLsn, lastLsn });
    else sources.push({ kind: 'segment', path, sealed, firstLsn, lastLsn: Math.min(lsn, lastLsn) });
  }
  return sources;
}

function locations(history: History): SegmentLocation[] {
  return history.pieces.map(({ device, segment, path, sealed }) => ({
    device,
    segment,
    path,
    sealed,
  }));
}

function expectFile(file: string, sizeBytes: number, model: ReturnType<typeof replay>): void {
  const fd = fs.openSync(file, 'r');
  try {
    expect(fs.fstatSync(fd).size).toBe(sizeBytes);
    const chunk = Buffer.alloc(1 << 20);
    const expected = Buffer.alloc(1 << 20);
    const byChunk = new Map<number, [number, Buffer][]>();
    for (const [sector, data] of model) {
      if (!Buffer.isBuffer(data)) continue;
      const list = byChunk.get(sector >>> 11) ?? [];
      list.push([sector, data]);
      byChunk.set(sector >>> 11, list);
    }
    for (let at = 0; at < sizeBytes; at += chunk.length) {
      const got = fs.readSync(fd, chunk, 0, Math.min(chunk.length, sizeBytes - at), at);
      expected.fill(0);
      for (const [sector, data] of byChunk.get(at / chunk.length) ?? []) {
        data.copy(expected, sector * SECTOR_BYTES - at);
      }
      if (!chunk.subarray(0, got).equals(expected.subarray(0, got))) {
        throw new Error(`restored bytes differ within the MiB at ${at}`);
      }
    }
  } finally {
    fs.closeSync(fd);
  }
}

/** Every sector that a source says something about, as text. */
function expand(source: RegionSource, volume?: number): Map<string, string> {
  const sectors = new Map<string, string>();
  const extents = new RegionExtents();
  let before = -1;
  while (source.nextKey() !== NO_KEY) {
    const key = source.nextKey();
    expect(key).toBeGreaterThan(before);
    before = key;
    source.load(extents);
    let end = 0;
    for (let i = 0; i < extents.count; i += 1) {
      expect(extents.start[i]).toBeGreaterThanOrEqual(end);
      expect(extents.end[i]).toBeGreaterThan(extents.start[i]!);
      end = extents.end[i]!;
      const from = extents.source[i]!;
      for (let s = extents.start[i]!; s < end; s += 1) {
        const sector = regionOfKey(key) * REGION_SECTORS + s;
        const address = extents.address[i]! + s - extents.start[i]!;
        const what =
          from === SOURCE_ZERO
            ? 'zero'
            : from === SOURCE_UNKNOWN
              ? 'unknown'
              : `${source.segments[from]!.device}/${source.segments[from]!.segment}@${address}`;
        if (volume === undefined || volumeOfKey(key) === volume) {
          sectors.set(`${volumeOfKey(key)}:${sector}`, what);
        }
      }
    }
  }
  return sectors;
}

/** The same from log entries, one after the other. */
function replayAddresses(pieces: readonly Piece[], upTo: number): Map<string, string> {
  const sectors = new Map<string, string>();
  for (const piece of pieces) {
    const file = SegmentFile.open(piece.path);
    const rows = file.readEntries();
    for (let i = 0; i < rows.count && rows.lsn(i) <= upTo; i += 1) {
      const type = rows.type[i]!;
      for (let s = 0; s < rows.sectors[i]!; s += 1) {
        const name = `${rows.volume[i]}:${rows.sector[i]! + s}`;
        if (type === EntryType.write) {
          sectors.set(name, `${piece.device}/${piece.segment}@${rows.address[i]! + s}`);
        } else if (type === EntryType.discard || type === EntryType.writeZeroes) {
          sectors.set(name, 'zero');
        } else if (type === EntryType.unknown) {
          sectors.set(name, 'unknown');
        }
      }
    }
    file.close();
  }
  return sectors;
}

describe.each(SEEDS)('history of seed %i', (seed) => {
  it('is restored at random LSNs as the model has it', async () => {
    const random = new Random(seed);
    const firstLsn = random.between(1, 2 ** 40);
    const history = makeHistory(random, 400, firstLsn);
    for (let round = 0; round < 14; round += 1) {
      const count = round === 0 ? 400 : random.between(1, 400);
      const lsn = firstLsn + count - 1;
      const { volume, sizeBytes } = VOLUMES[round % 2]!;
      const target = path.join(folder, `restored-${round}`);
      const model = replay(history.entries, count, volume);
      const result = await restoreVolume({
        group: GROUP,
        volume,
        sizeBytes,
        lsn,
        sources: sourcesUpTo(history, lsn),
        segments: locations(history),
        target,
      });
      expectFile(target, sizeBytes, model);
      const data = [...model.values()].filter((value) => Buffer.isBuffer(value)).length;
      expect(result.dataBytes).toBe(data * SECTOR_BYTES);
      expect(result.zeroBytes).toBe((model.size - data) * SECTOR_BYTES);
      fs.rmSync(target);
    }
    expect(fs.readdirSync(folder).filter((name) => name.endsWith('.tmp'))).toEqual([]);
  });

  it('gives the same map from files, merged, in pieces, and from scratch', () => {
    const random = new Random(seed + 1000);
    const { pieces } = makeHistory(random, 500, 1, 0.3);
    const mapped = pieces.filter((piece) => piece.map !== undefined);
    const last = mapped.at(-1)!.lastLsn;
    const expected = replayAddresses(mapped, last);
    const inputs = mapped.map((piece) => piece.map!);

    const whole = path.join(folder, 'whole.epmap');
    const header = mergeMaps({ inputs, outPath: whole, device: DEVICES[0]!, mapId: 900 });
    expect(header).toMatchObject({
      firstLsn: 1,
      lastLsn: last,
      level: 1,
      previous: 0,
      firstChild: 1,
    });
    const map = MapFile.open(whole);
    expect(expand(map)).toEqual(expected);
    map.close();

    // A merge of merges is the same map again, also in its shortest form.
    const cut = random.between(1, inputs.length - 1);
    const parts = [inputs.slice(0, cut), inputs.slice(cut)].map((part, i) => {
      const outPath = path.join(folder, `part-${i}.epmap`);
      mergeMaps({ inputs: part, outPath, device: DEVICES[0]!, mapId: 901 + i });
      return outPath;
    });
    const again = path.join(folder, 'again.epmap');
    const twice = mergeMaps({ inputs: parts, outPath: again, device: DEVICES[0]!, mapId: 903 });
    expect(twice.extents).toBe(header.extents);
    const second = MapFile.open(again);
    expect(expand(second)).toEqual(expected);
    second.close();
  });

  it('gives the same map when few pieces fit in memory, and when regions are skipped', () => {
    const random = new Random(seed + 2000);
    const { pieces } = makeHistory(random, 200, 7, 0.3);
    for (const piece of pieces) {
      const file = SegmentFile.open(piece.path);
      const upTo = random.between(piece.firstLsn, piece.lastLsn);
      const entries = file.readEntries(piece.firstLsn, upTo);
      file.close();
      const expected = replayAddresses([piece], upTo);
      expect(expand(new LevelZeroSource(entries, { piecesMax: 3 }))).toEqual(expected);
      const only = new MergedSource([new LevelZeroSource(entries, { volume: 3 })]);
      const ofVolume = [...expected].filter(([name]) => name.startsWith('3:'));
      expect(expand(only)).toEqual(new Map(ofVolume));
      if (piece.map === undefined) continue;
      const map = MapFile.open(piece.map);
      map.seek(3 * 2 ** 32);
      const all = replayAddresses([piece], piece.lastLsn);
      expect(expand(map)).toEqual(new Map([...all].filter(([name]) => name.startsWith('3:'))));
      map.close();
    }
  });
});

describe('unknown ranges', () => {
  it('fail a restore, or are left as zeroes when that was asked for', async () => {
    const random = new Random(77);
    const payload = random.bytes(8 * SECTOR_BYTES);
    const entries: EntryContent[] = [
      { type: EntryType.write, volume: 0, sector: 10, sectors: 8, timeNs: 1n, payload },
      { type: EntryType.unknown, volume: 0, sector: 12, sectors: 2, timeNs: 2n },
    ];
    const file = path.join(folder, '1.eplog');
    const header = {
      group: GROUP,
      device: DEVICES[0]!,
      segment: 1,
      epoch: 1,
      firstLsn: 1,
      createdNs: 0n,
      capacityBytes: 0,
    };
    fs.writeFileSync(file, encodeSegment({ header, batches: [entries] }));
    const target = path.join(folder, 'out');
    const request = {
      group: GROUP,
      volume: 0,
      sizeBytes: 64 * SECTOR_BYTES,
      lsn: 2,
      sources: [{ kind: 'segment', path: file, sealed: false, firstLsn: 1, lastLsn: 2 }] as const,
      segments: [],
      target,
    };
    await expect(restoreVolume(request)).rejects.toMatchObject({ code: 'IO_ERROR' });
    expect(fs.readdirSync(folder)).toEqual(['1.eplog']);
    const result = await restoreVolume({ ...request, unknown: 'zeroes' });
    expect(result).toMatchObject({ dataBytes: 6 * SECTOR_BYTES, unknownBytes: 2 * SECTOR_BYTES });
    const restored = fs.readFileSync(target);
    payload.fill(0, 2 * SECTOR_BYTES, 4 * SECTOR_BYTES);
    expect(restored.subarray(10 * SECTOR_BYTES, 18 * SECTOR_BYTES).equals(payload)).toBe(true);

    // The target is there now: it is not replaced unless that is said.
    await expect(restoreVolume({ ...request, unknown: 'zeroes' })).rejects.toMatchObject({
      code: 'ALREADY_EXISTS',
    });
    await restoreVolume({
      ...request,
      lsn: 1,
      sources: [{ ...request.sources[0], lastLsn: 1 }],
      overwrite: true,
    });
    expect(fs.readFileSync(target).equals(restored)).toBe(false);
  });
});

describe('cancelling', () => {
  it('ends a restore and leaves nothing behind', async () => {
    const random = new Random(5);
    const history = makeHistory(random, 300, 1);
    const before = fs.readdirSync(folder).sort();
    const cancel = new AbortController();
    const lsn = history.pieces.at(-1)!.lastLsn;
    const restore = restoreVolume(
      {
        group: GROUP,
        volume: 0,
        sizeBytes: VOLUMES[0]!.sizeBytes,
        lsn,
        sources: sourcesUpTo(history, lsn),
        segments: locations(history),
        target: path.join(folder, 'never'),
      },
      { signal: cancel.signal, onProgress: () => cancel.abort() },
    );
    await expect(restore).rejects.toMatchObject({ code: 'CANCELLED' });
    expect(fs.readdirSync(folder).sort()).toEqual(before);
  });
});
