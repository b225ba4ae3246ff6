// SPDX-License-Identifier: Apache-2.0

import { describe, expect, it } from 'vitest';

import { EntryType } from '../../../src/maps/segment/format.js';
import {
  BlkType,
  firstDifference,
  type Journal,
  type JournalRequest,
  type LogEntry,
  matchLog,
  Replay,
} from './model.js';
import { fillRequest } from './pattern.js';

// The oracle must not be blind: each fault of a log that it is there for is made here by hand.

const SEED = 5;

function request(id: number, type: number, change: Partial<JournalRequest> = {}): JournalRequest {
  const hasRange = type !== BlkType.flush;
  return {
    id,
    type,
    status: 0,
    volume: 0,
    queue: 0,
    offset: hasRange ? 1024 * id : 0,
    length: hasRange ? 1024 : 0,
    submitTick: 10 * id,
    completeTick: 10 * id + 5,
    unmap: false,
    resubmitted: false,
    ...change,
  };
}

function entry(lsn: number, of: JournalRequest, change: Partial<LogEntry> = {}): LogEntry {
  const types: Record<number, number> = {
    [BlkType.write]: EntryType.write,
    [BlkType.flush]: EntryType.flush,
    [BlkType.discard]: EntryType.discard,
    [BlkType.writeZeroes]: EntryType.writeZeroes,
  };
  return {
    lsn,
    timeNs: BigInt(lsn),
    epoch: 1,
    type: types[of.type]!,
    flags: 0,
    volume: of.volume,
    offset: of.offset,
    length: of.length,
    ...(of.type === BlkType.write && { stamp: { id: of.id, sector: 0, seed: SEED } }),
    ...change,
  };
}

const journalOf = (...requests: JournalRequest[]): Journal => ({
  seed: SEED,
  complete: true,
  requests,
});

const write1 = request(1, BlkType.write);
const zeroes2 = request(2, BlkType.writeZeroes);
const flush3 = request(3, BlkType.flush);
const discard4 = request(4, BlkType.discard);
const write5 = request(5, BlkType.write, { offset: 1536, length: 2048 });
const all = [write1, zeroes2, flush3, discard4, write5];
const good = all.map((one, index) => entry(index + 1, one));

function problems(entries: LogEntry[], requests: JournalRequest[] = all, kills = 0): string {
  return matchLog(entries, journalOf(...requests), { kills }).problems.join('\n');
}

