// SPDX-License-Identifier: Apache-2.0

import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { afterEach, describe, expect, it } from 'vitest';

import { startGuest } from '../support/guest/guest.js';
import { buildDiskLoad } from '../support/guest/initramfs.js';
import {
  loadCheckArgs,
  loadJob,
  type LoadOptions,
  parseLoad,
  seededRandom,
} from '../support/guest/jobs.js';
import { FrontEnd, type FrontEndEnd } from '../support/oracle/front-end.js';
import {
  firstDifference,
  type LogEntry,
  matchLog,
  readJournal,
  readLog,
  Replay,
} from '../support/oracle/model.js';
import { type GroupBody, Service, until } from '../support/service.js';

// The data plane is killed again and again under load, its primaries slow and answering out of
// order, and started again by the control plane each time.
// By hand: EP_KILLS=20 EP_GUEST_BOOTS=3 EP_GUEST_KILLS=5 EP_TEST_SEED=1 EP_LOG_BUFFER=file

const numberFrom = (name: string, standard: number): number =>
  Number(process.env[name] ?? standard);
const SEED = numberFrom('EP_TEST_SEED', 20_260_302);
const KILLS = numberFrom('EP_KILLS', 6);
const GUEST_BOOTS = numberFrom('EP_GUEST_BOOTS', 1);
const GUEST_KILLS = numberFrom('EP_GUEST_KILLS', 2);
const MIB = 1 << 20;

const SIZES = [8 * MIB, 6 * MIB + 1024];
const VOLUMES = ['vda', 'vdb'];
const SETTINGS = {
  EVERPOINT_SEGMENT_BYTES: `${8 * MIB}`,
  EVERPOINT_TEST_PRIMARY_DELAY_US: `200,6000,${SEED}`,
};

/** `file`: the groups' log buffers are files on the disk below os.tmpdir(). Default: tmpfs. */
const LOG_BUFFER = process.env['EP_LOG_BUFFER'] ?? 'tmpfs';
if (!['tmpfs', 'file'].includes(LOG_BUFFER)) throw new Error('EP_LOG_BUFFER: tmpfs or file');

/** What a group is made with for that. */
function buffered(running: Service): Record<string, unknown> {
  if (LOG_BUFFER === 'tmpfs') return {};
  return { logBuffer: { kind: 'file', path: join(running.folder, 'log-buffer') } };
}

let service: Service | undefined;

afterEach(async (context) => {
  if (context.task.result?.state === 'fail' && service !== undefined) {
    console.log(service.output, service.dataPlaneLog);
  }
  await service?.stop();
  service = undefined;
});

async function start(environment: Record<string, string> = SETTINGS): Promise<Service> {
  service = await Service.start({ environment });
  return service;
}

function startLoad(sockets: readonly string[], journal: string, more: readonly string[]): FrontEnd {
  return new FrontEnd([
    'run',
    ...sockets.flatMap((socket) => ['--socket', socket]),
    ...['--queues', '2', '--depth', '4', '--seed', `${SEED}`, '--ops', `${1 << 29}`, '--hot'],
    ...['--max-bytes', '64k', '--journal', journal, '--reconnect', '--no-error-tolerance'],
    ...['--mix', 'read=15,write=65,flush=6,discard=7,write_zeroes=6,get_id=1'],
    ...more,
  ]);
}

function kindly(end: FrontEndEnd): string {
  return `${end.errors}\n${end.lines
    .slice(-8)
    .map((line) => JSON.stringify(line))
    .join('\n')}`;
}

/** `flush: primary` with `ack: both`, so that each mode of both is tried. */
const MODES = [
  { ack: 'primary', flush: 'both', kills: Math.ceil((KILLS * 2) / 3) },
  { ack: 'both', flush: 'primary', kills: Math.floor(KILLS / 3) },
];

