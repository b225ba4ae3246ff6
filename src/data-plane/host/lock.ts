// SPDX-License-Identifier: Apache-2.0

import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import koffi from 'koffi';

import { ensureFolder } from '../../common/files.js';
import { EverpointError } from '../../common/errors.js';
import { dataPlaneDir, pidFile } from '../paths.js';

const LOCK_EX = 2;
const LOCK_NB = 4;

/** Another data plane holds the state folder. */
export class StateLockedError extends EverpointError {}

/**
 * Holds a state folder for one data plane: `flock` on a file, so that the kernel lets go of it
 * however the process ends, and a stale file means nothing.
 */
export class StateLock {
  private constructor(private readonly fd: number) {}

  /** Waits up to `waitMs` for one that is just ending. @throws StateLockedError */
  static async take(state: string, waitMs: number): Promise<StateLock> {
    await ensureFolder(dataPlaneDir(state), 0o700);
    const file = path.join(dataPlaneDir(state), 'lock');
    const flock = koffi.load('libc.so.6').func('int flock(int fd, int operation)');
    // Node opens with O_CLOEXEC: no child could hold the lock in our place.
    const fd = fs.openSync(file, 'a', 0o600);
    for (const deadline = Date.now() + waitMs; ; await sleep(25)) {
      if (flock(fd, LOCK_EX | LOCK_NB) === 0) return new StateLock(fd);
      const errno = koffi.errno();
      if (errno !== os.constants.errno.EWOULDBLOCK && errno !== os.constants.errno.EINTR) {
        fs.closeSync(fd);
        throw new EverpointError('IO_ERROR', `flock ${file}: errno ${errno}`, {
          operation: 'lock state folder',
          file,
        });
      }
      if (Date.now() >= deadline) break;
    }
    fs.closeSync(fd);
    throw new StateLockedError(
      'BUSY',
      `another data plane (pid ${readPid(state)}) holds the state folder ${state}`,
      { operation: 'lock state folder', file, hint: 'end it, or use another state folder' },
    );
  }

  release(): void {
    fs.closeSync(this.fd);
  }
}

function readPid(state: string): string {
  try {
    return fs.readFileSync(pidFile(state), 'utf8').trim();
  } catch {
    return 'unknown';
  }
}
