// SPDX-License-Identifier: Apache-2.0
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { Inject, Injectable, Logger, type OnApplicationShutdown } from '@nestjs/common';
import { HistoryRepository } from '../catalog/history.repository.js';
import { errnoOf, EverpointError } from '../common/errors.js';
import { syncFolder } from '../common/files.js';
import { readIdentity } from '../devices/identity.js';
import { manifestPath, type ManifestRecord } from '../maps/manifest.js';
import { type CopyPlace, ManifestCopies } from '../maps/manifest-copies.js';
import type { ManifestState } from '../maps/manifest-records.js';
import { groupFolder } from '../maps/segment/folder.js';
import type { StoredGroup } from './stored-group.js';

/** Of a group with more devices, the first so many have a copy of the manifest. */
const COPIES_MAX = 2;

/**
 * The open manifests, one instance per group. A group's manifest lies on the first two of its devices.
 * Every commit goes to the manifest, durably, and then into the catalog.
 */
@Injectable()
export class ManifestStore implements OnApplicationShutdown {
  private readonly logger = new Logger(ManifestStore.name);
  private readonly open = new Map<string, Promise<ManifestCopies>>();
  private readonly troubles = new Map<string, ReadonlyMap<string, string>>();

  constructor(@Inject(HistoryRepository) private readonly history: HistoryRepository) {}

  /** Makes the manifest of a new group. @throws ALREADY_EXISTS */
  async create(definition: StoredGroup, records: ManifestRecord[]): Promise<void> {
    const { id } = definition;
    const manifest = await ManifestCopies.create(placesOf(definition), id, this.options());
    this.open.set(id, Promise.resolve(manifest));
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
    this.note(definition.id, manifest);
    await this.history.apply(definition.id, records);
  }

  /** Brings copies that are behind to the newest state, where their devices are back. */
  async heal(definition: StoredGroup): Promise<void> {
    const manifest = await this.get(definition);
    await manifest.heal();
    this.note(definition.id, manifest);
  }

  /** What is wrong with the copies of a group's manifest, in words. */
  troubleOf(groupId: string): string | undefined {
    const troubles = [...(this.troubles.get(groupId) ?? [])];
    if (troubles.length === 0) return undefined;
    return troubles.map(([file, why]) => `the copy ${file} is behind: ${why}`).join('; ');
  }

  async close(groupId: string): Promise<void> {
    const manifest = this.open.get(groupId);
    this.open.delete(groupId);
    this.troubles.delete(groupId);
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

  private get(definition: StoredGroup): Promise<ManifestCopies> {
    const { id } = definition;
    let manifest = this.open.get(id);
    if (manifest === undefined) {
      manifest = this.openFiles(definition);
      this.open.set(id, manifest);
      manifest.catch(() => {
        if (this.open.get(id) === manifest) this.open.delete(id);
      });
    }
    return manifest;
  }

  private async openFiles(definition: StoredGroup): Promise<ManifestCopies> {
    const places = placesOf(definition);
    const opening = ManifestCopies.open(places, definition.id, this.options());
    const manifest = await opening.catch((error: unknown) => {
      // Of a group that is there, a manifest that is not is damage, not a wrong question.
      if (errnoOf(error) !== 'NOT_FOUND') throw error;
      const files = places.map(({ file }) => file).join(' and ');
      throw new EverpointError('CORRUPTION', `the manifest is missing: ${files}`, {
        operation: 'open manifest',
        file: places[0]?.file,
        cause: error,
        hint: 'mount the device if it is not; else put the file back from a copy of the device',
      });
    });
    this.note(definition.id, manifest);
    // A crash may have come between a commit and its catalog rows, or the catalog may be new.
    await this.history.replace(definition.id, manifest.state);
    return manifest;
  }

  private note(groupId: string, manifest: ManifestCopies): void {
    const { troubles } = manifest;
    if (troubles.size > 0) this.troubles.set(groupId, troubles);
    else this.troubles.delete(groupId);
  }

  private options() {
    return {
      onTrouble: (file: string, message: string) => {
        this.logger.warn(`the manifest's copy ${file}: ${message}`);
      },
    };
  }
}

/** The files of a group's manifest on those of its devices that have one. */
export function manifestFiles(definition: StoredGroup): string[] {
  return placesOf(definition).map(({ file }) => file);
}

function placesOf({ id, name, devices }: StoredGroup): CopyPlace[] {
  if (devices.length === 0) {
    throw new EverpointError('CORRUPTION', `The group ${name} has no device.`, {
      operation: 'find manifest',
    });
  }
  return devices.slice(0, COPIES_MAX).map((device) => ({
    file: manifestPath(groupFolder(device.path, id)),
    refusal: () => refusalOf(device),
  }));
}

/** A folder whose disk is not mounted, or where another one is, gets no copy. */
async function refusalOf(device: { id: string; path: string }): Promise<string | undefined> {
  const there = await readIdentity(device.path);
  if (there === device.id) return undefined;
  const folder = path.resolve(device.path);
  return there === undefined
    ? `${folder} has no identity file; is its disk mounted?`
    : `the device ${there} stands in ${folder}`;
}
