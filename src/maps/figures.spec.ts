// SPDX-License-Identifier: Apache-2.0

/** Figures 2 and 4 of the source idea as bytes of map files. */

import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { encodeSegment } from '../../test/support/segment-writer.js';
import { REGION_SECTORS, SECTOR_BYTES } from '../common/limits.js';
import { buildLevelZeroMap, mergeMaps } from './build.js';
import { MAP_BLOCK_HEADER_BYTES, MAP_HEADER_BYTES } from './map-format.js';
import { MapFile } from './map-reader.js';
import { EntryType } from './segment/format.js';

const GROUP = '11111111-2222-4333-8444-555555555555';
const DEVICE = 'aaaaaaaa-0000-4000-8000-000000000001';

let folder: string;
beforeEach(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'everpoint-figures-'));
});
afterEach(() => fs.rmSync(folder, { recursive: true, force: true }));

type Write = readonly [region: number, offset: number, sectors: number];

/** One segment with these writes in one batch; its data starts at sector 9, behind the header and a table of one sector. */
function mapOf(segment: number, writes: readonly Write[], zeroes = false): string {
  const entries = writes.map(([region, offset, sectors], i) => ({
    type: zeroes ? EntryType.writeZeroes : EntryType.write,
    volume: 0,
    sector: region * REGION_SECTORS + offset,
    sectors,
    timeNs: BigInt(segment * 100 + i),
    ...(zeroes ? {} : { payload: Buffer.alloc(sectors * SECTOR_BYTES, segment) }),
  }));
  const segmentPath = path.join(folder, `${segment}.eplog`);
  const outPath = path.join(folder, `${segment}.epmap`);
  const header = {
    group: GROUP,
    device: DEVICE,
    segment,
    epoch: 1,
    firstLsn: segment * 10,
    createdNs: 0n,
    capacityBytes: 0,
  };
  const seal = { sealedNs: 0n, reason: 1 } as const;
  fs.writeFileSync(segmentPath, encodeSegment({ header, batches: [entries], seal }));
  buildLevelZeroMap({
    segmentPath,
    outPath,
    group: GROUP,
    device: DEVICE,
    mapId: segment,
    previousMap: 0,
    expiryClass: 0,
    geometryBefore: [],
  });
  return outPath;
}

function merged(id: number, inputs: readonly string[]): string {
  const outPath = path.join(folder, `${id}.epmap`);
  mergeMaps({ inputs, outPath, device: DEVICE, mapId: id });
  return outPath;
}

/** The runs of the first and only block, without its header. */
function runsOf(mapPath: string): number[] {
  const map = MapFile.open(mapPath);
  const { segmentTable, blocks } = map.header;
  map.close();
  expect(blocks).toBe(1);
  const file = fs.readFileSync(mapPath);
  return [...file.subarray(MAP_HEADER_BYTES + MAP_BLOCK_HEADER_BYTES, segmentTable.offset)];
}

const END = [0, 0];
/** Low two bits of a tag: 0 same segment, 1 another segment (its index and an address follow). */
const same = (sectors: number) => sectors * 4;
const other = (sectors: number) => sectors * 4 + 1;

describe('figure 2', () => {
  it('has an originating and a terminating entry per write, by region and offset', () => {
    // R0, 100: 20 sectors; R1, 30: 10 sectors.
    const runs = runsOf(
      mapOf(1, [
        [0, 100, 20],
        [1, 30, 10],
      ]),
    );
    expect(runs).toEqual([
      ...[0, 0, 100, other(20), 0, 9, ...END],
      ...[0, 1, 30, same(10), 0, ...END],
    ]);
  });

  it('needs no terminating entry where the next write starts', () => {
    // The second write was made first, so the two do not follow each other in the log.
    const runs = runsOf(
      mapOf(1, [
        [0, 120, 5],
        [0, 100, 20],
      ]),
    );
    // Zigzag of 9 - (14 + 20) is 2 * 25 - 1.
    expect(runs).toEqual([0, 0, 100, other(20), 0, 14, 0, same(5), 49, ...END]);
  });

  it('makes one entry of writes that follow each other on both sides', () => {
    expect(
      runsOf(
        mapOf(1, [
          [0, 100, 10],
          [0, 110, 10],
        ]),
      ),
    ).toEqual([...[0, 0, 100, other(20), 0, 9, ...END]]);
  });
});

describe('figure 4', () => {
  // 456 and 458 in one map, 460 and 462 in the next; 462 ends at R2:120 where 458 starts.
  const first: Write[] = [
    [0, 40, 20],
    [2, 120, 7],
  ];
  const second: Write[] = [
    [1, 60, 30],
    [2, 100, 20],
  ];

  it('loses the terminating entry 468 in the merged map', () => {
    const inputs = [mapOf(1, first), mapOf(2, second)];
    expect(runsOf(merged(3, inputs))).toEqual([
      ...[0, 0, 40, other(20), 0, 9, ...END],
      ...[0, 1, 60, other(30), 1, 9, ...END],
      // R2: 462 at 100, its end elided (gap 0), then 458.
      ...[0, 2, 100, same(20), 0, 0, other(7), 0, 29, ...END],
    ]);
  });

  it('replaces every entry of R2 when a later write fills it', () => {
    const inputs = [
      merged(3, [mapOf(1, first), mapOf(2, second)]),
      mapOf(4, [[2, 0, REGION_SECTORS]], true),
    ];
    // Maps of different levels merge as well; tag 2 says zeroes: 2^19 * 4 + 2 as a varint.
    expect(runsOf(merged(5, inputs)).slice(-8)).toEqual(
      [0, 2, 0, 0x82, 0x80, 0x80, 1, 0, 0].slice(-8),
    );
    const map = MapFile.open(path.join(folder, '5.epmap'));
    expect(map.segments.map((segment) => [segment.segment, segment.liveSectors])).toEqual([
      [1, 20],
      [2, 30],
    ]);
    map.close();
  });
});
