// SPDX-License-Identifier: Apache-2.0

/**
 * The manifest of a group: what is live on the secondary. One line is one commit, so records that
 * are committed together are there together or not at all. Layout: `manifest-format.md`.
 */

import * as fsp from 'node:fs/promises';
import * as path from 'node:path';

import { crc32 } from '../common/crc.js';
import { toEverpointError } from '../common/errors.js';
import { ensureFolder, syncFolder, temporaryPath } from '../common/files.js';
import { MANIFEST_BYTES_MAX, MANIFEST_LINE_BYTES_MAX, SECTOR_BYTES } from '../common/limits.js';
import { corruption, MapsError, unsupported } from './errors.js';
import {
  ManifestFold,
  recordProblem,
  type ManifestRecord,
  type ManifestState,
} from './manifest-records.js';
import { formatNumber16 } from './segment/folder.js';

export * from './manifest-records.js';

export const MANIFEST_MAGIC = 'EPMANIFEST';
export const MANIFEST_VERSION = 1;
/** `<sum> <length> `, both in eight hex digits. */
const PREFIX_BYTES = 18;
const NEWLINE = 0x0a;
const OPERATION = 'read manifest';

/** `<group folder>/manifest` */
export function manifestPath(groupFolderPath: string): string {
  return path.join(groupFolderPath, 'manifest');
}

/** `<group folder>/maps/<id, 16 hex digits>.epmap` */
export function mapPath(groupFolderPath: string, id: number): string {
  return path.join(groupFolderPath, mapRelativePath(id));
}

export function mapRelativePath(id: number): string {
  return path.join('maps', `${formatNumber16(id)}.epmap`);
}

interface HeaderLine {
  readonly magic: string;
  readonly version: number;
  readonly group: string;
}

interface Parsed {
  readonly group: string;
  readonly fold: ManifestFold;
  /** Where the next line goes; less than the file's size when the tail is torn. */
  readonly goodBytes: number;
  readonly lastCrc: number;
}

/** An open manifest. One owner per file: the control plane. */
export class Manifest {
  private tail: Promise<void> = Promise.resolve();
  private broken: unknown;

  private constructor(
    readonly path: string,
    readonly group: string,
    private handle: fsp.FileHandle,
    private fold: ManifestFold,
    private bytes: number,
    private lastCrc: number,
  ) {}

  /** A new, empty manifest; makes its folder. @throws ALREADY_EXISTS */
  static async create(file: string, group: string): Promise<Manifest> {
    await ensureFolder(path.dirname(file));
    const existing = await fsp.stat(file).catch(() => undefined);
    if (existing) {
      throw new MapsError('ALREADY_EXISTS', `${file} exists already`, {
        operation: 'create manifest',
        file,
      });
    }
    await writeLines(file, group, []);
    return Manifest.open(file, group);
  }

  /**
   * Opens for reading and committing. What a crash left of a commit that nobody was told of is
   * cut off. @throws NOT_FOUND, CORRUPTION, UNSUPPORTED
   */
  static async open(file: string, expectedGroup?: string): Promise<Manifest> {
    let handle: fsp.FileHandle | undefined;
    try {
      handle = await fsp.open(file, 'r+');
      const content = await readWhole(handle, file);
      const parsed = parseManifest(content, file, expectedGroup);
      if (parsed.goodBytes < content.length) {
        await handle.truncate(parsed.goodBytes);
        await handle.sync();
      }
      return new Manifest(
        file,
        parsed.group,
        handle,
        parsed.fold,
        parsed.goodBytes,
        parsed.lastCrc,
      );
    } catch (error) {
      await handle?.close();
      throw toEverpointError(error, 'open manifest', file);
    }
  }

  /** What the manifest says, without changing the file (a torn tail is left out). */
  static async read(file: string, expectedGroup?: string): Promise<ManifestState> {
    try {
      const handle = await fsp.open(file, 'r');
      try {
        return parseManifest(await readWhole(handle, file), file, expectedGroup).fold;
      } finally {
        await handle.close();
      }
    } catch (error) {
      throw toEverpointError(error, OPERATION, file);
    }
  }

  get state(): ManifestState {
    return this.fold;
  }

  get fileBytes(): number {
    return this.bytes;
  }

