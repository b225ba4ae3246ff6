// SPDX-License-Identifier: Apache-2.0

/**
 * Run by hand: proves the harness against QEMU's own vhost-user-blk back-end, qemu-storage-daemon,
 * so that a failure of a later test is known to be ours. Usage: node prove.ts [auto|kvm|tcg] [fio]
 */
import { execFileSync, spawn } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdtempSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { chooseAccel, probeAccel, type AccelChoice } from './accel.ts';
import { runGuest, startGuest, type GuestResult } from './guest.ts';
import { buildDiskLoad } from './initramfs.ts';
import * as jobs from './jobs.ts';

const MIB = 1 << 20;
const DISK = '/dev/vda';
const folder = mkdtempSync('/dev/shm/everpoint-prove-');

interface BackEnd {
  socket: string;
  stop(): Promise<void>;
}

async function serve(image: string, name: string, queues: number): Promise<BackEnd> {
  const socket = join(folder, `${name}.sock`);
  rmSync(socket, { force: true });
  const address = `addr.type=unix,addr.path=${socket}`;
  const child = spawn(
    'qemu-storage-daemon',
    [
      ...['--blockdev', `file,node-name=f,filename=${image},discard=unmap`],
      ...[
        '--export',
        `vhost-user-blk,id=e,node-name=f,writable=on,num-queues=${queues},${address}`,
      ],
    ],
    { stdio: 'inherit' },
  );
  const exited = new Promise<void>((resolve) => child.on('exit', () => resolve()));
  const stop = async (): Promise<void> => {
    child.kill('SIGKILL');
    await exited;
  };
  for (let tries = 0; !existsSync(socket); tries += 1) {
    if (tries > 200) throw new Error('qemu-storage-daemon does not listen');
    await sleep(25);
  }
  return { socket, stop };
}

function image(name: string, bytes: number): string {
  const path = join(folder, name);
  writeFileSync(path, '');
  truncateSync(path, bytes);
  return path;
}

const failures: string[] = [];
function expect(what: string, held: boolean): void {
  console.log(`  ${held ? 'ok  ' : 'FAIL'} ${what}`);
  if (!held) failures.push(what);
}

function show(what: string, result: GuestResult): void {
  const { bootMs, jobMs, totalMs } = result.durations;
  const ms = (value: number | null): string => `${Math.round(value ?? NaN)} ms`;
  console.log(
    `${what}: exit ${result.exitCode}, ${result.accel}, boot ${ms(bootMs)}, job ${ms(jobMs)}, all ${ms(totalMs)}`,
  );
  for (const line of result.output.filter((text) => !/^(@sum|flushed|written)/.test(text))) {
    console.log(`    ${line}`);
  }
  for (const line of result.console) console.log(`    kernel: ${line}`);
}

