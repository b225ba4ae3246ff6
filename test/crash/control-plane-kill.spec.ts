// SPDX-License-Identifier: Apache-2.0

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { afterEach, describe, expect, it } from 'vitest';

import { FrontEnd, runFrontEnd } from '../support/oracle/front-end.js';
import {
  firstDifference,
  matchLog,
  readJournal,
  readLog,
  Replay,
} from '../support/oracle/model.js';
import {
  type GroupBody,
  isAlive,
  type JobBody,
  type MadeGroup,
  type MarkerBody,
  Service,
  until,
} from '../support/service.js';

// The control plane is killed under load and started again: guests must not notice, and what it was
// doing must be taken up again. By hand: EP_CONTROL_KILLS=10 EP_TEST_SEED=1

const numberFrom = (name: string, standard: number): number =>
  Number(process.env[name] ?? standard);
const SEED = numberFrom('EP_TEST_SEED', 20_260_303);
const KILLS = numberFrom('EP_CONTROL_KILLS', 2);
const MIB = 1 << 20;
/** "No pause": far above what a disk takes on a busy machine, below what anybody's restart takes. */
const LATENCY_MS_MAX = 1_000;
const VOLUMES = ['vda', 'vdb'];
const SIZES = [16 * MIB, 16 * MIB];

let service: Service | undefined;

afterEach(async (context) => {
  if (context.task.result?.state === 'fail' && service !== undefined) {
    console.log(service.output, service.dataPlaneLog);
  }
  await service?.stop();
  service = undefined;
});

interface LoadResult {
  requests: number;
  errors: number;
  latency_us: { p50: number; p99: number; max: number };
}

/** The load generator's one line: it times every single request. */
async function load(socket: string, seconds: number): Promise<LoadResult> {
  const { code, errors, lines } = await runFrontEnd([
    ...['load', '--socket', socket, '--rw', 'randwrite', '--bs', '4k', '--depth', '4'],
    ...['--seconds', `${seconds}`, '--warmup', '0', '--seed', `${SEED}`],
  ]);
  expect(code, errors).toBe(0);
  return lines.at(-1) as unknown as LoadResult;
}

describe('kill -9 of the control plane under load', () => {
  it(
    `pauses no disk, and everything is taken up again, ${KILLS} kills, seed ${SEED}`,
    async () => {
      const environment = { EVERPOINT_SEGMENT_BYTES: `${8 * MIB}` };
      const running = (service = await Service.start({ environment }));
      const timed = await running.createGroup('timed', [{ name: 'vda', sizeBytes: 32 * MIB }]);
      const checked = await running.createGroup(
        'checked',
        VOLUMES.map((name, index) => ({ name, sizeBytes: SIZES[index]!, queues: 2 })),
      );
      const checkedUrl = `/v1/groups/${checked.group.id}`;
      const calm = await load(timed.sockets[0]!, 3);

      const journalPath = join(running.folder, 'journal.bin');
      const frontEnd = new FrontEnd([
        'run',
        ...checked.sockets.flatMap((socket) => ['--socket', socket]),
        ...['--queues', '2', '--depth', '1', '--seed', `${SEED}`, '--ops', `${1 << 29}`],
        ...['--max-bytes', '16k', '--hot', '--journal', journalPath, '--no-error-tolerance'],
        ...['--final-check', '--mix', 'read=20,write=60,flush=10,discard=5,write_zeroes=5'],
        // No --reconnect: a back-end that goes away is a failure.
      ]);
      await frontEnd.waitFor('started');
      const dataPlane = running.dataPlanePid();
      const underKills = load(timed.sockets[0]!, 3 + KILLS * 4);

      const jobs: { id: string; lsn: number; files: string[] }[] = [];
      const marks: MarkerBody[] = [];
      for (let kill = 0; kill < KILLS; kill += 1) {
        await sleep(700);
        marks.push(await running.mark(checked.group.id, `before kill ${kill}`));
        jobs.push(await startRestore(running, checkedUrl, `job-${kill}`));
        await running.killControlPlane();
        expect(isAlive(dataPlane)).toBe(true);
        // Segments fill up and are sealed while nobody listens.
        await sleep(500);
        await running.start();
        expect(running.dataPlanePid()).toBe(dataPlane);
        const info = await running.info();
        expect(info.dataPlane).toMatchObject({ state: 'up', pid: dataPlane });
        const groups = await running.list<GroupBody>('/v1/groups');
        expect(groups.map((group) => [group.name, group.state]).sort()).toEqual([
          ['checked', 'protected'],
          ['timed', 'protected'],
        ]);
        // The same sockets, and the front-ends still behind them.
        const again = groups.find((group) => group.name === 'checked')!;
        expect(again.volumes.map((volume) => volume.exports[0]?.path)).toEqual(checked.sockets);
        expect(again.volumes.map((volume) => volume.exports[0]?.connected)).toEqual([true, true]);
        marks.push(await running.mark(checked.group.id, `after kill ${kill}`));
      }
      const shaken = await underKills;
      frontEnd.send('stop');
      const end = await frontEnd.ended;
      expect(end.code, `${end.errors}\n${JSON.stringify(end.lines.slice(-4))}`).toBe(0);
      expect(end.lines.at(-1)).toMatchObject({ ok: true, errors: 0, reconnects: 0 });

      console.log(
        `seed ${SEED}: ${KILLS} kills; latency of ${calm.requests} writes undisturbed ` +
          `${inWords(calm)}, of ${shaken.requests} writes under kills ${inWords(shaken)}; ` +
          `${String(end.lines.at(-1)?.['completed'])} checked requests`,
      );
      expect(shaken.errors).toBe(0);
      expect(shaken.latency_us.max / 1000).toBeLessThan(LATENCY_MS_MAX);

      await everySegmentIsMapped(running, checked.group);
      await everySegmentIsMapped(running, timed.group);
      const listed = await running.get<MarkerBody[]>(`${checkedUrl}/markers`);
      expect(listed).toMatchObject(marks.map(({ label, lsn }) => ({ label, lsn })));

      await judge(running, checked, journalPath, jobs);
      const other = await running.restore(timed.group.id, 'latest', ['vda'], 'timed');
      const [primary] = timed.primaries;
      const difference = firstDifference(readFileSync(primary!), readFileSync(other.files[0]!));
      expect(difference).toBeUndefined();
    },
    90_000 + KILLS * 30_000,
  );
});