  /** Durable, all of them or none, when the promise resolves; `state` has them from then on. */
  commit(records: readonly ManifestRecord[]): Promise<void> {
    if (records.length === 0) return Promise.resolve();
    return this.exclusively('commit to manifest', async () => {
      for (const record of records) refuseBadRecord(record, this.path);
      const { line, crc } = encodeLine({ records }, this.lastCrc);
      if (line.length > MANIFEST_LINE_BYTES_MAX || this.bytes + line.length > MANIFEST_BYTES_MAX) {
        throw new MapsError('INVALID_ARGUMENT', 'the commit is too large for a manifest', {
          operation: 'commit to manifest',
          file: this.path,
        });
      }
      try {
        await writeAll(this.handle, line, this.bytes);
        await this.handle.datasync();
      } catch (error) {
        // What is on the device now is not known: only a new look at the file can tell.
        this.broken = error;
        throw error;
      }
      this.bytes += line.length;
      this.lastCrc = crc;
      for (const record of records) this.fold.add(record);
    });
  }

  /** Rewrites the file as short as its state allows; a crash leaves the old or the new one. */
  compact(): Promise<void> {
    return this.exclusively('compact manifest', async () => {
      await writeLines(this.path, this.group, [...this.fold.records()]);
      const handle = await fsp.open(this.path, 'r+');
      try {
        const parsed = parseManifest(await readWhole(handle, this.path), this.path, this.group);
        await this.handle.close();
        this.handle = handle;
        this.fold = parsed.fold;
        this.bytes = parsed.goodBytes;
        this.lastCrc = parsed.lastCrc;
      } catch (error) {
        // The old handle is of a file that has no name any more: nothing may be committed to it.
        this.broken = error;
        await handle.close();
        throw error;
      }
    });
  }

  async close(): Promise<void> {
    await this.tail.catch(() => undefined);
    this.broken ??= new Error('the manifest is closed');
    await this.handle.close();
  }

  private exclusively(operation: string, work: () => Promise<void>): Promise<void> {
    const run = this.tail.then(async () => {
      if (this.broken !== undefined) {
        throw new MapsError('IO_ERROR', `${this.path} has to be opened anew`, {
          operation,
          file: this.path,
          cause: this.broken,
          hint: 'an earlier write failed; opening reads what really is on the device',
        });
      }
      try {
        await work();
      } catch (error) {
        throw toEverpointError(error, operation, this.path);
      }
    });
    this.tail = run.catch(() => undefined);
    return run;
  }
}

/** Header and, if there are records, one line with all of them: the whole file as bytes. */
export function encodeManifest(
  group: string,
  commits: readonly (readonly ManifestRecord[])[],
): Buffer {
  const header: HeaderLine = { magic: MANIFEST_MAGIC, version: MANIFEST_VERSION, group };
  let { line, crc } = encodeLine(header, 0);
  const lines = [line];
  for (const records of commits) {
    ({ line, crc } = encodeLine({ records }, crc));
    lines.push(line);
  }
  return Buffer.concat(lines);
}

function encodeLine(value: object, seed: number): { line: Buffer; crc: number } {
  const json = Buffer.from(JSON.stringify(value));
  const length = hex8(json.length);
  const crc = crc32(json, crc32(length, seed));
  return {
    line: Buffer.concat([Buffer.from(`${hex8(crc)} ${length} `), json, Buffer.from('\n')]),
    crc,
  };
}

function hex8(value: number): string {
  return value.toString(16).padStart(8, '0');
}

async function writeLines(
  file: string,
  group: string,
  records: readonly ManifestRecord[],
): Promise<void> {
  // Lines are bounded, so a large state is several commits; the rename makes them one.
  const commits: ManifestRecord[][] = [];
  for (let i = 0; i < records.length; i += 1000) commits.push(records.slice(i, i + 1000));
  const temporary = temporaryPath(file);
  const handle = await fsp.open(temporary, 'wx', 0o644);
  try {
    await handle.writeFile(encodeManifest(group, commits));
    await handle.sync();
    await fsp.rename(temporary, file);
  } catch (error) {
    await fsp.rm(temporary, { force: true });
    throw error;
  } finally {
    await handle.close();
  }
  await syncFolder(path.dirname(file));
}

async function writeAll(handle: fsp.FileHandle, data: Buffer, offset: number): Promise<void> {
  for (let done = 0; done < data.length;) {
    done += (await handle.write(data, done, data.length - done, offset + done)).bytesWritten;
  }
}

