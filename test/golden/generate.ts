// SPDX-License-Identifier: Apache-2.0

/** The content of the golden files that TypeScript writes, as bytes. Nothing here is random. */

import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';

import { SECTOR_BYTES } from '../../src/common/limits.js';
import { formatTime } from '../../src/common/time.js';
import {
  NO_KEY,
  RegionExtents,
  regionKey,
  SOURCE_UNKNOWN,
  SOURCE_ZERO,
} from '../../src/maps/extents.js';
import { LevelZeroSource } from '../../src/maps/level-zero.js';
import { encodeManifest, type ManifestRecord } from '../../src/maps/manifest.js';
import { MapWriter } from '../../src/maps/map-writer.js';
import {
  ENTRY_FLAG_RESYNC,
  EntryType,
  GeometryAction,
  KEEP_FOREVER,
} from '../../src/maps/segment/format.js';
import { SegmentFile } from '../../src/maps/segment/reader.js';
import {
  encodeGapPayload,
  encodeGeometryPayload,
  encodeMarkerPayload,
  encodeSegment,
  type EntryContent,
} from '../support/segment-writer.js';

export const GOLDEN_GROUP = '01234567-89ab-4cde-8f01-23456789abcd';
export const GOLDEN_DEVICE = 'fedcba98-7654-4321-8fed-cba987654321';
const TIME = 1_767_225_600_000_000_000n;
const VDA = { volume: 0, name: 'vda', sizeBytes: 1024 ** 3, blockBytes: 512 };

/** One of each type of entry; writes over each other, over a region's border and in the far. */
export function goldenMapSegment(): Buffer {
  const border = 524_288;
  let at = 0n;
  const entry = (type: number, sector: number, sectors: number, payload?: Buffer): EntryContent => {
    at += 1000n;
    const range = { type, flags: 0, volume: 0, sector, sectors, timeNs: TIME + at };
    return payload ? { ...range, payload } : range;
  };
  const write = (sector: number, sectors: number, fill: number) =>
    entry(EntryType.write, sector, sectors, Buffer.alloc(sectors * SECTOR_BYTES, fill));
  const action = GeometryAction.add;
  const batches = [
    [
      entry(EntryType.geometry, 0, 1, encodeGeometryPayload({ ...VDA, action })),
      write(100, 20, 1),
      write(110, 4, 2),
      entry(EntryType.flush, 3, 0),
    ],
    [
      write(border - 3, 6, 3),
      entry(EntryType.discard, 200, 1000),
      entry(EntryType.writeZeroes, 95, 10),
      entry(EntryType.error, 5, 0),
      entry(EntryType.unknown, 300, 8),
      entry(EntryType.marker, 0, 1, encodeMarkerPayload({ keepUntilNs: KEEP_FOREVER, label: 'gold' })),
      write(2_097_151, 1, 4),
    ],
  ];
  const header = {
    group: GOLDEN_GROUP,
    device: GOLDEN_DEVICE,
    segment: 7,
    epoch: 2,
    firstLsn: 1001,
    createdNs: TIME,
    capacityBytes: 8 * 1024 * 1024,
  };
  return encodeSegment({ header, batches, seal: { sealedNs: TIME + 99_000n, reason: 4 } });
}

/** Both ends of a gap. Its reason is cut at the sector's end, within a character. */
export const GOLDEN_GAP = {
  fromLsn: 1011,
  fromNs: TIME + 11_000n,
  toLsn: 2003,
  toNs: TIME + 203_000n,
  reason: `kein Platz für: ${'ä'.repeat(300)}`,
};

/** The epoch that heals a gap: it begins in it, reads back what was missed, and ends it. */
export function goldenGapSegment(): Buffer {
  const { fromLsn, fromNs, reason } = GOLDEN_GAP;
  const label = (at: bigint, payload: Buffer): EntryContent => {
    const range = { type: EntryType.gap, volume: 0, sectors: 1, sector: 0 };
    return { ...range, timeNs: TIME + at, payload };
  };
  const missed = Buffer.alloc(2 * SECTOR_BYTES, 9);
  const batches = [
    [label(201_000n, encodeGapPayload({ fromLsn, fromNs, toLsn: 0, toNs: 0n, reason }))],
    [
      {
        type: EntryType.write,
        flags: ENTRY_FLAG_RESYNC,
        volume: 0,
        sectors: 2,
        sector: 64,
        timeNs: TIME + 202_000n,
        payload: missed,
      },
      label(203_000n, encodeGapPayload(GOLDEN_GAP)),
      { type: EntryType.flush, volume: 0, sectors: 0, sector: 2003, timeNs: TIME + 204_000n },
    ],
  ];
  const header = {
    group: GOLDEN_GROUP,
    device: GOLDEN_DEVICE,
    segment: 8,
    epoch: 3,
    firstLsn: 2001,
    createdNs: TIME + 200_000n,
    capacityBytes: 8 * 1024 * 1024,
  };
  return encodeSegment({ header, batches, seal: { sealedNs: TIME + 299_000n, reason: 6 } });
}