describe('kill -9 of the data plane under the load of a front-end', () => {
  it.each(MODES)(
    `loses nothing and runs nothing twice, $kills kills, ack $ack, flush $flush, seed ${SEED}`,
    async ({ kills, ...mode }) => {
      const running = await start();
      const random = seededRandom(SEED);
      const { group, sockets, primaries } = await running.createGroup(
        'crash',
        VOLUMES.map((name, index) => ({ name, sizeBytes: SIZES[index]!, queues: 2 })),
        { ...mode, ...buffered(running) },
      );
      const journalPath = join(running.folder, 'journal.bin');
      const frontEnd = startLoad(sockets, journalPath, ['--final-check']);
      await frontEnd.waitFor('started');

      const backMs: number[] = [];
      for (let kill = 0; kill < kills; kill += 1) {
        await sleep(200 + 500 * random());
        const before = frontEnd.count('reconnected');
        backMs.push(Math.round(await running.killDataPlane()));
        await until('both volumes are back', () => {
          if (frontEnd.last('failure') !== undefined) throw new Error('the front-end failed');
          return frontEnd.count('reconnected') >= before + VOLUMES.length;
        });
        // Now and then it dies again before it has got through what was in flight.
        if (random() < 0.3) await sleep(5 + 20 * random());
        else await sleep(300);
      }
      frontEnd.send('stop');
      const end = await frontEnd.ended;
      expect(end.code, kindly(end)).toBe(0);
      const done = end.lines.at(-1) as Record<string, number>;
      expect(done).toMatchObject({ event: 'done', ok: true, errors: 0 });
      expect(done['reconnects']).toBeGreaterThanOrEqual(kills * VOLUMES.length);
      // Else the in-flight area was not put to the test.
      expect(done['outOfOrder']).toBeGreaterThan(100);
      expect(done['resubmitted']).toBeGreaterThan(kills);

      const status = await until('the group answers', async () => {
        const now = await running.group(group.id);
        return now.state === 'protected' && now;
      });
      expect(status.reason).toBe('');
      expect(await running.gaps(group.id)).toEqual([]);

      const figures = await judge(running, group, journalPath, primaries, kills);
      const downs = end.lines.filter((line) => line.event === 'reconnected');
      console.log(
        `seed ${SEED}, ack ${mode.ack}, buffer ${LOG_BUFFER}: ${kills} kills, a new process after ${backMs.join(', ')} ms, front-end ` +
          `without a disk for ${downs.map((line) => String(line['downMs'])).join(', ')} ms; ` +
          `${done['completed']} requests, ${done['outOfOrder']} completed out of order, ` +
          `${done['resubmitted']} in flight at a kill, ${figures}`,
      );
      // A second is promised; other tests may be running beside this one.
      expect(Math.max(...backMs)).toBeLessThan(3_000);
    },
    60_000 + KILLS * 15_000,
  );

  it(`leaves log and primaries equal when the front-end dies with it, seed ${SEED}`, async () => {
    // Nobody resubmits then: what the log has and the primary has not must be redone.
    const running = await start();
    const random = seededRandom(SEED);
    const { group, sockets, primaries } = await running.createGroup(
      'both-die',
      VOLUMES.map((name, index) => ({ name, sizeBytes: SIZES[index]!, queues: 2 })),
      buffered(running),
    );
    const lsns: number[] = [];
    for (let round = 0; round < Math.max(3, KILLS / 2); round += 1) {
      const journal = join(running.folder, `journal-${round}.bin`);
      const more = ['--first-id', `${1 + round * 1_000_000}`, '--initial', 'unknown'];
      const frontEnd = startLoad(sockets, journal, [...more, '--depth', '16']);
      await frontEnd.waitFor('started');
      await sleep(300 + 400 * random());
      frontEnd.kill();
      await running.killDataPlane();
      await frontEnd.ended;
      await until('the group is open', async () => {
        const now = await running.group(group.id);
        return now.state === 'protected';
      });
      const { lsn, files } = await running.restore(group.id, 'latest', VOLUMES, `round-${round}`);
      lsns.push(lsn);
      for (const [volume, file] of files.entries()) {
        const primary = readFileSync(primaries[volume]!);
        const difference = firstDifference(readFileSync(file), primary);
        expect(difference, `primary of ${VOLUMES[volume]}, round ${round}`).toBeUndefined();
      }
    }
    expect(await running.gaps(group.id)).toEqual([]);
    const entries = readLog(await running.segmentFiles(group.id));
    expect(entries.filter((entry) => entry.damagedSector !== undefined)).toEqual([]);
    expect(entries.map((entry) => entry.lsn)).toEqual(entries.map((_, index) => index + 1));
    console.log(`seed ${SEED}: both killed ${lsns.length} times, at LSN ${lsns.join(', ')}`);
  });

  it('is found out when requests in flight are not resubmitted', async () => {
    const running = await start({ ...SETTINGS, EVERPOINT_TEST_RESUBMIT: 'off' });
    const { sockets } = await running.createGroup(
      'lost',
      VOLUMES.map((name, index) => ({ name, sizeBytes: SIZES[index]!, queues: 2 })),
    );
    const journalPath = join(running.folder, 'journal.bin');
    const frontEnd = startLoad(sockets, journalPath, ['--request-timeout', '2']);
    await frontEnd.waitFor('started');
    for (let kill = 0; kill < 5 && frontEnd.last('failure') === undefined; kill += 1) {
      await sleep(500);
      const before = frontEnd.count('reconnected');
      await running.killDataPlane();
      await until(
        'both volumes are back, or it failed',
        () =>
          frontEnd.last('failure') !== undefined ||
          frontEnd.count('reconnected') >= before + VOLUMES.length,
      );
      await Promise.race([frontEnd.ended, sleep(3_500)]);
    }
    if (frontEnd.last('failure') === undefined) frontEnd.send('stop');
    const end = await frontEnd.ended;
    expect(end.code).toBe(1);
    const failures = end.lines.filter((line) => line.event === 'failure');
    console.log(`without resubmission: ${failures.map((line) => String(line['what'])).join('; ')}`);
    expect(failures.map((line) => line['what']).join('\n')).toMatch(
      /requests without an answer|never completed|not in flight/,
    );
  });
});

