// SPDX-License-Identifier: Apache-2.0

import * as fsp from 'node:fs/promises';
import * as path from 'node:path';

import { errnoOf, EverpointError, toEverpointError } from '../common/errors.js';
import { removeFileDurable } from '../common/files.js';
import { groupFolder } from '../maps/segment/folder.js';
import type { GroupDefinition, VolumeDefinition } from './port.js';

/**
 * What creating a group makes outside of the state folder: primaries, and the group's folder on its
 * devices. It is looked at before the addon makes anything, and taken back when that failed
 * half-way: only what was not there before, and what the addon had to make, is ever removed.
 */
export class Creation {
  private readonly toMake: VolumeDefinition[];
  private readonly newFolders: string[] = [];
  private checkedAtMs = 0;

  constructor(private readonly definition: GroupDefinition) {
    this.toMake = definition.volumes.filter((volume) => volume.primary.create === true);
  }

  /** @throws ALREADY_EXISTS, NOT_FOUND, INVALID_ARGUMENT */
  async check(): Promise<void> {
    for (const volume of this.definition.volumes) await this.checkPrimary(volume);
    for (const device of this.definition.devices) {
      const stat = await statOf(device.path);
      if (!stat?.isDirectory()) {
        throw refuse('NOT_FOUND', `device folder ${device.path} is not there`, device.path);
      }
      const folder = groupFolder(device.path, this.definition.id);
      if ((await statOf(folder)) === undefined) this.newFolders.push(folder);
    }
    this.checkedAtMs = Date.now();
  }

  private async checkPrimary(volume: VolumeDefinition): Promise<void> {
    const { path: file, kind, create } = volume.primary;
    const stat = await statOf(file);
    if (create === true) {
      if (stat !== undefined) throw refuse('ALREADY_EXISTS', `${file} exists already`, file);
      const folder = path.dirname(file);
      if (!(await statOf(folder))?.isDirectory()) {
        throw refuse('NOT_FOUND', `folder ${folder} is not there`, folder);
      }
      return;
    }
    if (stat === undefined) throw refuse('NOT_FOUND', `primary ${file} is not there`, file);
    if (kind === 'file' ? !stat.isFile() : !stat.isBlockDevice()) {
      const wanted = kind === 'file' ? 'a regular file' : 'a block device';
      throw refuse('INVALID_ARGUMENT', `primary ${file} is not ${wanted}`, file);
    }
  }

  /**
   * Removes what a creation made that the end of the process cut off. That the definition is stored
   * as `creating` says that nothing of it was there before: `check` came first. A primary is removed
   * only when it is the file that the addon makes and nobody has written to it, so that no byte is
   * lost even if somebody else put a file there since.
   * @returns the primaries that were left
   */
  static async undoAfterCrash(definition: GroupDefinition): Promise<string[]> {
    for (const device of definition.devices) {
      await fsp.rm(groupFolder(device.path, definition.id), { recursive: true, force: true });
    }
    const left: string[] = [];
    for (const { primary } of definition.volumes) {
      if (primary.create !== true) continue;
      const stat = await fsp.lstat(primary.path).catch((error: unknown) => {
        if (errnoOf(error) === 'ENOENT') return undefined;
        throw toEverpointError(error, 'undo creation', primary.path);
      });
      if (stat === undefined) continue;
      // The addon makes a file and then gives it its size; the end may have come between the two.
      const made = stat.size === 0 || stat.size === primary.sizeBytes;
      if (stat.isFile() && stat.nlink === 1 && stat.blocks === 0 && made) {
        await removeFileDurable(primary.path);
      } else {
        left.push(primary.path);
      }
    }
    return left;
  }

  /** Removes what the failed creation made; the addon may have done so itself. */
  async undo(reason: unknown): Promise<void> {
    for (const folder of this.newFolders) await fsp.rm(folder, { recursive: true, force: true });
    // Somebody else made a primary between check and creation: which is whose is not known.
    if ((reason as { code?: unknown } | null)?.code === 'ALREADY_EXISTS') return;
    for (const { primary } of this.toMake) {
      const stat = await statOf(primary.path);
      const ours =
        stat?.isFile() === true &&
        stat.size <= (primary.sizeBytes ?? 0) &&
        stat.ctimeMs >= this.checkedAtMs - 10;
      if (ours) await removeFileDurable(primary.path);
    }
  }
}

async function statOf(file: string) {
  try {
    return await fsp.stat(file);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw toEverpointError(error, 'create group', file);
  }
}

function refuse(
  code: 'ALREADY_EXISTS' | 'NOT_FOUND' | 'INVALID_ARGUMENT',
  message: string,
  file: string,
): EverpointError {
  return new EverpointError(code, message, { operation: 'create group', file });
}