async function main(accelChoice: AccelChoice, withFio: boolean): Promise<void> {
  const probe = await probeAccel();
  console.log(`probe: ${probe.accel}, ${probe.probeMs} ms: ${probe.reason}`);
  const accel = await chooseAccel(accelChoice);
  const run = async (
    what: string,
    path: string,
    script: string,
    more: { memoryMb?: number; extraTools?: string[] } = {},
  ): Promise<GuestResult> => {
    const backEnd = await serve(path, 'disk', 2);
    try {
      const disks = [{ socket: backEnd.socket, queues: 2 }];
      const result = await runGuest({ disks, script, accel, ...more });
      show(what, result);
      return result;
    } finally {
      await backEnd.stop();
    }
  };

  const bare = await runGuest({ disks: [], script: 'uname -r; nproc', accel });
  show('bare boot', bare);

  const files = image('files.raw', 128 * MIB);
  const made = await run(
    'make files',
    files,
    jobs.makeFilesJob({ device: DISK, files: 40, minBytes: 1, maxBytes: 2 * MIB, seed: 1 }),
  );
  const expected = jobs.parseManifest(made.output, 'made');
  expect('40 checksums printed', made.exitCode === 0 && expected.size === 40);
  const kept = join(folder, 'kept.raw');
  copyFileSync(files, kept);

  const destroyed = await run('destroy', files, jobs.destroyFilesJob({ device: DISK }));
  expect('destroy ran', destroyed.exitCode === 0);
  const spoilt = await run('verify the destroyed', files, jobs.verifyFilesJob({ device: DISK }));
  const loss = jobs.compareManifests(expected, jobs.parseManifest(spoilt.output, 'found'));
  expect('manifest gone (exit 30)', spoilt.exitCode === 30);
  expect('20 files changed, 20 missing', loss.changed.length === 20 && loss.missing.length === 20);

  const verified = await run(
    'fsck and verify the copy made before',
    kept,
    jobs.inSequence(
      jobs.fsckJob({ device: DISK }),
      jobs.verifyFilesJob({ device: DISK, readOnly: true }),
    ),
  );
  const back = jobs.compareManifests(expected, jobs.parseManifest(verified.output, 'found'));
  expect('every checksum is back', verified.exitCode === 0 && back.equal);

  await load(accel, run);
  if (withFio) {
    const disk = image('fio.raw', 64 * MIB);
    const job = jobs.fioVerifyJob({ device: DISK, bytes: 16 * MIB, seconds: 5 });
    const more = { memoryMb: 1024, extraTools: ['fio'] };
    expect('fio', (await run('fio', disk, job, more)).exitCode === 0);
  }
}

/** The load to its end; then a load whose guest loses power; both checked in guest and on host. */
async function load(
  accel: 'kvm' | 'tcg',
  run: (what: string, path: string, script: string) => Promise<GuestResult>,
): Promise<void> {
  const disk = image('load.raw', 64 * MIB);
  const shape = { device: DISK, bytes: 32 * MIB, seed: 42, threads: 4 };
  const ran = await run('load', disk, jobs.loadJob({ ...shape, seconds: 3, tickMs: 1000 }));
  const progress = jobs.parseLoad(ran.output);
  expect('load without an error', ran.exitCode === 0 && progress.errors.length === 0);
  const checked = await run('check in the guest', disk, jobs.loadCheckJob(shape, progress.flushed));
  expect('guest check', checked.exitCode === 0);
  const program = buildDiskLoad();
  const hostCheck = (path: string, flushed: Map<number, number>): boolean => {
    const args = jobs.loadCheckArgs({ ...shape, device: path }, flushed);
    try {
      execFileSync(program, args, { encoding: 'utf8' });
      return true;
    } catch (error) {
      console.log(String((error as { stdout?: string }).stdout));
      return false;
    }
  };
  expect('host check', hostCheck(disk, progress.flushed));
  const more = new Map([...progress.flushed].map(([t, op]) => [t, op + 1]));
  expect('host check finds one request more missing', !hostCheck(disk, more));

  const cut = image('cut.raw', 64 * MIB);
  const backEnd = await serve(cut, 'cut', 2);
  const guest = await startGuest({
    disks: [{ socket: backEnd.socket, queues: 2 }],
    script: jobs.loadJob({ ...shape, seconds: 60 }),
    accel,
  });
  await guest.waitForLine(/^flushed t=3 op=(?!64$)/, 60_000);
  guest.kill();
  const exit = await guest.exited;
  await backEnd.stop();
  expect('killed guest has no exit code', exit.exitCode === null && exit.qemuSignal === 'SIGKILL');
  const seen = jobs.parseLoad(guest.lines.map((line) => line.text)).flushed;
  expect(`host check after the cut (${[...seen].join(' ')})`, hostCheck(cut, seen));
}

try {
  await main((process.argv[2] ?? 'auto') as AccelChoice, process.argv[3] === 'fio');
} finally {
  rmSync(folder, { recursive: true, force: true });
}
console.log(failures.length === 0 ? 'proven' : `failed: ${failures.join('; ')}`);
process.exitCode = failures.length === 0 ? 0 : 1;
