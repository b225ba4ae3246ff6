// SPDX-License-Identifier: Apache-2.0

import * as fs from 'node:fs';
import { fileURLToPath } from 'node:url';

import { describe, expect, it } from 'vitest';

import { SECTOR_BYTES } from '../../src/common/limits.js';
import { NO_KEY, RegionExtents, SOURCE_UNKNOWN, SOURCE_ZERO } from '../../src/maps/extents.js';
import { Manifest, parseManifest } from '../../src/maps/manifest.js';
import { MapFile } from '../../src/maps/map-reader.js';
import { decodeGap } from '../../src/maps/segment/format.js';
import { SegmentFile } from '../../src/maps/segment/reader.js';
import {
  GOLDEN_COMMITS,
  GOLDEN_GAP,
  GOLDEN_GROUP,
  goldenGapSegment,
  goldenLargeMap,
  goldenManifest,
  goldenMap,
  goldenMapSegment,
} from './generate.js';
import { encodeGapPayload } from '../support/segment-writer.js';

const file = (name: string) => fileURLToPath(new URL(name, import.meta.url));

if (process.env['EVERPOINT_WRITE_GOLDEN'] === '1') {
  fs.writeFileSync(file('map-1.eplog'), goldenMapSegment());
  fs.writeFileSync(file('map-1.epmap'), goldenMap());
  fs.writeFileSync(file('map-2.epmap'), goldenLargeMap());
  fs.writeFileSync(file('manifest-1.txt'), goldenManifest());
  fs.writeFileSync(file('gap-1.eplog'), goldenGapSegment());
}

describe('the golden map', () => {
  it('is what its content is written as', () => {
    expect(goldenMapSegment().equals(fs.readFileSync(file('map-1.eplog')))).toBe(true);
    expect(goldenMap().equals(fs.readFileSync(file('map-1.epmap')))).toBe(true);
    expect(goldenLargeMap().equals(fs.readFileSync(file('map-2.epmap')))).toBe(true);
  });

  it('is read as its content', () => {
    const map = MapFile.open(file('map-1.epmap'));
    expect(map.header).toMatchObject({ group: GOLDEN_GROUP, id: 12, firstLsn: 1001, lastLsn: 1011 });
    expect(map.geometry).toEqual([{ volume: 0, name: 'vda', sizeBytes: 1024 ** 3, blockBytes: 512 }]);
    expect([0, 1, 2, 3].map((region) => map.touches(0, region))).toEqual([true, true, false, true]);
    const extents = new RegionExtents();
    const rows: number[][] = [];
    while (map.nextKey() !== NO_KEY) {
      map.load(extents);
      for (let i = 0; i < extents.count; i += 1) {
        const { key, start, end, source, address } = extents;
        rows.push([key, start[i]!, end[i]!, source[i]!, address[i]!]);
      }
    }
    map.close();
    // The first batch: header page, table sector 8, geometry 9, then 20 and 4 sectors of data.
    expect(rows).toEqual([
      [0, 95, 105, SOURCE_ZERO, 0],
      [0, 105, 110, 0, 15],
      [0, 110, 114, 0, 30],
      [0, 114, 120, 0, 24],
      [0, 200, 300, SOURCE_ZERO, 0],
      [0, 300, 308, SOURCE_UNKNOWN, 0],
      [0, 308, 1200, SOURCE_ZERO, 0],
      [0, 524_285, 524_288, 0, 41],
      [1, 0, 3, 0, 44],
      [3, 524_287, 524_288, 0, 48],
    ]);
    const segment = SegmentFile.open(file('map-1.eplog'), { expectSealed: true });
    const entries = segment.readEntries(1011, 1011);
    expect(segment.readPayloadVerified(entries, 0).equals(Buffer.alloc(SECTOR_BYTES, 4))).toBe(true);
    segment.close();
  });
});

describe('the golden gap', () => {
  it('is what its content is written as, and is read as it', () => {
    expect(goldenGapSegment().equals(fs.readFileSync(file('gap-1.eplog')))).toBe(true);
    const segment = SegmentFile.open(file('gap-1.eplog'), { expectSealed: true });
    const entries = segment.readEntries();
    const [first, last, ...more] = segment.readLabels(entries);
    segment.close();
    expect(more).toEqual([]);
    // 472 bytes have room: 17 for the words before, and half of a two-byte character at the end.
    const gap = { ...GOLDEN_GAP, reason: `kein Platz für: ${'ä'.repeat(227)}` };
    expect(first).toMatchObject({ kind: 'gap', lsn: 2001, gap: { ...gap, toLsn: 0, toNs: 0n } });
    expect(last).toMatchObject({ kind: 'gap', lsn: 2003, gap });
    expect([...entries.type.subarray(0, 4)]).toEqual([9, 1, 9, 4]);
  });

  it('is refused where it makes no sense', () => {
    const payload = (change: (sector: Buffer) => void) => {
      const sector = encodeGapPayload(GOLDEN_GAP);
      change(sector);
      return decodeGap(sector);
    };
    expect(payload(() => undefined)).toMatchObject({ fromLsn: 1011 });
    expect(payload((sector) => sector.writeUInt32LE(1011, 16))).toMatch(/ends before it begins/);
    expect(payload((sector) => sector.writeUInt16LE(473, 32))).toMatch(/too long/);
    expect(payload((sector) => sector.writeUInt32LE(0x20_0000, 4))).toMatch(/out of range/);
  });
});

describe('the golden manifest', () => {
  it('is what its records are written as, and is read as them', async () => {
    const bytes = fs.readFileSync(file('manifest-1.txt'));
    expect(goldenManifest().equals(bytes)).toBe(true);
    expect(parseManifest(bytes, 'golden').goodBytes).toBe(bytes.length);
    const state = await Manifest.read(file('manifest-1.txt'), GOLDEN_GROUP);
    const [first, second, third] = GOLDEN_COMMITS;
    expect(state.group).toEqual(first![0]);
    expect(state.segments.get(7)).toEqual(second![0]);
    expect(state.maps.get(12)).toEqual(second![1]);
    expect(state.markers.get('gold')).toEqual({ ...second![2], pinned: false });
    expect(state.gaps).toEqual([third![0]]);
  });
});
