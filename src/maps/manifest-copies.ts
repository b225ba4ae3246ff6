// SPDX-License-Identifier: Apache-2.0

/**
 * The manifest of a group on more than one device: equal files, each commit in all of them. A copy
 * that cannot be written stops nobody while another one can; it is made anew from the others later.
 * See "Copies" in `manifest-format.md`.
 */

import * as fsp from 'node:fs/promises';
import * as path from 'node:path';

import { errnoOf, EverpointError, toEverpointError } from '../common/errors.js';
import { ensureFolder, writeFileAtomic } from '../common/files.js';
import { MapsError } from './errors.js';
import { Manifest, parseManifest, type ManifestRecord, type ManifestState } from './manifest.js';

/** Where a copy belongs. */
export interface CopyPlace {
  readonly file: string;
  /** Why nothing may be made there now (another disk stands in the place of the device), or nothing. */
  readonly refusal: () => Promise<string | undefined>;
}

export interface CopiesOptions {
  /** How long a device may take for one commit before the copy on it is left behind. */
  readonly patienceMs?: number;
  readonly onTrouble?: (file: string, message: string) => void;
}

/** A device that takes longer hangs: the others go on without it. */
const PATIENCE_MS = 10_000;
/** Between two tries to make a copy anew. */
const HEAL_PAUSE_MS = 5_000;
const OPERATION = 'open manifest';

interface Copy {
  readonly place: CopyPlace;
  manifest: Manifest | undefined;
  /** Why it is behind; set exactly while there is no open manifest. */
  trouble: string | undefined;
  /** What a hanging device still owes: no new try before that has ended. */
  owed: Promise<unknown> | undefined;
  lookAgainAt: number;
}

/** One copy as it was found. */
interface Found {
  readonly place: CopyPlace;
  readonly bytes: Buffer;
  readonly state: ManifestState;
}

export class ManifestCopies {
  private tail: Promise<void> = Promise.resolve();
  private closed = false;

  private constructor(
    readonly group: string,
    private readonly copies: readonly Copy[],
    private readonly options: CopiesOptions,
  ) {}

  /** Makes the empty manifest of a new group everywhere. @throws ALREADY_EXISTS */
  static async create(
    places: readonly CopyPlace[],
    group: string,
    options: CopiesOptions = {},
  ): Promise<ManifestCopies> {
    const copies: Copy[] = [];
    try {
      for (const place of places)
        copies.push(upCopy(place, await Manifest.create(place.file, group)));
    } catch (error) {
      for (const { manifest, place } of copies) {
        await manifest?.close();
        await fsp.rm(place.file, { force: true });
      }
      throw error;
    }
    return new ManifestCopies(group, copies, options);
  }

  /**
   * Opens what is there, by its content the newest, and brings the other copies to it.
   * @throws NOT_FOUND when there is no copy at all, CORRUPTION when none is good, UNSUPPORTED
   */
  static async open(
    places: readonly CopyPlace[],
    group: string,
    options: CopiesOptions = {},
  ): Promise<ManifestCopies> {
    const { found, faults } = await look(places, group, options.patienceMs);
    const best = newest(found);
    if (best === undefined) throw worst(faults);
    const opened = await Manifest.open(best.place.file, group);
    const copies = places.map((place): Copy => {
      if (place === best.place) return upCopy(place, opened);
      const other = found.find((one) => one.place === place);
      const fault = faults.get(place);
      const why =
        other === undefined
          ? (fault?.message ?? 'it could not be read')
          : 'it was behind the other one';
      return { place, manifest: undefined, trouble: why, owed: undefined, lookAgainAt: 0 };
    });
    const all = new ManifestCopies(group, copies, options);
    for (const other of found) {
      if (other.place === best.place || isPrefix(other.bytes, best.bytes)) continue;
      // Written while the newest one was away: nobody may need it, but nobody can make it again.
      const { file } = other.place;
      await fsp.rename(file, `${file}.aside`).catch(() => undefined);
      all.tell(file, `it went its own way; kept as ${path.basename(file)}.aside`);
    }
    await all.heal();
    return all;
  }

