// SPDX-License-Identifier: Apache-2.0

import { createHash } from 'node:crypto';
import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { fileURLToPath } from 'node:url';

import { EverpointError } from '../common/errors.js';

/** A unix socket's path, its final NUL left out (sockaddr_un). */
export const SOCKET_PATH_BYTES_MAX = 107;
/** The longest name that anything of ours has below a run folder, its first slash included. */
export const SOCKET_TAIL_BYTES_MAX = 47;

/** The folder with package.json; the same from `src/` and from `dist/`. */
export function packageRoot(): string {
  return fileURLToPath(new URL('../..', import.meta.url));
}

/** The Node that everything of ours runs on, whatever PATH says. */
export function packageNode(): string {
  return path.join(packageRoot(), 'node_modules', '.bin', 'node');
}

/**
 * Where the sockets of a state folder lie: `<state>/run`, or, when a socket's name could get too
 * long there, a short folder that the state folder's path alone decides, so that it is the same
 * after every start.
 */
export function runDir(state: string): string {
  const resolved = path.resolve(state);
  const plain = path.join(resolved, 'run');
  if (Buffer.byteLength(plain) + SOCKET_TAIL_BYTES_MAX <= SOCKET_PATH_BYTES_MAX) return plain;
  const hash = createHash('sha256').update(resolved).digest('hex').slice(0, 12);
  const uid = process.getuid?.() ?? 0;
  return uid === 0
    ? path.join('/run/everpoint', hash)
    : path.join(tmpdir(), `everpoint-${uid}-${hash}`);
}

/**
 * Makes the run folder, or refuses one that somebody else made or could change: a short folder may
 * lie in /tmp. Others may pass through it (a QEMU with a user of its own), not list it.
 */
export function ensureRunDir(folder: string): void {
  fs.mkdirSync(folder, { recursive: true, mode: 0o711 });
  const stat = fs.lstatSync(folder);
  const uid = process.getuid?.();
  if (!stat.isDirectory() || (uid !== undefined && stat.uid !== uid) || (stat.mode & 0o022) !== 0) {
    throw new EverpointError('INVALID_ARGUMENT', `${folder} is not a folder of this user alone`, {
      operation: 'make run folder',
      file: folder,
      hint: 'remove it, or make it writable by its owner only',
    });
  }
}

/** The data plane's own socket. */
export function controlSocket(state: string): string {
  return path.join(runDir(state), 'dataplane.sock');
}

export function pidFile(state: string): string {
  return path.join(path.resolve(state), 'dataplane.pid');
}

export function logFile(state: string): string {
  return path.join(path.resolve(state), 'dataplane.log');
}

/** Everything that the data plane keeps for itself: its lock, definitions, the addon's files. */
export function dataPlaneDir(state: string): string {
  return path.join(path.resolve(state), 'data-plane');
}

export function definitionsDir(state: string): string {
  return path.join(dataPlaneDir(state), 'groups');
}

export function nativeDir(state: string): string {
  return path.join(dataPlaneDir(state), 'native');
}
