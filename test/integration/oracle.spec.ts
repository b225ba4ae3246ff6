// SPDX-License-Identifier: Apache-2.0

import { mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { afterEach, describe, expect, it } from 'vitest';

import { formatTime } from '../../src/common/time.js';
import { EntryType } from '../../src/maps/segment/format.js';
import { seededRandom } from '../support/guest/jobs.js';
import { FrontEnd } from '../support/oracle/front-end.js';
import {
  firstDifference,
  type LogEntry,
  matchLog,
  readJournal,
  readLog,
  Replay,
} from '../support/oracle/model.js';
import { type GroupBody, type MarkerBody, Service } from '../support/service.js';

// A random workload over the vhost-user sockets of two volumes of a real service, markers placed in
// the middle of it; then restores at many points, each compared byte for byte with the model.
// By hand: EP_ORACLE_LSNS=200 EP_ORACLE_OPS=20000 EP_ORACLE_SEEDS=3 EP_TEST_SEED=1

const numberFrom = (name: string, standard: number): number =>
  Number(process.env[name] ?? standard);
const FIRST_SEED = numberFrom('EP_TEST_SEED', 20_260_301);
const SEEDS = numberFrom('EP_ORACLE_SEEDS', 2);
const LSNS = numberFrom('EP_ORACLE_LSNS', 25);
const OPS = numberFrom('EP_ORACLE_OPS', 2_500);

/** Odd on purpose: the last sectors are no whole 4 KiB block. */
const SIZES = [12 * 1024 * 1024 + 512, 8 * 1024 * 1024 + 3 * 512];
const VOLUMES = ['vda', 'vdb'];

/** One restore: what was asked for, what was taken, and the files. */
interface Restored {
  at: string;
  lsn: number;
  files: string[];
}

let service: Service | undefined;

afterEach(async (context) => {
  if (context.task.result?.state === 'fail' && service !== undefined) {
    console.log(service.output, service.dataPlaneLog);
  }
  await service?.stop();
  service = undefined;
});

describe('the oracle', () => {
  for (let round = 0; round < SEEDS; round += 1) {
    const seed = FIRST_SEED + round;
    it(
      `restores every point as the model has it (seed ${seed})`,
      async () => {
        await new Oracle(seed).run();
      },
      120_000 + LSNS * 2_000 + OPS * 10,
    );
  }
});

class Oracle {
  readonly #seed: number;
  readonly #random: () => number;
  readonly #marks: MarkerBody[] = [];
  readonly #restored: Restored[] = [];
  #service!: Service;
  #group!: GroupBody;
  #sockets: string[] = [];
  #primaries: string[] = [];
  #folders = 0;

  constructor(seed: number) {
    this.#seed = seed;
    this.#random = seededRandom(seed);
  }

  async run(): Promise<void> {
    await this.#setUp();
    const journalPath = join(this.#service.folder, 'journal.bin');
    await this.#workload(journalPath);
    const journal = readJournal(journalPath);
    expect(journal.complete).toBe(true);

    const entries = readLog(await this.#service.segmentFiles(this.#group.id));
    const match = matchLog(entries, journal);
    expect(match.problems).toEqual([]);
    expect(match.again).toBe(0);
    await this.#restoreMany(entries);
    const unmapped = await this.#mapped();

    // The same bytes again when everything comes from maps.
    const sealed = await this.#service.post<{ mappedLsn: number }>(
      `/v1/groups/${this.#group.id}/seal`,
    );
    expect(sealed.mappedLsn).toBeGreaterThanOrEqual(entries.at(-1)!.lsn);
    for (let i = 0; i < 3; i += 1) await this.#restore(`lsn:${this.#anyLsn(entries)}`);
    await this.#restore('latest');

    const replay = new Replay(entries, match, journal, SIZES);
    this.#compare(replay);
    const last = replay.to(Number.MAX_SAFE_INTEGER);
    for (const [volume, primary] of this.#primaries.entries()) {
      const bytes = readFileSync(primary);
      expect(firstDifference(last.volumes[volume]!, bytes), `primary ${primary}`).toBeUndefined();
    }
    const counts = entries.length;
    console.log(
      `seed ${this.#seed}: ${journal.requests.length} requests, ${counts} entries, ` +
        `${this.#marks.length} markers, ${unmapped}, ${this.#restored.length} restores of ` +
        `${new Set(this.#restored.map((one) => one.lsn)).size} LSNs, all equal`,
    );
  }

  async #setUp(): Promise<void> {
    // The smallest segments there are, so that points lie in maps, sealed segments and the tail.
    service = await Service.start({ environment: { EVERPOINT_SEGMENT_BYTES: `${8 << 20}` } });
    this.#service = service;
    const volumes = VOLUMES.map((name, index) => ({ name, sizeBytes: SIZES[index]!, queues: 2 }));
    const made = await service.createGroup('oracle', volumes);
    this.#group = made.group;
    this.#sockets = made.sockets;
    this.#primaries = made.primaries;
  }

  /** Load, with markers and a few restores in the middle of it, to its checked end. */
  async #workload(journal: string): Promise<void> {
    const frontEnd = new FrontEnd([
      'run',
      ...this.#sockets.flatMap((socket) => ['--socket', socket]),
      ...['--queues', '2', '--depth', '8', '--seed', `${this.#seed}`, '--ops', `${OPS}`, '--hot'],
      ...['--journal', journal, '--no-error-tolerance', '--final-check'],
      ...['--mix', 'read=10,write=62,flush=6,discard=11,write_zeroes=10,get_id=1'],
    ]);
    let over = false;
    const ended = frontEnd.ended.finally(() => (over = true));
    await frontEnd.waitFor('started');
    for (let i = 0; !over; i += 1) {
      await this.#mark(`marker ${i}`);
      if (i % 8 === 3) await this.#restore('latest');
      if (i % 8 === 7) await this.#restore(`marker:${this.#marks.at(-2)!.label}`);
      await sleep(20 + 60 * this.#random());
    }
    const { code, errors, lines } = await ended;
    expect(code, `${errors}\n${JSON.stringify(lines.slice(-5))}`).toBe(0);
    expect(this.#marks.length).toBeGreaterThan(2);
  }

  async #mark(label: string): Promise<void> {
    this.#marks.push(await this.#service.mark(this.#group.id, label));
  }

  async #restore(at: string): Promise<Restored> {
    const folder = join(this.#service.folder, `restore-${this.#folders}`);
    this.#folders += 1;
    mkdirSync(folder);
    const id = this.#group.id;
    const name = join(`restore-${this.#folders - 1}`, 'disk');
    const { lsn, files } = await this.#service.restore(id, at, VOLUMES, name);
    const restored = { at, lsn, files };
    this.#restored.push(restored);
    return restored;
  }

  #anyLsn(entries: readonly LogEntry[]): number {
    // From the second on: before it the group has no second volume.
    return entries[1 + Math.floor(this.#random() * (entries.length - 1))]!.lsn;
  }

  async #restoreMany(entries: readonly LogEntry[]): Promise<void> {
    const last = entries.at(-1)!;
    expect((await this.#restore('latest')).lsn).toBe(last.lsn);
    expect((await this.#restore(`lsn:${entries[1]!.lsn}`)).lsn).toBe(entries[1]!.lsn);
    const inTail = entries.length - 1 - Math.floor(this.#random() * 5);
    expect((await this.#restore(`lsn:${entries[inTail]!.lsn}`)).lsn).toBe(entries[inTail]!.lsn);

    const marksInLog = entries.filter((entry) => entry.label?.kind === 'marker');
    expect(marksInLog.map((entry) => entry.lsn)).toEqual(this.#marks.map((mark) => mark.lsn));
    for (let i = 0; i < 3; i += 1) {
      const mark = this.#marks[Math.floor(this.#random() * this.#marks.length)]!;
      const entry = marksInLog.find((one) => one.lsn === mark.lsn)!;
      expect(formatTime(entry.timeNs)).toBe(mark.time);
      expect((await this.#restore(`marker:${mark.label}`)).lsn).toBe(mark.lsn);
    }
    for (let i = 0; i < 4; i += 1) {
      // A time means the last entry that is not later: on an entry's own, or just before the next.
      const at = 1 + Math.floor(this.#random() * (entries.length - 2));
      const between = i % 2 === 0 ? entries[at]!.timeNs : entries[at + 1]!.timeNs - 1n;
      expect((await this.#restore(formatTime(between))).lsn).toBe(entries[at]!.lsn);
    }
    while (new Set(this.#restored.map((one) => one.lsn)).size < LSNS) {
      const lsn = this.#anyLsn(entries);
      expect((await this.#restore(`lsn:${lsn}`)).lsn).toBe(lsn);
    }
  }

  async #mapped(): Promise<string> {
    const segments = await this.#service.segments(this.#group.id);
    const mapped = segments.filter((one) => one.mapped).length;
    // Otherwise it was tested less than meant: neither maps nor the tail may be missing.
    expect(mapped).toBeGreaterThan(2);
    expect(segments.at(-1)!.state).toBe('active');
    expect(segments.at(-1)!.entries).toBeGreaterThan(0);
    return `${segments.length} segments (${mapped} mapped)`;
  }

  #compare(replay: Replay): void {
    const order = [...this.#restored].sort((a, b) => a.lsn - b.lsn);
    for (const { at, lsn, files } of order) {
      replay.to(lsn);
      for (const [volume, file] of files.entries()) {
        const difference = firstDifference(replay.volumes[volume]!, readFileSync(file));
        const what = `seed ${this.#seed}, ${VOLUMES[volume]} at ${at} (LSN ${lsn})`;
        expect(difference, what).toBeUndefined();
        rmSync(file);
      }
    }
  }
}

describe('the entry types of the log', () => {
  it('are those that the model knows', () => {
    // A new type needs a word in the model, or the oracle would be blind to it.
    expect(Object.keys(EntryType).sort()).toEqual([
      'discard',
      'error',
      'flush',
      'gap',
      'geometry',
      'marker',
      'unknown',
      'write',
      'writeZeroes',
    ]);
  });
});