  /** What the newest copy says, without changing anything. @throws as `open` */
  static async read(files: readonly string[], group: string): Promise<ManifestState> {
    const places = files.map((file) => ({ file, refusal: () => Promise.resolve(undefined) }));
    const { found, faults } = await look(places, group);
    const best = newest(found);
    if (best === undefined) throw worst(faults);
    return best.state;
  }

  get state(): ManifestState {
    return this.leader().state;
  }

  /** Why copies are behind, by file; empty when all are whole. */
  get troubles(): ReadonlyMap<string, string> {
    const troubles = new Map<string, string>();
    for (const { place, trouble } of this.copies) {
      if (trouble !== undefined) troubles.set(place.file, trouble);
    }
    return troubles;
  }

  /** Durable in at least one copy, and in all that can be written, when the promise resolves. */
  commit(records: readonly ManifestRecord[]): Promise<void> {
    if (records.length === 0) return Promise.resolve();
    return this.exclusively(async () => {
      await this.healWhatCanBe();
      const up = this.copies.filter((copy) => copy.manifest !== undefined);
      if (up.length === 0) throw this.broken();
      const results = await Promise.all(up.map((copy) => this.commitTo(copy, records)));
      const failures = results.filter((error) => error !== undefined);
      if (failures.length === up.length) throw failures[0]!;
      for (const [index, copy] of up.entries()) {
        const error = results[index];
        if (error !== undefined) await this.leaveBehind(copy, error);
      }
    });
  }

  /** Makes copies anew that are behind, as far as their devices allow. It does not throw. */
  heal(): Promise<void> {
    if (this.copies.every((copy) => copy.manifest !== undefined)) return Promise.resolve();
    return this.exclusively(() => this.healWhatCanBe()).catch(() => undefined);
  }

  async close(): Promise<void> {
    this.closed = true;
    await this.bounded(this.tail).catch(() => undefined);
    for (const { manifest, owed } of this.copies) {
      // What hangs is closed by the end of the process.
      if (owed === undefined) await manifest?.close().catch(() => undefined);
    }
  }

  private leader(): Manifest {
    const up = this.copies.find((copy) => copy.manifest !== undefined)?.manifest;
    if (up === undefined) throw this.broken();
    return up;
  }

  private broken(): MapsError {
    const [first] = this.copies;
    return new MapsError('IO_ERROR', 'no copy of the manifest can be written', {
      operation: 'commit to manifest',
      file: first?.place.file,
      hint: first?.trouble,
    });
  }

  private async commitTo(
    copy: Copy,
    records: readonly ManifestRecord[],
  ): Promise<EverpointError | undefined> {
    const work = copy.manifest!.commit(records);
    try {
      await this.bounded(work);
      return undefined;
    } catch (error) {
      if (error === HANGS) copy.owed = settled(copy, work);
      return error === HANGS
        ? hangs(copy.place.file)
        : toEverpointError(error, 'commit to manifest');
    }
  }

  private async leaveBehind(copy: Copy, error: EverpointError): Promise<void> {
    const { manifest } = copy;
    copy.manifest = undefined;
    copy.trouble = error.message;
    copy.lookAgainAt = performance.now() + HEAL_PAUSE_MS;
    this.tell(copy.place.file, error.message);
    if (copy.owed === undefined) await manifest?.close().catch(() => undefined);
    else void copy.owed.then(() => manifest?.close()).catch(() => undefined);
  }

  private async healWhatCanBe(): Promise<void> {
    for (const copy of this.copies) {
      if (copy.manifest !== undefined || copy.owed !== undefined) continue;
      if (performance.now() < copy.lookAgainAt) continue;
      const source = this.leader();
      const work = makeAnew(copy.place, source);
      try {
        copy.manifest = await this.bounded(work);
        copy.trouble = undefined;
      } catch (error) {
        if (error === HANGS) copy.owed = settled(copy, work);
        copy.trouble = error === HANGS ? hangs(copy.place.file).message : (error as Error).message;
        copy.lookAgainAt = performance.now() + HEAL_PAUSE_MS;
      }
    }
  }

  private bounded<T>(work: Promise<T>): Promise<T> {
    return within(this.options.patienceMs ?? PATIENCE_MS, work);
  }