async function readWhole(handle: fsp.FileHandle, file: string): Promise<Buffer> {
  const { size } = await handle.stat();
  if (size > MANIFEST_BYTES_MAX) throw corruption(OPERATION, file, 0, `${size} bytes are too many`);
  const content = Buffer.alloc(size);
  let done = 0;
  while (done < size) {
    const { bytesRead } = await handle.read(content, done, size - done, done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return content.subarray(0, done);
}

/** @throws CORRUPTION for damage before the last commit, UNSUPPORTED for another version */
export function parseManifest(content: Buffer, file: string, expectedGroup?: string): Parsed {
  const fold = new ManifestFold();
  let group: string | undefined;
  let at = 0;
  let crc = 0;
  while (at < content.length) {
    const end = lineEnd(content, at, crc);
    if (typeof end === 'string') {
      // The header was synced before the file got its name, so it is never torn.
      if (group !== undefined && isTorn(content, at)) break;
      throw corruption(OPERATION, file, at, end);
    }
    const value = parseJson(content.toString('utf8', at + PREFIX_BYTES, end - 1), file, at);
    if (group === undefined) {
      group = checkHeader(value, file, expectedGroup);
    } else {
      for (const record of recordsOf(value, file, at)) fold.add(record);
    }
    crc = Number.parseInt(content.toString('latin1', at, at + 8), 16);
    at = end;
  }
  if (group === undefined) throw corruption(OPERATION, file, 0, 'no header line');
  return { group, fold, goodBytes: at, lastCrc: crc };
}

/** Where the line at `at` ends, or in words why it is not a good one. */
function lineEnd(content: Buffer, at: number, seed: number): number | string {
  const prefix = content.toString('latin1', at, at + PREFIX_BYTES);
  const match = /^([0-9a-f]{8}) ([0-9a-f]{8}) $/.exec(prefix);
  if (!match?.[1] || !match[2]) return 'no manifest line';
  const start = at + PREFIX_BYTES;
  const end = start + Number.parseInt(match[2], 16);
  if (end >= content.length) return 'the file ends within a line';
  if (content[end] !== NEWLINE) return 'a line without its end';
  const sum = crc32(content.subarray(start, end), crc32(match[2], seed));
  return sum === Number.parseInt(match[1], 16) ? end + 1 : 'checksum mismatch';
}

/**
 * Whether what starts at `at` can be what a crash left of one unfinished append: the start of a
 * line that the file ends in, or whole sectors of it that never got their bytes (zeroes). Another
 * bad line is damage, because then an acknowledged commit would be cut away in silence.
 */
function isTorn(content: Buffer, at: number): boolean {
  const rest = content.subarray(at);
  // A line has one newline, at its end: another one means that commits follow.
  const newline = rest.indexOf(NEWLINE);
  if (newline >= 0 && newline !== rest.length - 1) return false;
  const head = rest.toString('latin1', 0, PREFIX_BYTES);
  const length = /^[0-9a-f]{8} ([0-9a-f]{8}) $/.exec(head)?.[1];
  const lineBytes =
    length === undefined ? Infinity : PREFIX_BYTES + Number.parseInt(length, 16) + 1;
  if (rest.length > lineBytes) return false;
  const hole = rest.indexOf(0);
  if (hole >= 0) {
    const sectorEnd = (Math.floor((at + hole) / SECTOR_BYTES) + 1) * SECTOR_BYTES - at;
    return rest.subarray(hole, sectorEnd).every((byte) => byte === 0);
  }
  if (rest.length < PREFIX_BYTES) return /^[0-9a-f]{0,8}( [0-9a-f]{0,8}( )?)?$/.test(head);
  return length !== undefined && newline < 0 && rest.length < lineBytes;
}

function parseJson(text: string, file: string, at: number): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch (cause) {
    throw corruption(OPERATION, file, at, 'a line that is no JSON', { cause });
  }
}

function checkHeader(value: unknown, file: string, expectedGroup: string | undefined): string {
  const header = value as Partial<HeaderLine> | null;
  if (header?.magic !== MANIFEST_MAGIC || typeof header.group !== 'string') {
    throw corruption(OPERATION, file, 0, 'no manifest (wrong magic)');
  }
  if (header.version !== MANIFEST_VERSION) {
    throw unsupported(OPERATION, file, `manifest version ${String(header.version)}`);
  }
  if (expectedGroup !== undefined && header.group !== expectedGroup) {
    throw corruption(OPERATION, file, 0, `the manifest of group ${header.group}`);
  }
  return header.group;
}

function recordsOf(value: unknown, file: string, at: number): ManifestRecord[] {
  const records = (value as { records?: unknown } | null)?.records;
  if (!Array.isArray(records)) throw corruption(OPERATION, file, at, 'a line without records');
  for (const record of records) {
    const problem = recordProblem(record);
    if (problem?.includes('unknown kind')) throw unsupported(OPERATION, file, problem);
    if (problem !== undefined) throw corruption(OPERATION, file, at, problem);
  }
  return records as ManifestRecord[];
}

function refuseBadRecord(record: ManifestRecord, file: string): void {
  const problem = recordProblem(record);
  if (problem === undefined) return;
  throw new MapsError('INVALID_ARGUMENT', `not a manifest record: ${problem}`, {
    operation: 'commit to manifest',
    file,
  });
}
