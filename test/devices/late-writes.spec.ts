// SPDX-License-Identifier: Apache-2.0

import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { afterEach, describe, expect, it } from 'vitest';

import { EXIT_LOCKED } from '../../src/data-plane/host/exit-codes.js';
import { LoopFileSystem } from '../support/devices/loop-file-system.js';
import { whyNoLoopDevices, whyNoThrottle } from '../support/devices/system.js';
import { Throttle } from '../support/devices/throttle.js';
import { FrontEnd } from '../support/oracle/front-end.js';
import { firstDifference } from '../support/oracle/model.js';
import { type GroupBody, Service, until } from '../support/service.js';

// Locks (design, section 4): what a killed data plane had sent to a slow device still lands, seconds
// after its death. Nobody may read or write the primary before that is over.
// By hand: EP_TEST_SEED=1

const SEED = Number(process.env['EP_TEST_SEED'] ?? 20_260_307);
const ROOT = join(import.meta.dirname, '../..');
const MIB = 1 << 20;
const SIZE = 24 * MIB;
/** Bytes a second: what was in flight at a kill, a few MiB, then takes some seconds to land. */
const SLOW = { primary: 192 << 10, secondary: 192 << 10 };
/** How long is watched, after the recovery, for writes that come too late. */
const WATCH_MS = 5_000;

const missing = whyNoLoopDevices() ?? whyNoThrottle();
if (missing !== undefined) console.log(`late writes are not tested here: ${missing}`);

/**
 * The second data plane on a primary waits a minute for the lock before it is refused, also at a
 * creation: run by hand with EP_SLOW=1.
 */
const withSlow = process.env['EP_SLOW'] === '1';

const services: Service[] = [];

afterEach(async (context) => {
  if (context.task.result?.state === 'fail') {
    for (const one of services) console.log(one.output, one.dataPlaneLog);
  }
  Throttle.removeAll();
  for (const one of services.splice(0)) await one.stop();
  LoopFileSystem.removeAll();
});

/** A service that may use the disks as places of primaries. */
async function startService(...roots: string[]): Promise<Service> {
  const service = new Service();
  services.push(service);
  await service.start({
    EVERPOINT_ROOTS: [service.folder, ...roots].join(':'),
    EVERPOINT_SEGMENT_BYTES: `${8 * MIB}`,
  });
  return service;
}

function groupOn(
  primary: string,
  name: string,
  more: Record<string, unknown> = {},
): Record<string, unknown> {
  return {
    name,
    ...more,
    volumes: [
      {
        name: 'vda',
        primary: { kind: 'file', path: primary, sizeBytes: SIZE, create: !existsSync(primary) },
        baseline: 'none',
        exports: [{ kind: 'vhost-user-blk', queues: 2 }],
      },
    ],
  };
}

/** Bytes that a loop device has written so far, whoever sent them. */
function bytesWritten(disk: LoopFileSystem): number {
  const fields = readFileSync(`/sys/block/${basename(disk.device)}/stat`, 'utf8').trim();
  return Number(fields.split(/\s+/)[6]) * 512;
}

/** Pid under which a file's flock was taken; its process may be gone. */
function lockedBy(path: string): number | undefined {
  const inode = statSync(path).ino;
  const line = readFileSync('/proc/locks', 'utf8')
    .split('\n')
    .find((text) => text.includes('FLOCK') && text.includes(`:${inode} `));
  return line === undefined ? undefined : Number(line.trim().split(/\s+/)[4]);
}

/** What the log may not change any more: sealed segments, by their files. */
async function sealedSums(service: Service, group: string): Promise<Map<string, string>> {
  const files = (await service.segmentFiles(group)).filter((one) => one.sealed);
  return new Map(files.map(({ path }) => [path, sha256(path)]));
}

const sha256 = (path: string): string =>
  createHash('sha256').update(readFileSync(path)).digest('hex');

interface Killed {
  running: Service;
  group: GroupBody;
  primary: string;
  frontEnd: FrontEnd;
  /** Landed after the kill, and before another data plane had the lock of the primary. */
  lateBytes: number;
  /** From the kill until its process was gone, with all threads. */
  deadMs: number;
  /** From the kill until its lock of the primary was gone: its requests hold it, also after that. */
  lockOfTheDeadMs: number;
  /** From the kill until the group was open again. */
  backMs: number;
}

