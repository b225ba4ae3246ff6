// SPDX-License-Identifier: Apache-2.0
import { constants } from 'node:fs';
import { access, mkdir, realpath, stat, statfs } from 'node:fs/promises';
import path from 'node:path';
import { Inject, Injectable } from '@nestjs/common';
import { DeviceRepository, type DeviceRow } from '../catalog/device.repository.js';
import { GroupRepository } from '../catalog/group.repository.js';
import { RegistryKeeper } from '../catalog/registry-keeper.js';
import { errnoOf, EverpointError } from '../common/errors.js';
import { syncFolder } from '../common/files.js';
import { NAME_PATTERN } from '../common/rest/fields.js';
import { alreadyExists, InvalidFieldsError, notFound } from '../common/rest/problem.js';
import { nowNs } from '../common/time.js';
import { Settings } from '../config/configuration.js';
import type { DataPlanePort } from '../data-plane/port.js';
import { DATA_PLANE } from '../events/data-plane-events.js';
import type { DeviceAnswer, DeviceState } from './device.dto.js';
import { readIdentity, writeIdentity } from './identity.js';

export const DEFAULT_DEVICE = 'default';

/** A folder that says nothing for so long is on a device that hangs. */
const LOOK_MS = 3_000;

/** Keeps the folders that logs and maps may lie on. */
@Injectable()
export class DeviceService {
  constructor(
    @Inject(DeviceRepository) private readonly devices: DeviceRepository,
    @Inject(GroupRepository) private readonly groups: GroupRepository,
    @Inject(RegistryKeeper) private readonly registry: RegistryKeeper,
    @Inject(Settings) private readonly settings: Settings,
    @Inject(DATA_PLANE) private readonly port: DataPlanePort,
  ) {}

  /** Makes `<state>/secondary` the device `default` where there is none of that name. */
  async ensureDefault(): Promise<void> {
    if ((await this.devices.find(DEFAULT_DEVICE)) !== undefined) return;
    await this.add(path.join(this.settings.state, 'secondary'), DEFAULT_DEVICE);
  }

  list(): Promise<DeviceRow[]> {
    return this.devices.list();
  }

  /** By name or id. @throws NOT_FOUND */
  async get(nameOrId: string): Promise<DeviceRow> {
    const row = await this.devices.find(nameOrId);
    if (row === undefined) throw notFound('device', nameOrId);
    return row;
  }

  /** Takes a folder as a device. */
  async add(folder: string, name?: string): Promise<DeviceRow> {
    const real = await this.usableFolder(folder);
    if ((await this.devices.findByPath(real)) !== undefined) throw alreadyExists('device', real);
    if (name !== undefined && (await this.devices.find(name)) !== undefined) {
      throw alreadyExists('device', name);
    }
    const id = (await readIdentity(real)) ?? (await writeIdentity(real));
    const known = await this.devices.find(id);
    if (known !== undefined) {
      // The folder moved, or is a copy of a device that still stands where it was.
      if ((await this.examine(known)).state === 'ready') {
        throw new EverpointError(
          'ALREADY_EXISTS',
          `The folder ${real} has the identity of the device ${known.name} at ${known.path}.`,
          {
            operation: 'add device',
            hint: 'One of them is a copy. Remove the file everpoint.device from the copy.',
          },
        );
      }
      await this.devices.update(id, { path: real, ...(name !== undefined && { name }) });
    } else {
      const given = name ?? (await this.freeName(real, id));
      await this.devices.insert({ id, name: given, path: real, created_ns: nowNs().toString() });
    }
    await this.registry.save();
    return this.get(id);
  }

  /** Forgets a device; what lies on it stays. CONFLICT while a group uses it. */
  async remove(nameOrId: string): Promise<void> {
    const row = await this.get(nameOrId);
    const users = await this.groups.usersOfDevice(row.id);
    if (users.length > 0) {
      throw new EverpointError(
        'CONFLICT',
        `The device ${row.name} is used by ${users.join(', ')}.`,
        { operation: 'remove device', hint: 'Delete these groups first.' },
      );
    }
    if (row.name === DEFAULT_DEVICE) {
      throw new EverpointError('CONFLICT', 'The device "default" is always there.', {
        operation: 'remove device',
      });
    }
    await this.devices.remove(row.id);
    await this.registry.save();
  }

