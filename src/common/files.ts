// SPDX-License-Identifier: Apache-2.0

import * as fs from 'node:fs';
import * as fsp from 'node:fs/promises';
import * as path from 'node:path';

import { crc32 } from './crc.js';
import { errnoOf, EverpointError, toEverpointError } from './errors.js';

/**
 * Durable file operations. A rename or a new file is durable only when its folder is synced too;
 * the helpers here never forget that. What ends in `Sync` is for worker threads.
 */

let temporaryCount = 0;

/** So much of the target's name, in bytes, still leaves room for the rest within 255. */
const TEMPORARY_STEM_BYTES_MAX = 200;

/** A name beside `target` for what is not finished yet; a crash leaves it, `isTemporary` finds it. */
export function temporaryPath(target: string): string {
  temporaryCount += 1;
  const tail = `${process.pid}-${Date.now().toString(36)}-${temporaryCount}.tmp`;
  return path.join(path.dirname(target), `${temporaryPrefix(target)}${tail}`);
}

/** How the name of every temporary file of `target` begins. */
export function temporaryPrefix(target: string): string {
  const name = path.basename(target);
  if (Buffer.byteLength(name) <= TEMPORARY_STEM_BYTES_MAX) return `.${name}.`;
  // Targets that begin alike must not take each other's files for their own.
  const sum = crc32(name).toString(16).padStart(8, '0');
  let stem = '';
  for (const char of name) {
    if (Buffer.byteLength(stem + char) > TEMPORARY_STEM_BYTES_MAX - sum.length - 1) break;
    stem += char;
  }
  return `.${stem}~${sum}.`;
}

/** Whether the name is one that `temporaryPath` makes. */
export function isTemporary(name: string): boolean {
  return /^\..+\.\d+-[0-9a-z]+-\d+\.tmp$/.test(path.basename(name));
}

export function syncFolderSync(folder: string): void {
  const fd = fs.openSync(folder, 'r');
  try {
    fs.fsyncSync(fd);
  } finally {
    fs.closeSync(fd);
  }
}

export async function syncFolder(folder: string): Promise<void> {
  const handle = await fsp.open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Makes the folder and its missing parents, each durable in the one above it. */
export async function ensureFolder(folder: string, mode = 0o755): Promise<void> {
  const missing: string[] = [];
  for (let at = path.resolve(folder); ; at = path.dirname(at)) {
    const stat = await fsp.stat(at).catch((error: unknown) => {
      if (errnoOf(error) === 'ENOENT') return undefined;
      throw toEverpointError(error, 'make folder', at);
    });
    if (stat) break;
    missing.push(at);
  }
  for (const at of missing.reverse()) {
    await fsp.mkdir(at, { mode }).catch((error: unknown) => {
      if (errnoOf(error) !== 'EEXIST') throw toEverpointError(error, 'make folder', at);
    });
    await syncFolder(path.dirname(at));
  }
}

/** Puts the whole content in place at once: a reader sees the old file or the new one. */
export async function writeFileAtomic(
  target: string,
  content: Uint8Array | string,
  options: { readonly mode?: number } = {},
): Promise<void> {
  const temporary = temporaryPath(target);
  try {
    const handle = await fsp.open(temporary, 'wx', options.mode ?? 0o644);
    try {
      await handle.writeFile(content);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await fsp.rename(temporary, target);
  } catch (error) {
    await fsp.rm(temporary, { force: true }).catch(() => undefined);
    throw toEverpointError(error, 'write file', target);
  }
  await syncFolder(path.dirname(target));
}

/** Appends and syncs; the file must exist (its folder entry is durable since it was made). */
export async function appendDurable(file: string, content: Uint8Array | string): Promise<void> {
  try {
    const handle = await fsp.open(file, fs.constants.O_WRONLY | fs.constants.O_APPEND);
    try {
      await handle.writeFile(content);
      await handle.datasync();
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw toEverpointError(error, 'append to file', file);
  }
}

/** Removes a file durably; a missing one is fine. */
export async function removeFileDurable(file: string): Promise<void> {
  try {
    await fsp.rm(file);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return;
    throw toEverpointError(error, 'remove file', file);
  }
  await syncFolder(path.dirname(file));
}

/**
 * Fills `into` from `offset` of the file.
 * @returns how many bytes there were; fewer than asked for only at the end of the file
 */
export function readAtSync(fd: number, into: Uint8Array, offset: number): number {
  let done = 0;
  while (done < into.byteLength) {
    const got = fs.readSync(fd, into, done, into.byteLength - done, offset + done);
    if (got === 0) break;
    done += got;
  }
  return done;
}

export function writeAtSync(fd: number, from: Uint8Array, offset: number): void {
  let done = 0;
  while (done < from.byteLength) {
    const put = fs.writeSync(fd, from, done, from.byteLength - done, offset + done);
    if (put === 0) {
      throw new EverpointError('IO_ERROR', 'write made no progress', { operation: 'write file' });
    }
    done += put;
  }
}

/**
 * Gives a finished temporary file its name, durably. Without `overwrite` an existing target is
 * never replaced, not even when it appeared a moment ago: a hard link fails where a rename would
 * not.
 */
export function publishFileSync(temporary: string, target: string, overwrite: boolean): void {
  if (overwrite) {
    fs.renameSync(temporary, target);
  } else {
    try {
      fs.linkSync(temporary, target);
      fs.unlinkSync(temporary);
    } catch (error) {
      const errno = errnoOf(error);
      if (errno === 'EEXIST') throw alreadyExists(target);
      if (errno !== 'EPERM' && errno !== 'ENOTSUP' && errno !== 'EOPNOTSUPP') throw error;
      // A file system without hard links: look, then rename.
      if (fs.existsSync(target)) throw alreadyExists(target);
      fs.renameSync(temporary, target);
    }
  }
  syncFolderSync(path.dirname(target));
}

function alreadyExists(target: string): EverpointError {
  return new EverpointError('ALREADY_EXISTS', `${target} exists already`, {
    operation: 'publish file',
    file: target,
    hint: 'choose another path, or allow overwriting',
  });
}
