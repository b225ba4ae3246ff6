// SPDX-License-Identifier: Apache-2.0

// What protection costs a guest's fsync: a 4 KiB write at a random place and a flush behind it, one
// pair at a time, on a disk file (not a tmpfs):
//
//   raw                     pwrite and fdatasync of a file on the same file system, no guest
//   unprotected             our door and block device, without protection
//   primary                 a protected group, flush: primary
//   both, tmpfs|file|pmem   flush: both, by the kind of the group's log buffer
//
// Guests are played by the tests' own front-end over vhost-user. All targets stand side by side and are
// measured in turn, round by round; what counts is the median of the rounds' ratios to `unprotected`.
// The log lies on the same disk as the primaries: a second disk would make `both` cheaper.
//
// `pmem` is a file on a tmpfs, mapped as if it were persistent memory: it shows what the code costs, not
// what a memory module does.

import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { closeSync, existsSync, fdatasyncSync, mkdirSync, mkdtempSync, openSync } from 'node:fs';
import { rmSync, statfsSync, writeFileSync, writeSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import type { DataPlanePort, GroupDefinition } from '../../src/data-plane/port.ts';
import type { BenchOptions } from '../main.ts';

const run = promisify(execFile);
const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
const program = (name: string): string => path.join(root, 'build/release', name);
const TMPFS_MAGIC = 0x01021994;
const BUFFER_BYTES = 16 << 20;

interface Sample {
  pairs: number;
  p50: number;
  p99: number;
}

interface Target {
  name: string;
  measure: (seconds: number, seed: number) => Promise<Sample>;
}

interface Row {
  target: string;
  pairsPerSecond: number;
  p50: number;
  p99: number;
  ratio: number;
  ratioMin: number;
  ratioMax: number;
  p99Ratio: number;
}

/** What is to be ended and removed, the last first. */
type Endings = (() => Promise<void> | void)[];

async function waitFor(what: string, ready: () => boolean): Promise<void> {
  for (let i = 0; i < 500; i++) {
    if (ready()) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error(`${what} did not come up within 10 s`);
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGTERM');
  await gone;
}

/** A raw file with every block written, so that no sync has to write metadata of new blocks. */
function makeDisk(file: string, bytes: number): void {
  writeFileSync(file, '');
  const chunk = Buffer.alloc(4 << 20, 0xa5);
  for (let at = 0; at < bytes; at += chunk.length) writeFileSync(file, chunk, { flag: 'a' });
  const fd = openSync(file, 'r+');
  fdatasyncSync(fd);
  closeSync(fd);
}

function percentile(sorted: readonly number[], share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

function median(values: number[]): number {
  return percentile(
    values.toSorted((a, b) => a - b),
    0.5,
  );
}

/** The same pair by the file system alone: what nobody above it can be faster than. */
function rawTarget(folder: string, bytes: number, endings: Endings): Target {
  const file = path.join(folder, 'raw.img');
  makeDisk(file, bytes);
  const fd = openSync(file, 'r+');
  endings.push(() => closeSync(fd));
  const block = Buffer.alloc(4096, 7);
  return {
    name: 'raw',
    measure: (seconds) => {
      const times: number[] = [];
      const begin = performance.now();
      for (let now = begin; now - begin < seconds * 1000;) {
        const at = Math.floor((Math.random() * bytes) / 4096) * 4096;
        block.writeDoubleLE(now, 0);
        writeSync(fd, block, 0, block.length, at);
        fdatasyncSync(fd);
        const done = performance.now();
        times.push((done - now) * 1000);
        now = done;
      }
      times.sort((a, b) => a - b);
      const pairs = times.length / seconds;
      return Promise.resolve({ pairs, p50: percentile(times, 0.5), p99: percentile(times, 0.99) });
    },
  };
}

/** A disk behind a socket, driven by the front-end: `--flush` times write and flush as one. */
function socketTarget(name: string, socket: string, bytes: number): Target {
  return {
    name,
    measure: async (seconds, seed) => {
      const { stdout } = await run(program('everpoint-front-end'), [
        ...['load', '--socket', socket, '--rw', 'randwrite', '--bs', '4096', '--flush'],
        ...['--depth', '1', '--queues', '1', '--size', String(bytes), '--seed', String(seed)],
        ...['--seconds', String(seconds), '--warmup', '0.2'],
      ]);
      const line = stdout.split('\n').findLast((text) => text.includes('"iops"'));
      if (line === undefined) throw new Error(`no result from the load generator for ${name}`);
      const result = JSON.parse(line) as {
        iops: number;
        errors: number;
        latency_us: { p50: number; p99: number };
      };
      if (result.errors !== 0) throw new Error(`${name}: ${result.errors} requests failed`);
      return { pairs: result.iops, p50: result.latency_us.p50, p99: result.latency_us.p99 };
    },
  };
}

async function unprotectedTarget(folder: string, bytes: number, endings: Endings): Promise<Target> {
  const file = path.join(folder, 'unprotected.raw');
  const socket = path.join(folder, 'unprotected.sock');
  makeDisk(file, bytes);
  const child = spawn(program('everpoint-plain-export'), ['--file', file, '--socket', socket], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  endings.push(() => end(child));
  await waitFor('everpoint-plain-export', () => existsSync(socket));
  return socketTarget('unprotected', socket, bytes);
}

/** The real data plane process, driven over its port. */
async function startDataPlane(folder: string, endings: Endings): Promise<DataPlanePort> {
  const state = path.join(folder, 'state');
  mkdirSync(state);
  const { DataPlaneClient } = await import('../../dist/data-plane/client.js');
  const { DataPlaneSupervisor } = await import('../../dist/data-plane/supervisor.js');
  const { controlSocket } = await import('../../dist/data-plane/paths.js');
  const client = new DataPlaneClient({ socketPath: controlSocket(state) });
  // libpmem's own switch: cache lines are flushed on any mapping, as on persistent memory.
  const environment = { PMEM_IS_PMEM_FORCE: '1' };
  const supervisor = new DataPlaneSupervisor({ state, client, reactors: 1, environment });
  endings.push(async () => {
    await supervisor.stop();
    await client.close();
  });
  if (!(await supervisor.start(15_000))) throw new Error('the data plane did not come up');
  return client;
}

interface Protection {
  name: string;
  flush: 'primary' | 'both';
  logBuffer: GroupDefinition['logBuffer'];
}

/** A group of its own with a disk of its own. @returns nothing where this build has no such buffer */
async function protectedTarget(
  { name, flush, logBuffer }: Protection,
  port: DataPlanePort,
  folder: string,
  bytes: number,
  endings: Endings,
): Promise<Target | string> {
  const word = name.replaceAll(/[^a-z]+/g, '-');
  const file = path.join(folder, `${word}.raw`);
  const secondary = path.join(folder, `${word}-secondary`);
  const socket = path.join(folder, word, 'vhost.sock');
  makeDisk(file, bytes);
  mkdirSync(secondary);
  const definition: GroupDefinition = {
    id: randomUUID(),
    name: word,
    ack: 'primary',
    flush,
    onLogPressure: 'throttle',
    throttleMaxMs: 5000,
    devices: [{ id: randomUUID(), path: secondary }],
    logBuffer,
    volumes: [
      {
        number: 0,
        name: 'vda',
        blockSize: 512,
        primary: { kind: 'file', path: file },
        exports: [{ kind: 'vhost-user-blk', queues: 1, path: socket }],
      },
    ],
  };
  try {
    const status = await port.createGroup(definition);
    endings.push(() => port.deleteGroup(definition.id, { force: true }));
    // A build that does not know the kind may take any for a tmpfs.
    const { durable } = status.buffer as { durable?: boolean };
    if (logBuffer.kind !== 'tmpfs' && durable !== true) return 'not in this build';
    return socketTarget(name, socket, bytes);
  } catch (error) {
    return (error as Error).message;
  }
}

/** `$EP_BENCH_DIR`, else the build folder: a disk, or the figures mean nothing. */
function benchFolder(): string {
  const parent = process.env['EP_BENCH_DIR'] ?? path.join(root, 'build');
  mkdirSync(parent, { recursive: true });
  if (statfsSync(parent).type === TMPFS_MAGIC) {
    throw new Error(`${parent} is a tmpfs; name a folder on a disk in EP_BENCH_DIR`);
  }
  return mkdtempSync(path.join(parent, 'bench-'));
}

function summarize(target: Target, own: Sample[], base: Sample[]): Row {
  const ratios = own.map((sample, i) => sample.p50 / (base[i]?.p50 ?? Number.NaN));
  const tails = own.map((sample, i) => sample.p99 / (base[i]?.p99 ?? Number.NaN));
  return {
    target: target.name,
    pairsPerSecond: Math.round(median(own.map((sample) => sample.pairs))),
    p50: median(own.map((sample) => sample.p50)),
    p99: median(own.map((sample) => sample.p99)),
    ratio: median(ratios),
    ratioMin: Math.min(...ratios),
    ratioMax: Math.max(...ratios),
    p99Ratio: median(tails),
  };
}

export async function fsync({ large, say }: BenchOptions): Promise<unknown> {
  const rounds = large ? 21 : 7;
  const seconds = large ? 2 : 1;
  const bytes = (large ? 1024 : 64) << 20;
  const endings: Endings = [];
  const notAvailable: Record<string, string> = {};
  try {
    const folder = benchFolder();
    endings.push(() => rmSync(folder, { recursive: true, force: true }));
    const memory = mkdtempSync('/dev/shm/everpoint-bench-');
    endings.push(() => rmSync(memory, { recursive: true, force: true }));
    const targets = [
      rawTarget(folder, bytes, endings),
      await unprotectedTarget(folder, bytes, endings),
    ];
    const port = await startDataPlane(folder, endings);
    const size = { bytes: BUFFER_BYTES };
    const protections: Protection[] = [
      { name: 'primary', flush: 'primary', logBuffer: { kind: 'tmpfs', ...size } },
      { name: 'both, tmpfs', flush: 'both', logBuffer: { kind: 'tmpfs', ...size } },
      {
        name: 'both, file',
        flush: 'both',
        logBuffer: { kind: 'file', path: path.join(folder, 'log-buffer'), ...size },
      },
      {
        name: 'both, pmem',
        flush: 'both',
        logBuffer: { kind: 'pmem', path: path.join(memory, 'log-buffer'), ...size },
      },
    ];
    for (const protection of protections) {
      const target = await protectedTarget(protection, port, folder, bytes, endings);
      if (typeof target === 'string') notAvailable[protection.name] = target;
      else targets.push(target);
    }
    say(
      `4 KiB random write + flush, depth 1, ${bytes >> 20} MiB disks, ${rounds} rounds of ${seconds} s; log on the same disk`,
    );
    const samples = new Map<string, Sample[]>(targets.map((target) => [target.name, []]));
    for (let round = 0; round < rounds; round++) {
      for (const target of targets) {
        samples.get(target.name)?.push(await target.measure(seconds, round + 1));
      }
    }
    const base = samples.get('unprotected') ?? [];
    say('target          pairs/s   p50 µs   p99 µs   p50 × unprotected (min … max)   p99 ×');
    const results = targets.map((target) => {
      const row = summarize(target, samples.get(target.name) ?? [], base);
      const spread = `${row.ratio.toFixed(2)} (${row.ratioMin.toFixed(2)} … ${row.ratioMax.toFixed(2)})`;
      say(
        `${row.target.padEnd(13)} ${String(row.pairsPerSecond).padStart(9)} ${row.p50.toFixed(0).padStart(8)} ` +
          `${row.p99.toFixed(0).padStart(8)}   ${spread.padEnd(29)} ${row.p99Ratio.toFixed(2).padStart(7)}`,
      );
      return row;
    });
    for (const [name, why] of Object.entries(notAvailable)) {
      say(`${name.padEnd(13)} not available: ${why}`);
    }
    return { bench: 'fsync', rounds, seconds, bytes, results, notAvailable };
  } finally {
    for (const ending of endings.toReversed()) await ending();
  }
}
