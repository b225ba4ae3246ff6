// SPDX-License-Identifier: Apache-2.0
import { chmodSync, existsSync, mkdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import Database from 'better-sqlite3';
import { Kysely, SqliteDialect } from 'kysely';
import { Migrator } from 'kysely/migration';
import { EverpointError } from '../common/errors.js';
import { migrations } from './migrations.js';
import type { CatalogSchema } from './schema.js';

export type CatalogDatabase = Kysely<CatalogSchema>;

const BUSY_TIMEOUT_MS = 5_000;

/** The open catalog. A class, so that it can be injected by its type. */
export class Catalog {
  private constructor(
    readonly db: CatalogDatabase,
    /** The file was not there: what it caches must be read in again. */
    readonly isNew: boolean,
    readonly file: string,
  ) {}

  /**
   * Opens the file, or makes it, and brings it to this version's schema. A file that SQLite finds
   * damaged is a cache that is gone: it is put aside and made anew.
   */
  static async open(file: string): Promise<Catalog> {
    mkdirSync(path.dirname(file), { recursive: true });
    const isNew = !existsSync(file);
    try {
      return await Catalog.openOnce(file, isNew);
    } catch (error) {
      if (isNew || !isDamage(error)) throw error;
      for (const tail of ['', '-wal', '-shm']) rmSync(`${file}${tail}`, { force: true });
      return await Catalog.openOnce(file, true);
    }
  }

  private static async openOnce(file: string, isNew: boolean): Promise<Catalog> {
    const sqlite = new Database(file, { timeout: BUSY_TIMEOUT_MS });
    try {
      // Its folder may be passed through by others; -wal and -shm follow the mode of the file.
      chmodSync(file, 0o600);
      sqlite.pragma('journal_mode = WAL');
      // A power cut may lose the last commits, never the file: fine for a cache of manifests.
      sqlite.pragma('synchronous = NORMAL');
      sqlite.pragma('foreign_keys = ON');
      const [row] = sqlite.pragma('quick_check') as { quick_check: string }[];
      if (row?.quick_check !== 'ok') throw new DamagedCatalogError(file, row?.quick_check ?? '');
      const db = new Kysely<CatalogSchema>({ dialect: new SqliteDialect({ database: sqlite }) });
      const { error } = await new Migrator({ db, provider: migrations }).migrateToLatest();
      if (error !== undefined) throw error as Error;
      return new Catalog(db, isNew, file);
    } catch (error) {
      sqlite.close();
      throw error;
    }
  }

  async close(): Promise<void> {
    await this.db.destroy();
  }
}

/** SQLite's own check found damage. */
export class DamagedCatalogError extends EverpointError {
  constructor(file: string, finding: string) {
    super('CORRUPTION', `The catalog ${file} is damaged: ${finding}`, {
      operation: 'open catalog',
      file,
      hint: 'It is a cache: remove the file, and it is made anew from the devices.',
    });
  }
}

function isDamage(error: unknown): boolean {
  if (error instanceof DamagedCatalogError) return true;
  const code = (error as { code?: string }).code ?? '';
  return code === 'SQLITE_NOTADB' || code.startsWith('SQLITE_CORRUPT');
}
