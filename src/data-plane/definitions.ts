// SPDX-License-Identifier: Apache-2.0

import * as fsp from 'node:fs/promises';
import * as path from 'node:path';

import { crc32 } from '../common/crc.js';
import { EverpointError, toEverpointError } from '../common/errors.js';
import { ensureFolder, isTemporary, removeFileDurable, writeFileAtomic } from '../common/files.js';
import { isUuid } from '../common/uuid.js';
import type { GroupDefinition } from './port.js';
import { checkDefinition } from './validate.js';

/**
 * The groups that the data plane opens by itself: one file each, written by the data plane alone
 * (definitions-format.md). A file that cannot be read is a group too, one that is shown as failed:
 * nothing that protects a disk may vanish in silence.
 */

export const DEFINITION_MAGIC = 'everpoint-group';
export const DEFINITION_VERSION = 1;
/** No good file is larger; checked before it is read. */
export const DEFINITION_BYTES_MAX = 4 * 1024 * 1024;

/**
 * `creating`: stored before the addon made anything; after a crash the creation is taken back.
 * `deleting`: stored before the addon forgets anything; after a crash the deletion is finished.
 */
export type DefinitionPhase = 'creating' | 'live' | 'deleting';
const PHASES: readonly string[] = ['creating', 'live', 'deleting'];

/** What one file holds, or why it holds nothing. */
export type StoredDefinition =
  | { readonly id: string; readonly phase: DefinitionPhase; readonly definition: GroupDefinition }
  | { readonly id: string; readonly error: EverpointError };

export class DefinitionStore {
  constructor(readonly folder: string) {}

  /** Reads every file of the folder; makes the folder where it is missing. */
  async load(): Promise<StoredDefinition[]> {
    await ensureFolder(this.folder, 0o700);
    const stored: StoredDefinition[] = [];
    for (const name of (await fsp.readdir(this.folder)).sort()) {
      if (isTemporary(name)) {
        // What a crash left of a replacement that never took place.
        await fsp.rm(path.join(this.folder, name), { force: true });
        continue;
      }
      const id = name.endsWith('.json') ? name.slice(0, -'.json'.length) : '';
      if (isUuid(id)) stored.push(await this.read(id));
    }
    return stored;
  }

  /** One file. It never throws for what the file holds. */
  async read(id: string): Promise<StoredDefinition> {
    const file = this.fileOf(id);
    try {
      const { size } = await fsp.stat(file);
      if (size > DEFINITION_BYTES_MAX) throw damaged(file, `it has ${size} bytes`);
      return { id, ...decodeDefinition(await fsp.readFile(file, 'utf8'), id, file) };
    } catch (error) {
      return { id, error: toEverpointError(error, 'read group definition', file) };
    }
  }

  async write(definition: GroupDefinition, phase: DefinitionPhase): Promise<void> {
    await ensureFolder(this.folder, 0o700);
    await writeFileAtomic(this.fileOf(definition.id), encodeDefinition(definition, phase), {
      mode: 0o600,
    });
  }

  async remove(id: string): Promise<void> {
    await removeFileDurable(this.fileOf(id));
  }

  fileOf(id: string): string {
    return path.join(this.folder, `${id}.json`);
  }
}

/** The checksum covers phase and definition, in the one text that JSON.stringify has for them. */
function checksumOf(phase: string, definition: unknown): string {
  return crc32(JSON.stringify([phase, definition]))
    .toString(16)
    .padStart(8, '0');
}

export function encodeDefinition(definition: GroupDefinition, phase: DefinitionPhase): string {
  const envelope = {
    magic: DEFINITION_MAGIC,
    version: DEFINITION_VERSION,
    checksum: checksumOf(phase, definition),
    phase,
    definition,
  };
  return `${JSON.stringify(envelope, undefined, 2)}\n`;
}

/** @throws CORRUPTION, or UNSUPPORTED for a version that is not known */
export function decodeDefinition(
  text: string,
  id: string,
  file: string,
): { phase: DefinitionPhase; definition: GroupDefinition } {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (error) {
    throw damaged(file, `it is not JSON (${(error as Error).message})`);
  }
  const envelope = (typeof parsed === 'object' && parsed !== null ? parsed : {}) as Record<
    string,
    unknown
  >;
  if (envelope['magic'] !== DEFINITION_MAGIC) throw damaged(file, 'its magic is missing');
  if (envelope['version'] !== DEFINITION_VERSION) {
    throw new EverpointError(
      'UNSUPPORTED',
      `${file} has version ${String(JSON.stringify(envelope['version']))}, this program reads ${DEFINITION_VERSION}`,
      { operation: 'read group definition', file, hint: 'run the program that wrote it' },
    );
  }
  const { phase, definition } = envelope;
  if (envelope['checksum'] !== checksumOf(String(phase), definition)) {
    throw damaged(file, 'its checksum does not fit');
  }
  if (!PHASES.includes(phase as string)) throw damaged(file, 'its phase is not known');
  let checked: GroupDefinition;
  try {
    checked = checkDefinition(definition);
  } catch (error) {
    throw damaged(file, (error as Error).message);
  }
  if (checked.id !== id) throw damaged(file, `it is the file of group ${checked.id}`);
  return { phase: phase as DefinitionPhase, definition: checked };
}

function damaged(file: string, why: string): EverpointError {
  return new EverpointError('CORRUPTION', `group definition ${file} is damaged: ${why}`, {
    operation: 'read group definition',
    file,
    hint: 'put the file back from a backup and reopen the group, or delete the group and create it again',
  });
}
