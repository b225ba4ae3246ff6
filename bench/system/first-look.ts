// SPDX-License-Identifier: Apache-2.0

// A first look at speed: 4 KiB random writes and reads at queue depth 1 and 32 through vhost-user-blk,
// by the tests' own front-end, on tmpfs, side by side in one run:
//
//   peer         qemu-storage-daemon exporting a raw file
//   plain        our door and block device, without protection
//   protected    a group in the real data plane process: ack primary, flush both
//
// The four are measured in turn, round by round, and the median of the rounds' ratios to the peer is
// what counts: these machines are shared, and their speed drifts from one second to the next.

import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import type { GroupDefinition } from '../../src/data-plane/port.ts';
import type { BenchOptions } from '../main.ts';

const run = promisify(execFile);
const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
const program = (name: string): string => path.join(root, 'build/release', name);

interface Sample {
  iops: number;
  p50: number;
  p99: number;
}

interface Target {
  name: string;
  socket: string;
  stop: () => Promise<void>;
}

interface Case {
  rw: 'randwrite' | 'randread';
  depth: number;
}

const cases: Case[] = [
  { rw: 'randwrite', depth: 1 },
  { rw: 'randwrite', depth: 32 },
  { rw: 'randread', depth: 1 },
  { rw: 'randread', depth: 32 },
];

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

/** A raw file with every block allocated, so that no target pays for the first touch. */
function makeDisk(file: string, bytes: number): void {
  writeFileSync(file, '');
  const chunk = Buffer.alloc(4 << 20, 0xa5);
  for (let at = 0; at < bytes; at += chunk.length) writeFileSync(file, chunk, { flag: 'a' });
  truncateSync(file, bytes);
}

async function startPeer(folder: string, bytes: number): Promise<Target> {
  const file = path.join(folder, 'peer.raw');
  const socket = path.join(folder, 'peer.sock');
  makeDisk(file, bytes);
  const child = spawn(
    'qemu-storage-daemon',
    [
      ...['--blockdev', `driver=file,filename=${file},node-name=disk`],
      ...[
        '--export',
        `type=vhost-user-blk,id=e,node-name=disk,addr.type=unix,addr.path=${socket},writable=on,num-queues=1`,
      ],
    ],
    { stdio: ['ignore', 'ignore', 'inherit'] },
  );
  await waitFor('qemu-storage-daemon', () => existsSync(socket));
  return { name: 'peer', socket, stop: () => end(child) };
}

