// SPDX-License-Identifier: Apache-2.0

/**
 * The oracle: what a group's history must be, from what the front-end says it did (its journal) and
 * from the order that the log gives. Naive on purpose: plain byte arrays, one entry at a time, and
 * the DATA is the pattern's, not the log's, so a log that lost, mixed or invented bytes is found out.
 */

import { readFileSync } from 'node:fs';

import { EntryType } from '../../../src/maps/segment/format.js';
import { SegmentFile, type SegmentLabel } from '../../../src/maps/segment/reader.js';
import { fillRequest, readStamp, SECTOR_BYTES, sectorMatches, type Stamp } from './pattern.js';

/** Request types of virtio-blk, as the journal has them. */
export const BlkType = {
  read: 0,
  write: 1,
  flush: 4,
  getId: 8,
  discard: 11,
  writeZeroes: 13,
} as const;

const STATUS_OK = 0;
/** A request that never completed was given no status. */
const STATUS_PENDING = 255;
const FLAG_UNMAP = 1;
const FLAG_RESUBMITTED = 2;
/** After every tick: a request without a completion may take effect at any later time. */
const NEVER = Number.MAX_SAFE_INTEGER;
/** More problems than these help nobody. */
const PROBLEMS_MAX = 20;

export interface JournalRequest {
  id: number;
  type: number;
  status: number;
  volume: number;
  queue: number;
  offset: number;
  length: number;
  submitTick: number;
  /** `NEVER` (the largest safe integer) when it did not complete. */
  completeTick: number;
  unmap: boolean;
  /** Its back-end died while it was in flight. */
  resubmitted: boolean;
}

export interface Journal {
  seed: number;
  /** The run drained: every request is final. */
  complete: boolean;
  requests: JournalRequest[];
}

/** Reads what `everpoint-front-end run --journal` wrote; its README has the layout. */
export function readJournal(path: string): Journal {
  const file = readFileSync(path);
  if (file.toString('latin1', 0, 8) !== 'EPJOURN1' || file.readUInt32LE(8) !== 1) {
    throw new Error(`${path} is no journal of version 1`);
  }
  const [header, record] = [file.readUInt32LE(12), file.readUInt32LE(16)];
  const firstId = file.readUInt32LE(24);
  const requests: JournalRequest[] = [];
  for (let at = header; at + record <= file.length; at += record) {
    const flags = file.readUInt32LE(at + 28);
    const completeTick = file.readUInt32LE(at + 24);
    requests.push({
      id: file.readUInt32LE(at),
      type: file.readUInt8(at + 4),
      status: file.readUInt8(at + 5),
      volume: file.readUInt8(at + 6),
      queue: file.readUInt8(at + 7),
      offset: Number(file.readBigUInt64LE(at + 8)),
      length: file.readUInt32LE(at + 16),
      submitTick: file.readUInt32LE(at + 20),
      completeTick: completeTick === 0 ? NEVER : completeTick,
      unmap: (flags & FLAG_UNMAP) !== 0,
      resubmitted: (flags & FLAG_RESUBMITTED) !== 0,
    });
  }
  const hole = requests.findIndex((one, index) => one.id !== firstId + index);
  if (hole >= 0) throw new Error(`${path}: record ${hole} has id ${requests[hole]?.id}`);
  return { seed: file.readUInt32LE(20), complete: file.readUInt32LE(36) === 1, requests };
}

export interface LogEntry {
  lsn: number;
  timeNs: bigint;
  epoch: number;
  type: number;
  flags: number;
  volume: number;
  /** Bytes; of a flush entry the LSN up to which writes were complete, in `completeThrough`. */
  offset: number;
  length: number;
  completeThrough?: number;
  label?: SegmentLabel;
  /** Of a write: who wrote its first sector; nothing where the data has no stamp. */
  stamp?: Stamp;
  /** Of a write: first sector that is not the pattern's. */
  damagedSector?: number;
}

/** The log, entry by entry, payloads read and compared with the pattern of their first stamp. */
export function readLog(segments: readonly { path: string; sealed: boolean }[]): LogEntry[] {
  return segments.flatMap(({ path, sealed }) => {
    const file = SegmentFile.open(path, { expectSealed: sealed });
    try {
      return readSegmentEntries(file);
    } finally {
      file.close();
    }
  });
}

