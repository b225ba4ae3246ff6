// SPDX-License-Identifier: Apache-2.0

/**
 * How fast level-0 maps are built and maps are merged, in memory and to files.
 * Usage: node bench/micro/maps.ts [--entries N] [--maps K] [--disk-gib G]; runs what is in dist/.
 */

import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { parseArgs } from 'node:util';

import { NO_KEY, RegionExtents, type RegionSource } from '../../dist/maps/extents.js';
import { LevelZeroSource } from '../../dist/maps/level-zero.js';
import { MapFile } from '../../dist/maps/map-reader.js';
import { writeMap } from '../../dist/maps/map-writer.js';
import { MergedSource } from '../../dist/maps/merge.js';
import { SegmentEntries } from '../../dist/maps/segment/entries.js';

const { values } = parseArgs({
  options: {
    entries: { type: 'string', default: '1000000' },
    maps: { type: 'string', default: '4' },
    'disk-gib': { type: 'string', default: '64' },
    rounds: { type: 'string', default: '5' },
  },
});
const entriesEach = Number(values.entries);
const mapsMany = Number(values.maps);
const diskSectors = Number(values['disk-gib']) * 2 ** 21;
const rounds = Number(values.rounds);
const group = '11111111-2222-4333-8444-555555555555';
const device = 'aaaaaaaa-0000-4000-8000-000000000001';

let state = 12345;
function below(limit: number): number {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  const high = state;
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor(((high * 2 ** 21 + (state >>> 11)) / 2 ** 53) * limit);
}

/** 4 KiB writes, at random or one behind the other, as a segment's table has them. */
function makeEntries(segment: number, sequential: boolean): SegmentEntries {
  const identity = { group, device, segment, epoch: 1 };
  const entries = new SegmentEntries(identity, 'bench', segment * entriesEach, entriesEach);
  const start = below(diskSectors / 16) * 8;
  for (let i = 0; i < entriesEach; i += 1) {
    entries.type[i] = 1;
    entries.sectors[i] = 8;
    entries.sector[i] = sequential ? (start + i * 8) % diskSectors : below(diskSectors / 8) * 8;
    entries.address[i] = 16 + i * 8;
  }
  entries.count = entriesEach;
  return entries;
}

function drain(source: RegionSource): number {
  const extents = new RegionExtents();
  let count = 0;
  while (source.nextKey() !== NO_KEY) {
    source.load(extents);
    count += extents.count;
  }
  return count;
}

/**
 * The best of several rounds in millions per second: by the clock, and by the time that this thread
 * really had a CPU (what others on the machine do hardly changes that one).
 */
function measure(name: string, items: number, work: () => number): void {
  let best = Infinity;
  let bestCpu = Infinity;
  let result = 0;
  for (let round = 0; round < rounds; round += 1) {
    const before = process.hrtime.bigint();
    const cpuBefore = process.threadCpuUsage();
    result = work();
    const cpu = process.threadCpuUsage(cpuBefore);
    best = Math.min(best, Number(process.hrtime.bigint() - before));
    bestCpu = Math.min(bestCpu, (cpu.user + cpu.system) * 1000);
  }
  const rate = (ns: number) => ((items / ns) * 1000).toFixed(1).padStart(7);
  const counts = `(${items} in, ${result} out)`;
  console.log(`${name.padEnd(28)} ${rate(best)} M/s ${rate(bestCpu)} M/s of CPU   ${counts}`);
}

console.log(`node ${process.version}, ${os.cpus()[0]?.model ?? 'unknown CPU'}, ${os.release()}`);
console.log(
  `${entriesEach} writes of 4 KiB each, ${mapsMany} maps, disk of ${values['disk-gib']} GiB`,
);
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'everpoint-bench-'));
try {
  const identity = (id: number) => ({
    group,
    device,
    id,
    level: 0,
    expiryClass: 0,
    firstLsn: id * entriesEach,
    lastLsn: (id + 1) * entriesEach - 1,
    firstTimeNs: 0n,
    lastTimeNs: 0n,
    previous: 0,
    firstChild: 0,
    createdNs: 0n,
  });
  for (const sequential of [false, true]) {
    const kind = sequential ? 'sequential' : 'random';
    const many = Array.from({ length: mapsMany }, (_, i) => makeEntries(i + 1, sequential));
    const one = many[0]!;
    measure(`build, ${kind}`, entriesEach, () => drain(new LevelZeroSource(one)));
    let name = 0;
    measure(`build and write, ${kind}`, entriesEach, () => {
      name += 1;
      const file = path.join(folder, `${kind}-${name}`);
      return writeMap(file, identity(1), new LevelZeroSource(one), []).fileBytes;
    });
    const files = many.map((entries, i) => {
      const file = path.join(folder, `${kind}-map-${i}`);
      return { file, header: writeMap(file, identity(i), new LevelZeroSource(entries), []) };
    });
    const extents = files.reduce((sum, { header }) => sum + header.extents, 0);
    measure(`read and merge, ${kind}`, extents, () => {
      const maps = files.map(({ file }) => MapFile.open(file));
      const count = drain(new MergedSource(maps));
      for (const map of maps) map.close();
      return count;
    });
    const bytes = files.reduce((sum, { header }) => sum + header.fileBytes, 0);
    console.log(`map bytes per extent, ${kind}: ${(bytes / extents).toFixed(2)}`);
  }
} finally {
  fs.rmSync(folder, { recursive: true, force: true });
}
