// SPDX-License-Identifier: Apache-2.0

import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { afterEach, describe, expect, it } from 'vitest';

import { FrontEnd, type FrontEndLine, runFrontEnd } from '../support/oracle/front-end.js';
import {
  firstDifference,
  matchLog,
  readJournal,
  readLog,
  Replay,
} from '../support/oracle/model.js';
import { Service } from '../support/service.js';

// Hostile front-ends against one disk of a real service, while another group's disk is worked on and
// checked, and a third is asked after every attack whether it still lives.
// By hand: EP_HOSTILE=all EP_HOSTILE_ROUNDS=50 EP_TEST_SEED=1

const SEED = Number(process.env['EP_TEST_SEED'] ?? 20_260_304);
const ALL = process.env['EP_HOSTILE'] === 'all';
const ROUNDS = Number(process.env['EP_HOSTILE_ROUNDS'] ?? (ALL ? 20 : 3));
const MIB = 1 << 20;

/** Of each kind at least one; all of them run in the fuzz suite, on a build with sanitizers. */
const SOME = [
  ...['next_loop', 'header_writable', 'status_missing', 'write_data_writable', 'buffer_past_end'],
  ...['indirect_nested', 'indirect_loop', 'write_over_end', 'sector_overflow', 'odd_write'],
  ...['discard_many_segments', 'discard_overflow', 'write_zeroes_past_end', 'half_header'],
  ...['huge_size', 'wrong_payload_size', 'missing_fds', 'ring_size_0', 'ring_outside'],
  ...['ring_index_255', 'ring_base_65535', 'close_in_the_middle', 'mem_table_short_file'],
  ...['mem_table_wraps', 'truncate_data_in_flight', 'truncate_rings_in_flight'],
  ...['inflight_short_file', 'inflight_garbage', 'inflight_truncated', 'avail_idx_jump'],
  ...['avail_head_out_of_range', 'head_many_times', 'descriptor_changes', 'close_in_flight'],
  ...['fuzz_messages', 'fuzz_set_up', 'fuzz_descriptors', 'fuzz_rings'],
];

let service: Service | undefined;

afterEach(async (context) => {
  if (context.task.result?.state === 'fail' && service !== undefined) {
    console.log(service.output, service.dataPlaneLog.slice(-8000));
  }
  await service?.stop();
  service = undefined;
});

describe('a hostile front-end', () => {
  it(
    `harms nobody but itself (${ALL ? 'all attacks' : `${SOME.length} attacks`}, seed ${SEED})`,
    async () => {
      const running = (service = await Service.start());
      const disk = (sizeBytes: number) => [{ name: 'vda', sizeBytes, queues: 2 }];
      const victim = await running.createGroup('victim', disk(16 * MIB));
      const bystander = await running.createGroup('bystander', disk(4 * MIB));
      const worker = await running.createGroup('worker', disk(16 * MIB));
      const dataPlane = running.dataPlanePid();

      const journalPath = join(running.folder, 'journal.bin');
      const frontEnd = new FrontEnd([
        ...['run', '--socket', worker.sockets[0]!, '--queues', '2', '--depth', '4', '--hot'],
        ...['--seed', `${SEED}`, '--ops', `${1 << 29}`, '--max-bytes', '32k'],
        ...['--journal', journalPath, '--no-error-tolerance', '--final-check'],
      ]);
      await frontEnd.waitFor('started');

      const results = await attack(victim.sockets[0]!, bystander.sockets[0]!);
      frontEnd.send('stop');
      const end = await frontEnd.ended;
      expect(end.code, `${end.errors}\n${JSON.stringify(end.lines.slice(-4))}`).toBe(0);

      expect(results.filter((one) => one['ok'] !== true)).toEqual([]);
      expect(results.length).toBeGreaterThanOrEqual(ALL ? 100 : SOME.length);
      expect(running.dataPlanePid()).toBe(dataPlane);
      const info = await running.info();
      expect(info.dataPlane).toMatchObject({ state: 'up', pid: dataPlane });

      // Every disk's history still is its primary, the victim's too: what was refused changed nothing.
      for (const { group, primaries } of [victim, bystander, worker]) {
        const now = await running.group(group.id);
        expect(now).toMatchObject({ state: 'protected', reason: '' });
        const name = `restored-${group.name}`;
        const { files } = await running.restore(group.id, 'latest', ['vda'], name);
        const difference = firstDifference(readFileSync(primaries[0]!), readFileSync(files[0]!));
        expect(difference, name).toBeUndefined();
      }
      const journal = readJournal(journalPath);
      const entries = readLog(await running.segmentFiles(worker.group.id));
      const match = matchLog(entries, journal);
      expect(match.problems).toEqual([]);
      const replay = new Replay(entries, match, journal, [16 * MIB]).to(Number.MAX_SAFE_INTEGER);
      const primary = readFileSync(worker.primaries[0]!);
      expect(firstDifference(replay.volumes[0]!, primary)).toBeUndefined();

      const outcomes = new Map<string, number>();
      for (const { outcome } of results) {
        outcomes.set(String(outcome), (outcomes.get(String(outcome)) ?? 0) + 1);
      }
      const inWords = [...outcomes].map(([name, count]) => `${count} ${name}`).join(', ');
      console.log(
        `seed ${SEED}: ${results.length} attacks (${inWords}), meanwhile ` +
          `${journal.requests.length} checked requests on another disk`,
      );
    },
    ALL ? 1_200_000 : 180_000,
  );
});

/** One line per attack. */
async function attack(victim: string, bystander: string): Promise<FrontEndLine[]> {
  const results: FrontEndLine[] = [];
  for (const name of ALL ? ['all'] : SOME) {
    const { errors, lines } = await runFrontEnd([
      ...['hostile', '--socket', victim, '--probe', bystander, '--attack', name],
      ...['--seed', `${SEED}`, '--rounds', `${ROUNDS}`],
    ]);
    const found = lines.filter((line) => 'attack' in line);
    // Silence is no success.
    if (found.length === 0) results.push({ attack: name, ok: false, outcome: errors });
    results.push(...found);
  }
  return results;
}