function readSegmentEntries(file: SegmentFile): LogEntry[] {
  const rows = file.readEntries();
  const labels = new Map(file.readLabels(rows).map((label) => [label.lsn, label]));
  const entries: LogEntry[] = [];
  for (let i = 0; i < rows.count; i += 1) {
    const type = rows.type[i]!;
    const lsn = rows.lsn(i);
    const entry: LogEntry = {
      lsn,
      timeNs: rows.timeNs[i]!,
      epoch: file.header.epoch,
      type,
      flags: rows.flags[i]!,
      volume: rows.volume[i]!,
      offset: rows.sector[i]! * SECTOR_BYTES,
      length: rows.sectors[i]! * SECTOR_BYTES,
    };
    if (type === EntryType.flush) entry.completeThrough = rows.sector[i]!;
    if (labels.has(lsn)) entry.label = labels.get(lsn)!;
    if (type === EntryType.write) readStamps(entry, file.readPayloadVerified(rows, i));
    entries.push(entry);
  }
  return entries;
}

function readStamps(entry: LogEntry, payload: Buffer): void {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  const stamp = readStamp(view, 0);
  if (stamp === undefined) return;
  entry.stamp = stamp;
  const sectors = payload.byteLength / SECTOR_BYTES;
  for (let i = 0; i < sectors; i += 1) {
    if (sectorMatches(view, i * SECTOR_BYTES, stamp.seed, stamp.id, stamp.sector + i)) continue;
    entry.damagedSector = i;
    return;
  }
}

export interface MatchOptions {
  /** How often the back-end was killed: so often a request in flight may have been logged again. */
  kills?: number;
}

export interface MatchResult {
  /** In words; none: the log is one that this journal allows. */
  problems: string[];
  /** The request of each entry, by index; nothing for markers, geometry and what does not match. */
  requests: (JournalRequest | undefined)[];
  /** Entries beyond the first of a request that was logged again after a kill. */
  again: number;
}

/**
 * Finds each entry's request and judges the whole: every request that completed appears, once (or
 * again where a kill found it in flight); none appears that was not submitted; and there is an order
 * in time that both the log and the front-end's ticks allow, so a request that was submitted after
 * another one completed never stands before it.
 */
export function matchLog(
  entries: readonly LogEntry[],
  journal: Journal,
  options: MatchOptions = {},
): MatchResult {
  return new Matcher(entries, journal, options.kills ?? 0).run();
}

class Matcher {
  readonly #entries: readonly LogEntry[];
  readonly #journal: Journal;
  readonly #kills: number;
  readonly #problems: string[] = [];
  readonly #requests: (JournalRequest | undefined)[];
  readonly #byId = new Map<number, JournalRequest>();
  #again = 0;

  constructor(entries: readonly LogEntry[], journal: Journal, kills: number) {
    this.#entries = entries;
    this.#journal = journal;
    this.#kills = kills;
    this.#requests = new Array<JournalRequest | undefined>(entries.length).fill(undefined);
    for (const request of journal.requests) this.#byId.set(request.id, request);
  }

  run(): MatchResult {
    this.#checkOrder();
    this.#matchWrites();
    this.#matchRest();
    this.#checkTime();
    const problems = this.#problems.slice(0, PROBLEMS_MAX);
    const left = this.#problems.length - problems.length;
    if (left > 0) problems.push(`and ${left} more`);
    return { problems, requests: this.#requests, again: this.#again };
  }

  #problem(text: string): void {
    this.#problems.push(text);
  }