async function startPlain(folder: string, bytes: number): Promise<Target> {
  const file = path.join(folder, 'plain.raw');
  const socket = path.join(folder, 'plain.sock');
  makeDisk(file, bytes);
  const child = spawn(program('everpoint-plain-export'), ['--file', file, '--socket', socket], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  await waitFor('everpoint-plain-export', () => existsSync(socket));
  return { name: 'plain', socket, stop: () => end(child) };
}

/** The real data plane process, driven over its port. */
async function startProtected(folder: string, bytes: number): Promise<Target> {
  const state = path.join(folder, 'state');
  const secondary = path.join(folder, 'secondary');
  const file = path.join(folder, 'protected.raw');
  mkdirSync(state);
  mkdirSync(secondary);
  makeDisk(file, bytes);
  const { DataPlaneClient } = await import('../../dist/data-plane/client.js');
  const { DataPlaneSupervisor } = await import('../../dist/data-plane/supervisor.js');
  const { controlSocket } = await import('../../dist/data-plane/paths.js');
  const client = new DataPlaneClient({ socketPath: controlSocket(state) });
  const supervisor = new DataPlaneSupervisor({ state, client, reactors: 1 });
  if (!(await supervisor.start(15_000))) throw new Error('the data plane did not come up');
  const definition: GroupDefinition = {
    id: randomUUID(),
    name: 'bench',
    ack: 'primary',
    flush: 'both',
    onLogPressure: 'throttle',
    throttleMaxMs: 1000,
    devices: [{ id: randomUUID(), path: secondary }],
    logBuffer: { kind: 'tmpfs' },
    volumes: [
      {
        number: 0,
        name: 'vda',
        blockSize: 512,
        primary: { kind: 'file', path: file },
        exports: [{ kind: 'vhost-user-blk', queues: 1, path: path.join(folder, 'x/vhost.sock') }],
      },
    ],
  };
  await client.createGroup(definition);
  return {
    name: 'protected',
    socket: path.join(folder, 'x/vhost.sock'),
    stop: async () => {
      await client.deleteGroup(definition.id, { force: true });
      await supervisor.stop();
      await client.close();
    },
  };
}

async function measure(
  target: Target,
  load: Case,
  bytes: number,
  seconds: number,
): Promise<Sample> {
  const { stdout } = await run(program('everpoint-front-end'), [
    ...['load', '--socket', target.socket, '--rw', load.rw, '--bs', '4096'],
    ...['--depth', String(load.depth), '--queues', '1', '--size', String(bytes)],
    ...['--seconds', String(seconds), '--warmup', '0.3'],
  ]);
  const line = stdout.split('\n').findLast((text) => text.includes('"iops"'));
  if (line === undefined) throw new Error(`no result from the load generator for ${target.name}`);
  const result = JSON.parse(line) as {
    iops: number;
    errors: number;
    latency_us: { p50: number; p99: number };
  };
  if (result.errors !== 0) throw new Error(`${target.name}: ${result.errors} requests failed`);
  return { iops: result.iops, p50: result.latency_us.p50, p99: result.latency_us.p99 };
}

function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

export async function firstLook({ large, say }: BenchOptions): Promise<unknown> {
  const rounds = large ? 7 : 3;
  const seconds = large ? 4 : 1;
  const bytes = (large ? 1024 : 256) << 20;
  const folder = mkdtempSync('/dev/shm/everpoint-bench-');
  const targets: Target[] = [];
  try {
    for (const start of [startPeer, startPlain, startProtected]) {
      targets.push(await start(folder, bytes));
    }
    say(
      `4 KiB random, one queue, ${bytes >> 20} MiB disk on tmpfs, ${rounds} rounds of ${seconds} s; log on the same tmpfs`,
    );
    say('case             target        IOPS   p50 µs   p99 µs   × peer (min … max)');
    const results = [];
    for (const load of cases) {
      const samples = new Map<string, Sample[]>(targets.map((target) => [target.name, []]));
      for (let round = 0; round < rounds; round++) {
        for (const target of targets) {
          samples.get(target.name)?.push(await measure(target, load, bytes, seconds));
        }
      }
      const peer = samples.get('peer') ?? [];
      for (const target of targets) {
        const own = samples.get(target.name) ?? [];
        const ratios = own.map((sample, i) => sample.iops / (peer[i]?.iops ?? Number.NaN));
        const row = {
          ...load,
          target: target.name,
          iops: Math.round(median(own.map((sample) => sample.iops))),
          p50: median(own.map((sample) => sample.p50)),
          p99: median(own.map((sample) => sample.p99)),
          ratio: median(ratios),
          ratioMin: Math.min(...ratios),
          ratioMax: Math.max(...ratios),
        };
        results.push(row);
        say(
          `${`${load.rw} qd${load.depth}`.padEnd(16)} ${target.name.padEnd(10)} ${String(row.iops).padStart(7)} ` +
            `${row.p50.toFixed(0).padStart(8)} ${row.p99.toFixed(0).padStart(8)}   ` +
            `${row.ratio.toFixed(2)} (${row.ratioMin.toFixed(2)} … ${row.ratioMax.toFixed(2)})`,
        );
      }
    }
    return { bench: 'first-look', rounds, seconds, bytes, results };
  } finally {
    for (const target of targets.toReversed()) await target.stop();
    rmSync(folder, { recursive: true, force: true });
  }
}