  private tell(file: string, message: string): void {
    this.options.onTrouble?.(file, message);
  }

  private exclusively(work: () => Promise<void>): Promise<void> {
    const run = this.tail.then(async () => {
      if (this.closed) {
        throw new MapsError('IO_ERROR', 'the manifest is closed', {
          operation: 'commit to manifest',
          file: this.copies[0]?.place.file,
        });
      }
      await work();
    });
    this.tail = run.catch(() => undefined);
    return run;
  }
}

const HANGS = Symbol('it hangs');

/** Rejects with HANGS when the work takes longer; it goes on all the same. */
async function within<T>(ms: number, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors
      reject(HANGS);
    }, ms);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

function hangs(file: string): EverpointError {
  return new EverpointError('IO_ERROR', `${file}: its device does not answer`, {
    operation: 'commit to manifest',
    file,
    retryable: true,
  });
}

function upCopy(place: CopyPlace, manifest: Manifest): Copy {
  return { place, manifest, trouble: undefined, owed: undefined, lookAgainAt: 0 };
}

/** Ends what a copy owes when the work is over, one way or the other. */
function settled(copy: Copy, work: Promise<unknown>): Promise<unknown> {
  const done = () => {
    copy.owed = undefined;
  };
  return work.then(done, done);
}

async function look(
  places: readonly CopyPlace[],
  group: string,
  patienceMs = PATIENCE_MS,
): Promise<{ found: Found[]; faults: Map<CopyPlace, EverpointError> }> {
  const found: Found[] = [];
  const faults = new Map<CopyPlace, EverpointError>();
  for (const place of places) {
    try {
      const content = await within(patienceMs, fsp.readFile(place.file));
      const { fold, goodBytes } = parseManifest(content, place.file, group);
      found.push({ place, bytes: content.subarray(0, goodBytes), state: fold });
    } catch (error) {
      const fault =
        error === HANGS ? hangs(place.file) : toEverpointError(error, OPERATION, place.file);
      // Of a newer program: it is not ours to replace, nor may it be passed over.
      if (fault.code === 'UNSUPPORTED') throw fault;
      faults.set(place, fault);
    }
  }
  return { found, faults };
}

/** Damage says more than a file that is not there. */
function worst(faults: ReadonlyMap<CopyPlace, EverpointError>): EverpointError {
  const all = [...faults.values()];
  return all.find((fault) => errnoOf(fault) !== 'NOT_FOUND') ?? all[0]!;
}

/**
 * The copy with the most commits: one that the other begins with. Copies that went their own ways
 * (each was written while the other was away) differ in what they hold: the one that has more of the
 * log mapped is taken, then the longer one.
 */
function newest(found: readonly Found[]): Found | undefined {
  return found.reduce<Found | undefined>((best, one) => {
    if (best === undefined) return one;
    if (isPrefix(one.bytes, best.bytes)) return best;
    if (isPrefix(best.bytes, one.bytes)) return one;
    const more = mapped(one.state) - mapped(best.state) || one.bytes.length - best.bytes.length;
    return more > 0 ? one : best;
  }, undefined);
}

function isPrefix(short: Buffer, long: Buffer): boolean {
  return short.length <= long.length && long.subarray(0, short.length).equals(short);
}

function mapped(state: ManifestState): number {
  let last = 0;
  for (const segment of state.segments.values()) last = Math.max(last, segment.lastLsn);
  return last;
}

/** Writes the whole of another copy to where this one belongs, and opens it. */
async function makeAnew(place: CopyPlace, source: Manifest): Promise<Manifest> {
  const refusal = await place.refusal();
  if (refusal !== undefined) {
    throw new MapsError('BUSY', refusal, { operation: OPERATION, file: place.file });
  }
  const whole = (await fsp.readFile(source.path)).subarray(0, source.fileBytes);
  const there = await fsp.readFile(place.file).catch(() => undefined);
  if (there?.equals(whole) !== true) {
    await ensureFolder(path.dirname(place.file));
    await writeFileAtomic(place.file, whole);
  }
  return Manifest.open(place.file, source.group);
}