/** The level-0 map of `goldenMapSegment`. */
export function goldenMap(): Buffer {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'everpoint-golden-'));
  try {
    const segmentPath = path.join(folder, 'segment');
    fs.writeFileSync(segmentPath, goldenMapSegment());
    const file = SegmentFile.open(segmentPath, { expectSealed: true });
    const entries = file.readEntries();
    file.close();
    const target = path.join(folder, 'map');
    const writer = new MapWriter(target, {
      group: GOLDEN_GROUP,
      device: GOLDEN_DEVICE,
      id: 12,
      level: 0,
      expiryClass: 1,
      firstLsn: entries.firstLsn,
      lastLsn: entries.lastLsn,
      firstTimeNs: entries.timeNs[0]!,
      lastTimeNs: entries.timeNs[entries.count - 1]!,
      previous: 11,
      firstChild: 0,
      createdNs: TIME + 100_000n,
    });
    const source = new LevelZeroSource(entries);
    const extents = new RegionExtents();
    while (source.nextKey() !== NO_KEY) {
      source.load(extents);
      writer.addRegion(extents, source.segments);
    }
    writer.finish([VDA]);
    return fs.readFileSync(target);
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
}

/**
 * A map of several blocks, volumes and segments on two devices, by a rule that the C++ test
 * (native/format/map_test.cc) follows too: a row of numbers from one simple generator.
 */
export function goldenLargeMap(): Buffer {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'everpoint-golden-'));
  try {
    const target = path.join(folder, 'map');
    const writer = new MapWriter(target, {
      group: GOLDEN_GROUP,
      device: GOLDEN_DEVICE,
      id: 13,
      level: 1,
      expiryClass: 0,
      firstLsn: 1,
      lastLsn: 9000,
      firstTimeNs: TIME,
      lastTimeNs: TIME + 1n,
      previous: 0,
      firstChild: 12,
      createdNs: TIME + 2n,
    });
    const segments = [1, 2, 3].map((segment) => ({
      device: segment === 2 ? GOLDEN_GROUP : GOLDEN_DEVICE,
      segment,
    }));
    const extents = new RegionExtents();
    let state = 1;
    const next = (bound: number): number => {
      state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fff_ffff;
      return (state >>> 8) % bound;
    };
    for (const [volume, region, count] of GOLDEN_LARGE_REGIONS) {
      extents.clear(regionKey(volume, region));
      extents.reserve(count);
      let end = 0;
      for (let i = 0; i < count; i += 1) {
        // Never where the last one ended, so that none is a part of another.
        const start = end + 1 + next(40);
        end = start + 1 + next(60);
        const kind = next(8);
        const address = 9 + next(2_000_000);
        if (kind === 6) extents.push(start, end, SOURCE_ZERO, 0);
        else if (kind === 7) extents.push(start, end, SOURCE_UNKNOWN, 0);
        else extents.push(start, end, kind % 3, address);
      }
      writer.addRegion(extents, segments);
    }
    writer.finish([VDA, { volume: 2, name: 'vdb', sizeBytes: 1024 ** 4, blockBytes: 4096 }]);
    return fs.readFileSync(target);
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
}

/** Volume, region, extents: the first goes over several blocks. */
const GOLDEN_LARGE_REGIONS = [
  [0, 0, 6000],
  [0, 3, 1],
  [0, 40, 200],
  [2, 0, 1500],
  [2, 4095, 7],
] as const;

const time = formatTime(TIME);

export const GOLDEN_COMMITS: readonly (readonly ManifestRecord[])[] = [
  [
    { kind: 'group', group: GOLDEN_GROUP, name: 'web-1', definition: { ack: 'primary' } },
    { kind: 'policy', policy: { keepAll: '48h', grid: [] }, confirmed: true },
    { kind: 'volume', lsn: 1001, removed: false, ...VDA },
  ],
  [
    {
      kind: 'segment',
      segment: 7,
      device: GOLDEN_DEVICE,
      path: 'log/2026-01-01/0000000000000007.eplog',
      epoch: 2,
      firstLsn: 1001,
      lastLsn: 1011,
      firstTime: time,
      lastTime: time,
      entries: 11,
      dataBytes: 16_896,
      fileBytes: 36_864,
      sealedAt: time,
      reason: 4,
    },
    {
      kind: 'map',
      id: 12,
      device: GOLDEN_DEVICE,
      path: 'maps/000000000000000c.epmap',
      level: 0,
      expiryClass: 1,
      firstLsn: 1001,
      lastLsn: 1011,
      firstTime: time,
      lastTime: time,
      previous: 11,
      firstChild: 0,
      extents: 10,
      dataSectors: 22,
      fileBytes: 4252,
    },
    { kind: 'marker', label: 'gold', lsn: 1010, time, keepUntil: 'forever' },
  ],
  [
    { kind: 'gap', fromLsn: 1011, toLsn: null, from: time, to: null, reason: 'pause', healed: false },
    { kind: 'unpin', label: 'gold' },
  ],
];

export function goldenManifest(): Buffer {
  return encodeManifest(GOLDEN_GROUP, GOLDEN_COMMITS);
}