  #checkOrder(): void {
    for (const [i, entry] of this.#entries.entries()) {
      const before = this.#entries[i - 1];
      if (entry.completeThrough !== undefined && entry.completeThrough >= entry.lsn) {
        this.#problem(`flush ${entry.lsn} says that ${entry.completeThrough} was complete`);
      }
      if (before === undefined) continue;
      if (entry.lsn !== before.lsn + 1) {
        this.#problem(`LSN ${entry.lsn} follows LSN ${before.lsn}`);
      }
      if (entry.timeNs <= before.timeNs)
        this.#problem(`the time of LSN ${entry.lsn} does not rise`);
      if (entry.epoch < before.epoch) this.#problem(`the epoch of LSN ${entry.lsn} goes back`);
    }
  }

  /** Writes name their request. A long one may be several entries, its first sector first. */
  #matchWrites(): void {
    const progress = new Map<number, { attempts: number; next: number; epoch: number }>();
    for (const [i, entry] of this.#entries.entries()) {
      if (entry.type !== EntryType.write) continue;
      const request = this.#requestOfWrite(entry);
      if (request === undefined) continue;
      this.#requests[i] = request;
      const sector = entry.stamp!.sector;
      const state = progress.get(request.id) ?? { attempts: 0, next: 0, epoch: -1 };
      progress.set(request.id, state);
      if (sector === 0) {
        state.attempts += 1;
        if (state.attempts > 1) this.#again += 1;
        if (state.epoch === entry.epoch) {
          this.#problem(`LSN ${entry.lsn}: write ${request.id} ran twice in one epoch`);
        }
        state.epoch = entry.epoch;
      } else if (sector !== state.next) {
        this.#problem(`LSN ${entry.lsn}: sector ${sector} of write ${request.id} is out of turn`);
      }
      state.next = sector + entry.length / SECTOR_BYTES;
    }
    for (const request of this.#journal.requests) {
      if (request.type !== BlkType.write) continue;
      const { attempts, next } = progress.get(request.id) ?? { attempts: 0, next: 0 };
      const most = request.resubmitted ? 1 + this.#kills : 1;
      if (attempts > most) {
        this.#problem(`write ${request.id} stands ${attempts} times in the log`);
      }
      if (request.status === STATUS_OK && next !== request.length / SECTOR_BYTES) {
        this.#problem(
          `write ${request.id} completed, the log has ${next * SECTOR_BYTES} bytes of it`,
        );
      }
      if (request.status !== STATUS_OK && request.status !== STATUS_PENDING && attempts > 0) {
        this.#problem(`write ${request.id} was refused, and logged`);
      }
    }
  }

  #requestOfWrite(entry: LogEntry): JournalRequest | undefined {
    const { lsn, stamp } = entry;
    const request = stamp?.seed === this.#journal.seed ? this.#byId.get(stamp.id) : undefined;
    if (stamp === undefined || request?.type !== BlkType.write) {
      this.#problem(`LSN ${lsn} holds data that nobody wrote`);
      return undefined;
    }
    if (entry.damagedSector !== undefined) {
      this.#problem(`LSN ${lsn}: sector ${entry.damagedSector} of write ${stamp.id} is damaged`);
    }
    const offset = request.offset + stamp.sector * SECTOR_BYTES;
    const end = request.offset + request.length;
    if (
      entry.volume !== request.volume ||
      entry.offset !== offset ||
      offset + entry.length > end ||
      entry.flags !== 0
    ) {
      this.#problem(`LSN ${lsn} puts write ${request.id} where it does not belong`);
    }
    return request;
  }

  /**
   * Requests without data look alike: which entry is whose follows from when each can have run.
   * Those that are one of a kind are settled first; then time is walked along the log, and each
   * entry gets the request that has to be next. As many entries as there are more than requests
   * stand for a second run.
   */
  #matchRest(): void {
    const alike = new Map<string, Alike>();
    for (const request of this.#journal.requests) {
      const type = ENTRY_OF_BLK[request.type];
      if (type === undefined) continue;
      const key = `${type} ${request.volume} ${request.offset} ${request.length}`;
      const known = alike.get(key) ?? new Alike(this.#kills);
      known.add(request);
      alike.set(key, known);
    }
    const kinds = this.#entries.map((entry) => {
      const range = entry.type === EntryType.flush ? '0 0' : `${entry.offset} ${entry.length}`;
      return alike.get(`${entry.type} ${entry.volume} ${range}`);
    });
    for (const [i, kind] of kinds.entries()) kind?.expect(i);
    for (const [i, entry] of this.#entries.entries()) {
      if (kinds[i]?.only !== undefined) this.#requests[i] = kinds[i].take(entry.epoch, ANY_TIME);
    }
    this.#walk(kinds);
    for (const one of alike.values()) {
      this.#again += one.again;
      for (const request of one.missing()) {
        this.#problem(`request ${request.id} (type ${request.type}) completed, the log has it not`);
      }
    }
  }

  #walk(kinds: readonly (Alike | undefined)[]): void {
    const windows = this.#windows();
    let now = 0;
    for (const [i, entry] of this.#entries.entries()) {
      const kind = kinds[i];
      if (NAME_OF_ENTRY[entry.type] === undefined) {
        this.#checkOther(entry);
      } else if (this.#requests[i] === undefined) {
        const next = kind?.entryAfter(i);
        const urgent = next === undefined ? NEVER : windows[next]!.from;
        const { from, to } = windows[i]!;
        this.#requests[i] = kind?.take(entry.epoch, { from, to, now, urgent });
        if (this.#requests[i] === undefined) {
          const what = `${NAME_OF_ENTRY[entry.type]} ${entry.offset} ${entry.length}`;
          this.#problem(`LSN ${entry.lsn} (${what}) is no request that was open then`);
        }
      }
      now = Math.max(now, this.#requests[i]?.submitTick ?? 0);
    }
  }

  #checkOther(entry: LogEntry): void {
    const known: number[] = [EntryType.write, EntryType.marker, EntryType.geometry];
    if (!known.includes(entry.type)) this.#problem(`LSN ${entry.lsn} has type ${entry.type}`);
  }

  /** For each entry the ticks between which it must have happened, by those settled around it. */
  #windows(): { from: number; to: number }[] {
    const windows = this.#entries.map(() => ({ from: 0, to: NEVER }));
    let from = 0;
    for (const [i, window] of windows.entries()) {
      from = Math.max(from, this.#requests[i]?.submitTick ?? 0);
      window.from = from;
    }
    let to = NEVER;
    for (let i = windows.length - 1; i >= 0; i -= 1) {
      to = Math.min(to, this.#requests[i]?.completeTick ?? NEVER);
      windows[i]!.to = to;
    }
    return windows;
  }

  /** No entry may stand behind one whose request was submitted only after its own had completed. */
  #checkTime(): void {
    let newest: JournalRequest | undefined;
    for (const [i, entry] of this.#entries.entries()) {
      const request = this.#requests[i];
      if (request === undefined) continue;
      if (newest !== undefined && newest.submitTick > request.completeTick) {
        this.#problem(
          `LSN ${entry.lsn}: request ${describe(request)} had completed before request ` +
            `${describe(newest)}, which the log has before it, was submitted`,
        );
      }
      if (newest === undefined || request.submitTick > newest.submitTick) newest = request;
    }
  }
}

