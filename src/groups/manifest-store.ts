// SPDX-License-Identifier: Apache-2.0
import { rm } from 'node:fs/promises';
import { Inject, Injectable, type OnApplicationShutdown } from '@nestjs/common';
import { HistoryRepository } from '../catalog/history.repository.js';
import { errnoOf, EverpointError } from '../common/errors.js';
import { syncFolder } from '../common/files.js';
import { Manifest, manifestPath, type ManifestRecord } from '../maps/manifest.js';
import type { ManifestState } from '../maps/manifest-records.js';
import { groupFolder } from '../maps/segment/folder.js';
import type { StoredGroup } from './stored-group.js';

/**
 * The open manifests, one instance per file. A group's manifest lies on the first of its devices.
 * Every commit goes to the manifest, durably, and then into the catalog.
 */
@Injectable()
export class ManifestStore implements OnApplicationShutdown {
  private readonly open = new Map<string, Promise<Manifest>>();

  constructor(@Inject(HistoryRepository) private readonly history: HistoryRepository) {}

  /** Makes the manifest of a new group. @throws ALREADY_EXISTS */
  async create(definition: StoredGroup, records: ManifestRecord[]): Promise<void> {
    const manifest = await Manifest.create(fileOf(definition), definition.id);
    this.open.set(definition.id, Promise.resolve(manifest));
    await this.commit(definition, records);
  }

  /** What the manifest says. Opens it where it is not open yet, and then fills the catalog from it. */
  async state(definition: StoredGroup): Promise<ManifestState> {
    return (await this.get(definition)).state;
  }

  async commit(definition: StoredGroup, records: readonly ManifestRecord[]): Promise<void> {
    if (records.length === 0) return;
    const manifest = await this.get(definition);
    try {
      await manifest.commit(records);
    } catch (error) {
      // An instance whose write failed commits nothing more; the next look opens the file anew.
      await this.close(definition.id);
      throw error;
    }
    await this.history.apply(definition.id, records);
  }

  async close(groupId: string): Promise<void> {
    const manifest = this.open.get(groupId);
    this.open.delete(groupId);
    await manifest?.then((opened) => opened.close()).catch(() => undefined);
  }

  /** Removes everything that the group has on its devices. */
  async removeHistory(definition: StoredGroup): Promise<void> {
    await this.close(definition.id);
    for (const device of definition.devices) {
      const folder = groupFolder(device.path, definition.id);
      await rm(folder, { recursive: true, force: true });
      await syncFolder(groupFolder(device.path, '')).catch(() => undefined);
    }
  }

  async onApplicationShutdown(): Promise<void> {
    await Promise.all([...this.open.keys()].map((groupId) => this.close(groupId)));
  }

  private get(definition: StoredGroup): Promise<Manifest> {
    const { id } = definition;
    let manifest = this.open.get(id);
    if (manifest === undefined) {
      manifest = this.openFile(definition);
      this.open.set(id, manifest);
      manifest.catch(() => {
        if (this.open.get(id) === manifest) this.open.delete(id);
      });
    }
    return manifest;
  }

  private async openFile(definition: StoredGroup): Promise<Manifest> {
    const file = fileOf(definition);
    const manifest = await Manifest.open(file, definition.id).catch((error: unknown) => {
      // Of a group that is there, a manifest that is not is damage, not a wrong question.
      if (errnoOf(error) !== 'NOT_FOUND') throw error;
      throw new EverpointError('CORRUPTION', `the manifest ${file} is missing`, {
        operation: 'open manifest',
        file,
        cause: error,
        hint: 'mount the device if it is not; else put the file back from a copy of the device',
      });
    });
    // A crash may have come between a commit and its catalog rows, or the catalog may be new.
    await this.history.replace(definition.id, manifest.state);
    return manifest;
  }
}

function fileOf(definition: StoredGroup): string {
  const [first] = definition.devices;
  if (first === undefined) {
    throw new EverpointError('CORRUPTION', `The group ${definition.name} has no device.`, {
      operation: 'find manifest',
    });
  }
  return manifestPath(groupFolder(first.path, definition.id));
}