/** Load, then a slow device, then SIGKILL of the data plane with writes under way. */
async function killWithWritesUnderWay(
  slow: 'primary' | 'secondary',
  keepFrontEnd: boolean,
): Promise<Killed> {
  const disk = LoopFileSystem.make({ sizeBytes: 1024 * MIB });
  const running = await startService(disk.path);
  const primary = join(slow === 'primary' ? disk.path : running.folder, 'primary.raw');
  // Whole blocks, all written before: only such writes go on without a thread of their process, which
  // is then really gone. (Others keep threads of the killed one, and all its files, until they end.)
  writeFileSync(primary, Buffer.alloc(SIZE), { flush: true });
  const more: Record<string, unknown> = {};
  if (slow === 'secondary') {
    const path = join(disk.path, 'secondary');
    await running.post('/v1/devices', { path, name: 'slow' });
    more['devices'] = ['slow'];
  }
  const group = await running.post<GroupBody>('/v1/groups', groupOn(primary, 'late', more));
  const frontEnd = new FrontEnd([
    ...['run', '--socket', group.volumes[0]!.exports[0]!.path, '--queues', '2', '--depth', '32'],
    ...['--seed', `${SEED}`, '--ops', `${1 << 29}`, '--max-bytes', '64k', '--align', '4096'],
    ...['--journal', join(running.folder, 'journal.bin'), '--no-error-tolerance'],
    ...['--mix', slow === 'primary' ? 'write=100' : 'write=85,flush=15', '--request-timeout', '60'],
    ...(keepFrontEnd ? ['--reconnect', '--final-check'] : []),
  ]);
  await frontEnd.waitFor('started');
  await sleep(500);
  const throttle = new Throttle();
  throttle.add(running.dataPlanePid());
  throttle.limit(disk.deviceNumber, { writeBytes: SLOW[slow] });
  // Until the queues are full of requests that wait for the device.
  await sleep(400);

  const pid = running.dataPlanePid();
  if (!keepFrontEnd) frontEnd.kill();
  const killedAt = performance.now();
  process.kill(pid, 'SIGKILL');
  const atKill = bytesWritten(disk);
  let [lateBytes, deadMs, lockOfTheDeadMs] = [0, 0, 0];
  let watching = true;
  const watched = (async () => {
    for (; watching; await sleep(10)) {
      const now = performance.now() - killedAt;
      if (deadMs === 0 && !existsSync(`/proc/${pid}`)) deadMs = now;
      // The last look while the dead one's lock stood: what landed before anyone could recover.
      if (lockedBy(primary) !== pid) continue;
      lateBytes = bytesWritten(disk) - atKill;
      lockOfTheDeadMs = now;
    }
  })();
  let now: GroupBody | undefined;
  try {
    const isOpen = async (): Promise<boolean> => {
      now = await running.group(group.id).catch(() => undefined);
      return now?.state === 'protected' && running.dataPlanePid() !== pid;
    };
    await until('the group is open again', isOpen, 60_000, 20);
  } catch (error) {
    const where = `${now?.state} (${now?.reason}), data plane ${running.dataPlanePid()}, was ${pid}`;
    throw new Error(`${where}, lock held by ${lockedBy(primary)}`, { cause: error });
  } finally {
    watching = false;
    await watched;
  }
  return {
    ...{ running, group, primary, frontEnd, lateBytes, deadMs, lockOfTheDeadMs },
    backMs: performance.now() - killedAt,
  };
}

/** Log and primary are the same, and stay what they are. */
async function staysEqual(running: Service, group: GroupBody, primary: string): Promise<number> {
  const first = sha256(primary);
  const sealed = await sealedSums(running, group.id);
  const { lsn, files } = await running.restore(group.id, 'latest', ['vda'], 'at-once');
  const atOnce = firstDifference(readFileSync(files[0]!), readFileSync(primary));
  expect(atOnce, 'right after the recovery').toBeUndefined();
  await sleep(WATCH_MS);
  expect(sha256(primary), `the primary, ${WATCH_MS} ms later`).toBe(first);
  const now = await sealedSums(running, group.id);
  for (const [file, sum] of sealed) expect(now.get(file), file).toBe(sum);
  const later = await running.restore(group.id, 'latest', ['vda'], 'later');
  const difference = firstDifference(readFileSync(later.files[0]!), readFileSync(primary));
  expect(difference, `${WATCH_MS} ms later`).toBeUndefined();
  return lsn;
}