const inWords = ({ latency_us: { p50, p99, max } }: LoadResult): string =>
  `${(p50 / 1000).toFixed(2)} ms (median), ${(p99 / 1000).toFixed(2)} (p99), ${(max / 1000).toFixed(1)} (max)`;

/** A restore that is asked for and not waited for. */
async function startRestore(
  running: Service,
  url: string,
  name: string,
): Promise<{ id: string; lsn: number; files: string[] }> {
  const { lsn } = await running.get<{ lsn: number }>(`${url}/resolve?at=latest`);
  const targets = VOLUMES.map((volume) => ({
    volume,
    path: join(running.folder, `${name}-${volume}.raw`),
  }));
  const job = await running.post<JobBody>(`${url}/restores`, { at: `lsn:${lsn}`, targets });
  return { id: job.id, lsn, files: targets.map((target) => target.path) };
}

async function everySegmentIsMapped(running: Service, group: GroupBody): Promise<void> {
  await until('every sealed segment has a map', async () => {
    const segments = await running.segments(group.id);
    const sealed = segments.filter((one) => one.state === 'sealed');
    return sealed.length > 0 && sealed.every((one) => one.mapped);
  });
}

async function judge(
  running: Service,
  { group, primaries }: MadeGroup,
  journalPath: string,
  jobs: readonly { id: string; lsn: number; files: string[] }[],
): Promise<void> {
  const restores = [...jobs];
  for (const { id } of jobs) {
    const job = await running.jobEnd(id);
    expect(job.state, JSON.stringify(job)).toBe('done');
  }
  const latest = await running.restore(group.id, 'latest', VOLUMES, 'latest');
  restores.push({ id: '', ...latest });
  const journal = readJournal(journalPath);
  const entries = readLog(await running.segmentFiles(group.id));
  const match = matchLog(entries, journal);
  expect(match.problems).toEqual([]);
  // One epoch: the data plane never stopped.
  expect(entries.every((entry) => entry.epoch === 1)).toBe(true);
  const replay = new Replay(entries, match, journal, SIZES);
  for (const { lsn, files } of restores) {
    replay.to(lsn);
    for (const [volume, file] of files.entries()) {
      const difference = firstDifference(replay.volumes[volume]!, readFileSync(file));
      expect(difference, `${file} at LSN ${lsn}`).toBeUndefined();
    }
  }
  for (const [volume, primary] of primaries.entries()) {
    const difference = firstDifference(replay.volumes[volume]!, readFileSync(primary));
    expect(difference, primary).toBeUndefined();
  }
}
