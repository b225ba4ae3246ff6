// SPDX-License-Identifier: Apache-2.0
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import Database from 'better-sqlite3';

/** Another service already uses the state folder. */
export class StateFolderBusyError extends Error {
  constructor(readonly state: string) {
    super(
      `Another everpoint service uses the state folder ${state}. ` +
        'End it first, or give this one a folder of its own (EVERPOINT_STATE).',
    );
    this.name = 'StateFolderBusyError';
  }
}

/**
 * Holds a state folder for one control plane. The lock is SQLite's own (an exclusive transaction on
 * an empty database, that is a kernel file lock), so it ends with the process, however it ends, and
 * is never inherited by the data plane.
 */
export class StateFolder {
  private constructor(
    readonly path: string,
    private readonly lock: Database.Database,
  ) {}

  /**
   * Makes the folder where it is missing and takes it; StateFolderBusyError when taken. Others may
   * pass through it (0711), as a QEMU with a user of its own must reach its socket below it.
   */
  static claim(state: string): StateFolder {
    mkdirSync(state, { recursive: true, mode: 0o711 });
    const lock = new Database(path.join(state, 'control.lock'), { timeout: 0 });
    try {
      lock.pragma('journal_mode = DELETE');
      lock.exec('BEGIN EXCLUSIVE');
    } catch (error) {
      lock.close();
      if (/^SQLITE_BUSY/.test((error as { code?: string }).code ?? '')) {
        throw new StateFolderBusyError(state);
      }
      throw error;
    }
    return new StateFolder(state, lock);
  }

  release(): void {
    if (this.lock.open) this.lock.close();
  }
}