const ENTRY_OF_BLK: Readonly<Record<number, number>> = {
  [BlkType.flush]: EntryType.flush,
  [BlkType.discard]: EntryType.discard,
  [BlkType.writeZeroes]: EntryType.writeZeroes,
};
const describe = ({ id, type, resubmitted }: JournalRequest): string =>
  `${id} (type ${type}${resubmitted ? ', in flight at a kill' : ''})`;

const NAME_OF_ENTRY: Readonly<Record<number, string>> = {
  [EntryType.flush]: 'flush',
  [EntryType.discard]: 'discard',
  [EntryType.writeZeroes]: 'write-zeroes',
};

/** What is known of the tick at which an entry was made. */
interface Moment {
  /** By the requests that are settled for sure, before and behind. */
  from: number;
  to: number;
  /** By those before, as far as they were settled. */
  now: number;
  /** What has completed by this tick fits no later entry of its kind. */
  urgent: number;
}

const ANY_TIME: Moment = { from: 0, to: NEVER, now: 0, urgent: 0 };

/** Requests of one type, volume and range: only their times tell one from the other. */
class Alike {
  /** Entries that stand for a run after a kill. */
  again = 0;
  readonly #kills: number;
  readonly #all: JournalRequest[] = [];
  /** Those that may still get an entry, the one that ends first last. */
  readonly #open: JournalRequest[] = [];
  /** How many entries a request has, and the epoch of the newest. */
  readonly #seen = new Map<JournalRequest, { times: number; epoch: number }>();
  readonly #entries: number[] = [];
  #sorted = false;
  #entriesTaken = 0;
  #requestsLeft = 0;

  constructor(kills: number) {
    this.#kills = kills;
  }

  /** The request, where there is but one. */
  get only(): JournalRequest | undefined {
    return this.#all.length === 1 ? this.#all[0] : undefined;
  }

  add(request: JournalRequest): void {
    this.#all.push(request);
    if (request.status !== STATUS_OK && request.status !== STATUS_PENDING) return;
    this.#open.push(request);
    if (request.status === STATUS_OK) this.#requestsLeft += 1;
  }

  /** Names an entry of this kind, by its place in the log; all of them before the first `take`. */
  expect(index: number): void {
    this.#entries.push(index);
  }

  /** The next entry of this kind behind the one that is to be taken now. */
  entryAfter(index: number): number | undefined {
    const next = this.#entries[this.#entriesTaken + 1];
    return next !== undefined && next > index ? next : undefined;
  }