/** Log, journal, primaries and restores must all tell the same story. @returns figures, in words */
async function judge(
  running: Service,
  group: GroupBody,
  journalPath: string,
  primaries: readonly string[],
  kills: number,
): Promise<string> {
  const latest = await running.restore(group.id, 'latest', VOLUMES, 'latest');
  const journal = readJournal(journalPath);
  expect(journal.complete).toBe(true);
  const entries = readLog(await running.segmentFiles(group.id));
  expect(entries.at(-1)!.lsn).toBe(latest.lsn);
  const match = matchLog(entries, journal, { kills });
  expect(match.problems).toEqual([]);

  const ends = lastOfEpochs(entries);
  expect(ends.length).toBeGreaterThanOrEqual(kills);
  const restores = [latest];
  for (const lsn of pickSome(ends.slice(0, -1), 4)) {
    restores.push(await running.restore(group.id, `lsn:${lsn}`, VOLUMES, `epoch-${lsn}`));
  }
  const replay = new Replay(entries, match, journal, SIZES);
  for (const restored of restores.sort((a, b) => a.lsn - b.lsn)) {
    replay.to(restored.lsn);
    for (const [volume, file] of restored.files.entries()) {
      const difference = firstDifference(replay.volumes[volume]!, readFileSync(file));
      expect(difference, `${VOLUMES[volume]} at LSN ${restored.lsn}`).toBeUndefined();
    }
  }
  for (const [volume, primary] of primaries.entries()) {
    const difference = firstDifference(replay.volumes[volume]!, readFileSync(primary));
    expect(difference, `primary of ${VOLUMES[volume]}`).toBeUndefined();
  }
  return (
    `${entries.length} entries (${match.again} a second time) in ${ends.length} epochs, ` +
    `${restores.length} restores and both primaries as the model has them`
  );
}

function lastOfEpochs(entries: readonly LogEntry[]): number[] {
  return entries
    .filter((entry, index) => entry.epoch !== entries[index + 1]?.epoch)
    .map((entry) => entry.lsn);
}

function pickSome(from: readonly number[], count: number): number[] {
  const step = Math.max(1, Math.floor(from.length / count));
  return from.filter((_, index) => index % step === 0).slice(0, count);
}

describe('kill -9 of the data plane under a guest', () => {
  for (let boot = 0; boot < GUEST_BOOTS; boot += 1) {
    it(
      `shows the guest no error, boot ${boot + 1}, ${GUEST_KILLS} kills, seed ${SEED + boot}`,
      async () => {
        await guestUnderKills(SEED + boot);
      },
      180_000 + GUEST_KILLS * 20_000,
    );
  }
});

async function guestUnderKills(seed: number): Promise<void> {
  const running = await start();
  const random = seededRandom(seed);
  const { group, sockets, primaries } = await running.createGroup(
    'guest',
    [{ name: 'vda', sizeBytes: 32 * MIB, queues: 2 }],
    buffered(running),
  );
  const load: LoadOptions = {
    device: '/dev/vda',
    bytes: 24 * MIB,
    seed,
    threads: 6,
    seconds: 6 + 4 * GUEST_KILLS,
    flushEvery: 16,
    tickMs: 200,
  };
  const guest = await startGuest({
    disks: [{ socket: sockets[0]!, queues: 2 }],
    script: loadJob(load),
  });
  try {
    await guest.waitForLine(/^flushed /, 90_000);
    for (let kill = 0; kill < GUEST_KILLS; kill += 1) {
      await sleep(500 + 1000 * random());
      const from = guest.lines.length;
      await running.killDataPlane();
      // It goes on before it is killed again.
      await guest.waitForLine(/^flushed /, 30_000, from);
    }
    const exit = await guest.exited;
    const job = guest.lines.filter((line) => line.from === 'job').map((line) => line.text);
    const told = guest.lines.slice(-20).map((line) => `${line.from}: ${line.text}`);
    const progress = parseLoad(job);
    expect(exit.exitCode, told.join('\n')).toBe(0);
    expect(progress.errors).toEqual([]);
    expect(progress.ended).toBe(true);
    const kernel = guest.lines.filter((line) => line.from === 'console');
    expect(kernel.filter((line) => /I\/O error|blk_update_request/.test(line.text))).toEqual([]);

    const { files } = await running.restore(group.id, 'latest', ['vda'], 'restored');
    expect(firstDifference(readFileSync(primaries[0]!), readFileSync(files[0]!))).toBeUndefined();
    const check = loadCheckArgs({ ...load, device: files[0]! }, progress.flushed);
    const said = execFileSync(buildDiskLoad(), check, { encoding: 'utf8' });
    const gaps = await running.gaps(group.id);
    expect(gaps).toEqual([]);
    console.log(
      `seed ${seed}: ${guest.accel} guest, ${GUEST_KILLS} kills, ${progress.ops} requests, the ` +
        `longest ${Math.round(progress.longestMs)} ms; restored disk: ${said.trim().split('\n').at(-1)}`,
    );
  } finally {
    guest.kill();
    await guest.exited;
  }
}
