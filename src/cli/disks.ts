// SPDX-License-Identifier: Apache-2.0

import * as fs from 'node:fs';
import * as path from 'node:path';

import { usageError } from './errors.js';
import { shellQuote } from './output.js';
import { parseCount, parseSize } from './sizes.js';
import type { Group } from './types.js';

export interface DiskOptions {
  readonly name?: string;
  readonly policy?: string;
  readonly device?: string[];
  readonly size?: string;
  readonly create?: boolean;
  readonly baseline?: string;
  readonly queues?: string;
  readonly owner?: string;
  readonly blockSize?: string;
  readonly ack?: string;
  readonly flush?: string;
  readonly onLogPressure?: string;
  readonly throttleMax?: string;
  readonly logBuffer?: string;
}

/** Initial copies are not made yet, so that what is meant is to be said. */
const BASELINE_HINT =
  'add --baseline none (history starts empty: data already on the disk is not in it)';

/** The body of `POST /v1/groups` for raw files or block devices. @throws usage error */
export function groupBody(files: string[], options: DiskOptions, cwd: string): object {
  if (files.length === 0) throw usageError('name at least one disk');
  if (options.create === true && options.size === undefined) {
    throw usageError('--create needs --size');
  }
  if (options.baseline === undefined && options.create !== true) {
    throw usageError('--baseline is missing', BASELINE_HINT);
  }
  const first = files[0] ?? '';
  const name = options.name ?? path.basename(first).replace(/\.(raw|img)$/, '');
  return {
    name,
    ...defined({
      policy: options.policy,
      devices: options.device,
      ack: options.ack,
      flush: options.flush,
      onLogPressure: options.onLogPressure,
      throttleMaxMs: options.throttleMax === undefined ? undefined : parseMs(options.throttleMax),
      logBuffer: options.logBuffer && logBufferBody(options.logBuffer, cwd),
    }),
    volumes: files.map((file, at) => volumeBody(path.resolve(cwd, file), at, options)),
  };
}

/** `tmpfs`, `file:PATH`, `pmem:PATH` */
function logBufferBody(text: string, cwd: string): object {
  const [kind = '', ...rest] = text.split(':');
  const file = rest.join(':');
  const takesFile = kind === 'file' || kind === 'pmem';
  if ((kind !== 'tmpfs' && !takesFile) || takesFile === (file === '')) {
    throw usageError(`--log-buffer is tmpfs, file:PATH or pmem:PATH, not ${text}`);
  }
  return takesFile ? { kind, path: path.resolve(cwd, file) } : { kind };
}

function parseMs(text: string): number {
  const match = /^(\d{1,7})(ms|s)$/.exec(text);
  if (match !== null) return Number(match[1]) * (match[2] === 's' ? 1000 : 1);
  throw usageError(`--throttle-max is a time like 5s or 500ms, not ${text}`);
}

function volumeBody(file: string, at: number, options: DiskOptions): object {
  const queues = options.queues === undefined ? 1 : parseCount(options.queues, '--queues');
  // A new file has nothing to copy.
  const baseline = options.baseline ?? (options.create === true ? 'none' : undefined);
  const blockSize =
    options.blockSize === undefined ? undefined : parseCount(options.blockSize, '--block-size');
  return {
    name: diskName(at),
    primary: {
      kind: file.startsWith('/dev/') && !file.startsWith('/dev/shm/') ? 'device' : 'file',
      path: file,
      ...(options.size === undefined ? {} : { sizeBytes: parseSize(options.size) }),
      ...(options.create === true ? { create: true } : {}),
    },
    ...defined({ baseline, blockSize }),
    exports: [{ kind: 'vhost-user-blk', queues, ...defined({ owner: options.owner }) }],
  };
}

/**
 * Disks that may hold data which history will lack. A file with no block has none; of a block
 * device nobody can tell without reading it.
 */
export function disksWithData(files: string[], options: DiskOptions, cwd: string): string[] {
  if (options.baseline !== 'none' || options.create === true) return [];
  return files
    .map((file) => path.resolve(cwd, file))
    .filter((file) => {
      try {
        const found = fs.statSync(file);
        return found.blocks > 0 || found.isBlockDevice();
      } catch {
        // Not for this user to look at; the service says whether it can be a disk.
        return false;
      }
    });
}

function defined(values: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined));
}

/** vda … vdz, vdaa …, as a guest numbers them. */
export function diskName(at: number): string {
  const letter = String.fromCharCode(97 + (at % 26));
  return at < 26 ? `vd${letter}` : `vd${String.fromCharCode(96 + Math.floor(at / 26))}${letter}`;
}

/**
 * Arguments for one QEMU with all disks of the group: the guest's memory, which the service names
 * for each disk, stands there once.
 */
export function qemuArguments(group: Group): string[] {
  const all: string[] = [];
  for (const args of group.volumes.flatMap((volume) => volume.exports.map((one) => one.qemuArgs))) {
    const own = all.length === 0 ? 0 : Math.max(args.indexOf('-chardev'), 0);
    all.push(...args.slice(own));
  }
  return all;
}

/** One option with its value a line, to be pasted behind `qemu-system-x86_64 \`. */
export function qemuText(group: Group): string[] {
  const args = qemuArguments(group);
  const lines: string[] = [];
  for (let at = 0; at < args.length; at += 2) {
    lines.push(
      `  ${args
        .slice(at, at + 2)
        .map(shellQuote)
        .join(' ')}`,
    );
  }
  return lines.map((line, at) => (at < lines.length - 1 ? `${line} \\` : line));
}