describe('the judgement of a log', () => {
  it('finds nothing wrong with a good one', () => {
    const match = matchLog(good, journalOf(...all));
    expect(match.problems).toEqual([]);
    expect(match.requests).toEqual(all);
    expect(match.again).toBe(0);
  });

  it('allows any order of requests that were open at the same time', () => {
    const slow = request(1, BlkType.write, { completeTick: 100 });
    const requests = [slow, zeroes2, flush3, discard4, write5];
    const order = [zeroes2, flush3, discard4, write5, slow];
    expect(
      problems(
        order.map((one, index) => entry(index + 1, one)),
        requests,
      ),
    ).toBe('');
  });

  it('finds an order that the front-end excludes', () => {
    const order = [zeroes2, write1, flush3, discard4, write5];
    const found = problems(order.map((one, index) => entry(index + 1, one)));
    // The zeroes were submitted when the write had completed.
    expect(found).toMatch(/request 1 \(type 1\) had completed before request 2/);
    const late = [write5, zeroes2, flush3, discard4, write1];
    expect(problems(late.map((one, index) => entry(index + 1, one)))).not.toBe('');
    const flushes = [flush3, write1, zeroes2, discard4, write5];
    expect(problems(flushes.map((one, index) => entry(index + 1, one)))).not.toBe('');
  });

  it('finds what is missing', () => {
    for (let gone = 0; gone < all.length; gone += 1) {
      const rest = all.filter((_, index) => index !== gone);
      const found = problems(rest.map((one, index) => entry(index + 1, one)));
      expect(found, `without ${gone}`).toMatch(/completed/);
    }
  });

  it('finds what nobody submitted', () => {
    const foreign = request(9, BlkType.write);
    expect(problems([...good, entry(6, foreign)])).toMatch(/nobody wrote/);
    expect(problems([...good, entry(6, request(9, BlkType.discard))])).toMatch(/no request/);
    expect(problems([...good, entry(6, flush3)])).toMatch(/no request that was open/);
    expect(problems([...good, entry(6, write1, { type: EntryType.unknown })])).toMatch(/type 8/);
    const elsewhere = good.map((one, index) => (index === 0 ? { ...one, offset: 512 } : one));
    expect(problems(elsewhere)).toMatch(/does not belong/);
    const refused = all.map((one) => (one === write1 ? { ...one, status: 1 } : one));
    expect(problems(good, refused)).toMatch(/was refused, and logged/);
  });

  it('finds damaged data, a torn write, a used LSN and a clock that goes back', () => {
    const damaged = good.map((one, i) => (i === 4 ? { ...one, damagedSector: 2 } : one));
    expect(problems(damaged)).toMatch(/sector 2 of write 5 is damaged/);
    const torn = good.map((one, i) => (i === 4 ? { ...one, length: 1024 } : one));
    expect(problems(torn)).toMatch(/write 5 completed, the log has 1024 bytes/);
    const twice = good.map((one, i) => (i === 3 ? { ...one, lsn: 3 } : one));
    expect(problems(twice)).toMatch(/LSN 3 follows LSN 3/);
    const back = good.map((one, i) => (i === 3 ? { ...one, timeNs: 1n } : one));
    expect(problems(back)).toMatch(/time of LSN 4/);
  });

  it('allows a request to come again only when a kill found it in flight', () => {
    /** The log with entry `index` once more behind itself, the back-end having died between. */
    const twice = (index: number, epoch = 2): LogEntry[] =>
      [...good.slice(0, index + 1), ...good.slice(index).map((one) => ({ ...one, epoch }))].map(
        (one, i) => ({ ...one, lsn: i + 1, timeNs: BigInt(i + 1) }),
      );
    const inFlight = (index: number): JournalRequest[] =>
      all.map((one, i) => (i === index ? { ...one, resubmitted: true } : one));
    for (const index of all.keys()) {
      expect(problems(twice(index), all, 1), `${index}`).toMatch(
        /2 times|no request that was open/,
      );
      expect(problems(twice(index), inFlight(index), 1), `${index}`).toBe('');
      expect(matchLog(twice(index), journalOf(...inFlight(index)), { kills: 1 }).again).toBe(1);
      expect(problems(twice(index), inFlight(index), 0), `${index}`).not.toBe('');
      expect(problems(twice(index, 1), inFlight(index), 1)).toMatch(/twice in one|no request that/);
    }
  });

  it('tells a flush that ran again from the one after it', () => {
    const first = request(3, BlkType.flush, { resubmitted: true, completeTick: 60 });
    const second = request(7, BlkType.flush);
    const write8 = request(8, BlkType.write);
    const order: [JournalRequest, number][] = [
      [write1, 1],
      [first, 1],
      [first, 2],
      [second, 2],
      [write8, 2],
    ];
    const entries = order.map(([one, epoch], i) => entry(i + 1, one, { epoch }));
    const match = matchLog(entries, journalOf(write1, first, second, write8), { kills: 1 });
    expect(match.problems).toEqual([]);
    expect(match.requests.map((one) => one?.id)).toEqual([1, 3, 3, 7, 8]);
  });

  it('tells a slow flush from quick ones that overtake it, whatever their order', () => {
    const slow = request(1, BlkType.flush, { submitTick: 1, completeTick: 100 });
    const quick = [3, 5, 7].map((id) => request(id, BlkType.flush));
    const writes = [2, 4, 6].map((id) => request(id, BlkType.write));
    for (const place of [0, 1, 2, 3]) {
      const order = [writes[0]!, quick[0]!, writes[1]!, quick[1]!, writes[2]!, quick[2]!];
      order.splice(2 * place, 0, slow);
      const entries = order.map((one, i) => entry(i + 1, one));
      const match = matchLog(entries, journalOf(...order));
      expect(match.problems, `${place}`).toEqual([]);
    }
  });

  it('puts the parts of a long write together', () => {
    const parts = [
      ...good.slice(0, 4),
      entry(5, write5, { length: 512 }),
      entry(6, write5, {
        offset: 2048,
        length: 1536,
        stamp: { id: 5, sector: 1, seed: SEED },
      }),
    ];
    expect(problems(parts)).toBe('');
    expect(problems(parts.slice(0, 5))).toMatch(/the log has 512 bytes/);
    const swapped = [...parts.slice(0, 4), { ...parts[5]!, lsn: 5 }, { ...parts[4]!, lsn: 6 }];
    expect(problems(swapped)).toMatch(/out of turn/);
  });
});

describe('the replay', () => {
  it('has each point as the entries up to it made it', () => {
    const journal = journalOf(...all);
    const replay = new Replay(good, matchLog(good, journal), journal, [8192]);
    const expected = Buffer.alloc(8192);
    fillRequest(expected.subarray(1024, 2048), SEED, 1);
    expect(firstDifference(expected, replay.to(3).volumes[0]!)).toBeUndefined();
    fillRequest(expected.subarray(1536, 3584), SEED, 5);
    expect(firstDifference(expected, replay.to(4).volumes[0]!)).toMatch(
      /^byte 1536: write 1 sector 1 in the place of write 5 sector 0$/,
    );
    expect(firstDifference(expected, replay.to(5).volumes[0]!)).toBeUndefined();
  });
});