describe.skipIf(missing !== undefined)('writes under way when the data plane is killed', () => {
  it(`land on the primary before recovery begins, and never after it, seed ${SEED}`, async () => {
    const killed = await killWithWritesUnderWay('primary', false);
    const { running, group, primary, lateBytes } = killed;
    await killed.frontEnd.ended;
    // Else the device was not slow enough for this to prove anything.
    expect(lateBytes).toBeGreaterThan(256 << 10);
    expect(killed.lockOfTheDeadMs).toBeGreaterThan(1_000);
    const lsn = await staysEqual(running, group, primary);
    expect(await running.gaps(group.id)).toEqual([]);
    console.log(inWords(killed), `equal at LSN ${lsn}`);
  });

  it(`do not undo what the front-end sends again, seed ${SEED}`, async () => {
    const killed = await killWithWritesUnderWay('primary', true);
    const { running, group, primary, frontEnd } = killed;
    await frontEnd.waitFor('reconnected', 60_000);
    await sleep(500);
    frontEnd.send('stop');
    const end = await frontEnd.ended;
    expect(end.code, `${end.errors}\n${JSON.stringify(end.lines.slice(-4))}`).toBe(0);
    expect(end.lines.at(-1)).toMatchObject({ event: 'done', ok: true, errors: 0 });
    expect(killed.lateBytes).toBeGreaterThan(256 << 10);
    expect(killed.lockOfTheDeadMs).toBeGreaterThan(1_000);
    const lsn = await staysEqual(running, group, primary);
    const again = String(end.lines.at(-1)!['resubmitted']);
    console.log(inWords(killed), `${again} requests resubmitted; equal at LSN ${lsn}`);
  });

  it(`do not change the log once it was recovered, seed ${SEED}`, async () => {
    const killed = await killWithWritesUnderWay('secondary', false);
    const { running, group, primary } = killed;
    await killed.frontEnd.ended;
    expect(killed.backMs).toBeGreaterThan(1_000);
    expect((await sealedSums(running, group.id)).size).toBeGreaterThan(0);
    const lsn = await staysEqual(running, group, primary);
    console.log('secondary:', inWords(killed), `equal at LSN ${lsn}`);
  });
});

function inWords({ running, lateBytes, deadMs, lockOfTheDeadMs, backMs }: Killed): string {
  const seconds = (ms: number): string => `${(ms / 1000).toFixed(1)} s`;
  const waited = /waiting for the lock of \S+ held by [^"\n]*/.exec(running.dataPlaneLog)?.[0];
  return (
    `dead ${seconds(deadMs)} after the kill, its lock of the primary gone after ` +
    `${seconds(lockOfTheDeadMs)}, ${(lateBytes / 1024).toFixed(0)} KiB landed until then; ` +
    `open again after ${seconds(backMs)};${waited === undefined ? '' : ` "${waited}";`}`
  );
}

describe('a second data plane', () => {
  it('is refused on a state folder that another one holds, and names it', async () => {
    const running = await startService();
    const main = join(ROOT, 'dist/data-plane/host/main.js');
    const child = spawn(process.execPath, [main, '--state', running.state, '--log', 'stderr'], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    let said = '';
    child.stderr.on('data', (chunk: Buffer) => (said += chunk.toString()));
    const code = await new Promise((resolve) => child.once('close', resolve));
    expect(code, said).toBe(EXIT_LOCKED);
    expect(said).toContain(`another data plane (pid ${running.dataPlanePid()}) holds`);
    expect((await running.info()).dataPlane.state).toBe('up');
  });

  it.runIf(withSlow)(
    'is refused on a primary that another one serves, and says who does',
    async () => {
      const first = await startService();
      const { primaries } = await first.createGroup('owner', [{ name: 'vda', sizeBytes: SIZE }]);
      const second = await startService(first.folder);
      const begin = performance.now();
      // A lock is waited for: its holder may be ending just now.
      const body = groupOn(primaries[0]!, 'thief');
      const answer = await second.call('POST', '/v1/groups', body, 90_000);
      const seconds = (performance.now() - begin) / 1000;
      console.log(`refused after ${seconds.toFixed(1)} s: ${answer.status} ${answer.text}`);
      expect(answer.status).toBe(409);
      expect(answer.text).toContain(primaries[0]!);
      expect(answer.text).toContain(`${first.dataPlanePid()}`);
      expect(await second.get<GroupBody[]>('/v1/groups')).toEqual([]);
      expect((await first.group('owner')).state).toBe('protected');
    },
  );
});