  /**
   * Of those that were open then: one that fits no later entry; else, of those already submitted,
   * the one that ended first; else the one that was submitted first.
   */
  take(epoch: number, moment: Moment): JournalRequest | undefined {
    if (!this.#sorted) this.#open.sort((a, b) => b.completeTick - a.completeTick);
    this.#sorted = true;
    const earliest = Math.max(moment.from, moment.now);
    // Time only moves on, so what ended before fits no later entry either.
    while ((this.#open.at(-1)?.completeTick ?? NEVER) < earliest) this.#open.pop();
    const mayBeAgain = this.#entries.length - this.#entriesTaken > this.#requestsLeft;
    this.#entriesTaken += 1;
    let best = -1;
    for (let i = this.#open.length - 1; i >= 0; i -= 1) {
      const one = this.#open[i]!;
      if (one.submitTick > moment.to) continue;
      const seen = this.#seen.get(one);
      // Nothing runs twice in the life of one back-end.
      if (seen !== undefined && (!mayBeAgain || seen.epoch === epoch || seen.times > this.#kills)) {
        continue;
      }
      if (best < 0 || one.submitTick < this.#open[best]!.submitTick) best = i;
      if (one.completeTick < moment.urgent || one.submitTick <= moment.now) {
        best = i;
        break;
      }
    }
    return best < 0 ? undefined : this.#give(best, epoch);
  }

  #give(index: number, epoch: number): JournalRequest {
    const one = this.#open[index]!;
    const seen = this.#seen.get(one);
    if (seen !== undefined) this.again += 1;
    else if (one.status === STATUS_OK) this.#requestsLeft -= 1;
    this.#seen.set(one, { times: (seen?.times ?? 0) + 1, epoch });
    // One that cannot come again is out of the way.
    if (!one.resubmitted) this.#open.splice(index, 1);
    return one;
  }

  /** Those that completed and got no entry; to be asked at the end. */
  missing(): JournalRequest[] {
    return this.#all.filter((one) => one.status === STATUS_OK && !this.#seen.has(one));
  }
}

/** The volumes of a group as plain bytes, moved on entry by entry. */
export class Replay {
  readonly volumes: readonly Buffer[];
  readonly #entries: readonly LogEntry[];
  readonly #match: MatchResult;
  readonly #seed: number;
  #next = 0;

  constructor(
    entries: readonly LogEntry[],
    match: MatchResult,
    journal: Journal,
    sizes: readonly number[],
  ) {
    this.#entries = entries;
    this.#match = match;
    this.#seed = journal.seed;
    this.volumes = sizes.map((bytes) => Buffer.alloc(bytes));
  }

  /** Applies everything up to and with `lsn`; it only goes forward. */
  to(lsn: number): this {
    for (; this.#next < this.#entries.length; this.#next += 1) {
      const entry = this.#entries[this.#next]!;
      if (entry.lsn > lsn) break;
      this.#apply(entry, this.#match.requests[this.#next]);
    }
    return this;
  }

  #apply(entry: LogEntry, request: JournalRequest | undefined): void {
    const volume = this.volumes[entry.volume];
    const range = volume?.subarray(entry.offset, entry.offset + entry.length);
    switch (entry.type) {
      case EntryType.write: {
        if (request === undefined || range?.length !== entry.length) {
          throw new Error(`LSN ${entry.lsn} cannot be replayed`);
        }
        const sector = (entry.offset - request.offset) / SECTOR_BYTES;
        fillRequest(range, this.#seed, request.id, sector);
        return;
      }
      case EntryType.discard:
      case EntryType.writeZeroes:
        if (range?.length !== entry.length) throw new Error(`LSN ${entry.lsn} cannot be replayed`);
        range.fill(0);
        return;
      default:
        return;
    }
  }
}

/** Where two volumes differ first, in words; nothing when they are equal. */
export function firstDifference(expected: Buffer, found: Buffer): string | undefined {
  if (expected.length !== found.length) return `${found.length} bytes, not ${expected.length}`;
  if (expected.equals(found)) return undefined;
  for (let at = 0; at < expected.length; at += SECTOR_BYTES) {
    const want = expected.subarray(at, at + SECTOR_BYTES);
    const have = found.subarray(at, at + SECTOR_BYTES);
    if (!want.equals(have)) {
      return `byte ${at}: ${describeSector(have)} in the place of ${describeSector(want)}`;
    }
  }
  return 'they differ';
}

function describeSector(sector: Buffer): string {
  if (sector.every((byte) => byte === 0)) return 'zeroes';
  const stamp = readStamp(new DataView(sector.buffer, sector.byteOffset, sector.byteLength), 0);
  return stamp === undefined ? 'unknown data' : `write ${stamp.id} sector ${stamp.sector}`;
}