  /** A device with its sizes and state as they are now, by the word of the groups' logs too. */
  async examine(row: DeviceRow): Promise<DeviceAnswer> {
    const heard = await this.troubleOf(row.id);
    // A device that hangs would hang whoever looks.
    const hangs = () => describe(row, 'failed', 'It does not answer.');
    const looked = await within(LOOK_MS, this.look(row), hangs);
    if (looked.state !== 'ready' || heard === undefined) return looked;
    return { ...looked, ...heard };
  }

  /** What the log of a group says of a device, if it is no good. */
  private async troubleOf(
    deviceId: string,
  ): Promise<{ state: DeviceState; reason: string } | undefined> {
    const groups = await this.port.listGroups().catch(() => []);
    for (const { name, devices } of groups) {
      const found = devices.find((one) => one.id === deviceId);
      if (found === undefined || found.state === 'ok') continue;
      const { state } = found;
      return { state, reason: `The log of ${name}: ${found.reason || state}` };
    }
    return undefined;
  }

  private async look(row: DeviceRow): Promise<DeviceAnswer> {
    const { id, path: folder } = row;
    const answer = (state: DeviceState, reason?: string) => describe(row, state, reason);
    try {
      const uuid = await readIdentity(folder);
      if (uuid === undefined) {
        await stat(folder);
        return answer('missing', 'The folder has no identity file; is its disk mounted?');
      }
      if (uuid !== id) return answer('foreign', `The device ${uuid} stands there.`);
      await access(folder, constants.R_OK | constants.W_OK | constants.X_OK);
      const { blocks, bfree, bavail, bsize } = await statfs(folder);
      return {
        ...answer('ready'),
        sizeBytes: blocks * bsize,
        freeBytes: bavail * bsize,
        usedBytes: (blocks - bfree) * bsize,
      };
    } catch (error) {
      const state = errnoOf(error) === 'ENOENT' ? 'missing' : 'failed';
      return answer(state, (error as Error).message);
    }
  }

  private async usableFolder(folder: string): Promise<string> {
    try {
      const made = await mkdir(folder).then(
        () => true,
        (error: unknown) => {
          if (errnoOf(error) === 'EEXIST') return false;
          throw error;
        },
      );
      if (made) await syncFolder(path.dirname(folder));
      const real = await realpath(folder);
      if (!(await stat(real)).isDirectory()) {
        throw new InvalidFieldsError('add device', [{ field: 'path', message: 'is not a folder' }]);
      }
      await access(real, constants.R_OK | constants.W_OK | constants.X_OK);
      return real;
    } catch (error) {
      if (error instanceof EverpointError) throw error;
      throw new InvalidFieldsError(
        'add device',
        [{ field: 'path', message: (error as Error).message }],
        'The folder must be writable; it is made only where its parent exists.',
      );
    }
  }

  private async freeName(folder: string, id: string): Promise<string> {
    const base = path.basename(folder);
    const free = NAME_PATTERN.test(base) && (await this.devices.find(base)) === undefined;
    return free ? base : `device-${id.slice(0, 8)}`;
  }
}

/** A device that nobody could look at. */
function describe(row: DeviceRow, state: DeviceState, reason?: string): DeviceAnswer {
  const { id, name, path: folder } = row;
  return {
    id,
    name,
    path: folder,
    sizeBytes: 0,
    freeBytes: 0,
    usedBytes: 0,
    state,
    ...(reason !== undefined && { reason }),
  };
}

async function within<T>(ms: number, work: Promise<T>, late: () => T): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const bound = new Promise<T>((resolve) => {
    timer = setTimeout(() => {
      resolve(late());
    }, ms);
  });
  try {
    return await Promise.race([work, bound]);
  } finally {
    clearTimeout(timer);
  }
}
