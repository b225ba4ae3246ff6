// SPDX-License-Identifier: Apache-2.0
import { mkdir, realpath } from 'node:fs/promises';
import path from 'node:path';
import { Inject, Injectable } from '@nestjs/common';
import { DeviceRepository } from '../catalog/device.repository.js';
import { GroupRepository } from '../catalog/group.repository.js';
import { errnoOf } from '../common/errors.js';
import { InvalidFieldsError } from '../common/rest/problem.js';
import { Settings } from '../config/configuration.js';
import { groupOfRow } from './stored-group.js';

/** Names in the state folder that belong to the service: no disk and no restore may lie there. */
const OWN_NAMES = [
  /^catalog\.sqlite/,
  /^admin\.token/,
  /^registry\.json$/,
  /^control\./,
  /^data-?plane/,
  /^run$/,
  /^tokens/,
  /^buffers$/,
];

/** Where log buffers that are files may lie without a root of their own, below the state folder. */
const BUFFERS = 'buffers';

/**
 * Decides where a caller may have files made or written. What counts is where a path really leads:
 * links in it are followed before it is compared.
 */
@Injectable()
export class PathGuard {
  constructor(
    @Inject(Settings) private readonly settings: Settings,
    @Inject(DeviceRepository) private readonly devices: DeviceRepository,
    @Inject(GroupRepository) private readonly groups: GroupRepository,
  ) {}

  /**
   * The real path of what `given` names, or will name once it is made.
   * @throws INVALID_ARGUMENT naming `field` when it is not under a root, or is the service's own
   */
  async resolve(field: string, given: string): Promise<string> {
    const real = await this.realPath(field, given);
    const roots = await Promise.all(this.settings.roots.map(realOrSame));
    if (!roots.some((root) => isBelow(real, root))) {
      throw new InvalidFieldsError(
        'check path',
        [{ field, message: `${real} is not under a configured root (${roots.join(', ')})` }],
        'Put the file under one of the roots, or add its folder to EVERPOINT_ROOTS.',
      );
    }
    const owner = await this.ownerOf(real);
    if (owner !== undefined) {
      throw new InvalidFieldsError('check path', [
        { field, message: `${real} belongs to ${owner}` },
      ]);
    }
    return real;
  }

  /**
   * The real path of a log buffer's file: under a root like every other file, or in the folder
   * `buffers` of the state folder, which is made when it is missing.
   */
  async resolveBuffer(field: string, given: string): Promise<string> {
    const own = path.join(this.settings.state, BUFFERS);
    if (path.dirname(given) !== own) return this.resolve(field, given);
    await mkdir(own, { recursive: true, mode: 0o700 });
    const real = await this.realPath(field, given);
    const inside = path.dirname(real) === (await realOrSame(own));
    const owner = await this.bufferOf(real);
    if (inside && owner === undefined) return real;
    const message = `${real} ${inside ? `belongs to ${owner}` : `is not in ${own}`}`;
    throw new InvalidFieldsError('check path', [{ field, message }]);
  }

  /** Name of the group that has the file as a primary. */
  async primaryOf(real: string): Promise<string | undefined> {
    for (const row of await this.groups.list()) {
      const { definition, name } = groupOfRow(row);
      for (const volume of definition.volumes) {
        if ((await realOrSame(volume.primary.path)) === real) return name;
      }
    }
    return undefined;
  }

  private async bufferOf(real: string): Promise<string | undefined> {
    for (const row of await this.groups.list()) {
      const { definition, name } = groupOfRow(row);
      const { logBuffer } = definition;
      if (logBuffer.kind === 'tmpfs') continue;
      if ((await realOrSame(logBuffer.path)) === real) return `the group ${name}: its log buffer`;
    }
    return undefined;
  }

  private async realPath(field: string, given: string): Promise<string> {
    const fault = (message: string): InvalidFieldsError =>
      new InvalidFieldsError('check path', [{ field, message }]);
    const normal = path.resolve(given);
    if (normal !== given || path.basename(normal) === '') {
      throw fault(
        `${given} must be the plain absolute path of a file, without "..", "//" or a "/" at its end`,
      );
    }
    try {
      return await realpath(normal);
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') throw fault((error as Error).message);
    }
    try {
      return path.join(await realpath(path.dirname(normal)), path.basename(normal));
    } catch (error) {
      if (errnoOf(error) === 'ENOENT')
        throw fault(`its folder ${path.dirname(normal)} does not exist`);
      throw fault((error as Error).message);
    }
  }

  private async ownerOf(real: string): Promise<string | undefined> {
    for (const device of await this.devices.list()) {
      if (isBelow(real, device.path)) return `the device ${device.name}`;
    }
    const buffer = await this.bufferOf(real);
    if (buffer !== undefined) return buffer;
    if (isBelow(real, await realOrSame(this.settings.runDir))) return 'the sockets of this service';
    const state = await realOrSame(this.settings.state);
    if (!isBelow(real, state)) return undefined;
    const [first = ''] = path.relative(state, real).split(path.sep);
    return OWN_NAMES.some((name) => name.test(first)) ? 'this service itself' : undefined;
  }
}

function isBelow(file: string, folder: string): boolean {
  const way = path.relative(folder, file);
  return way !== '' && !way.startsWith('..') && !path.isAbsolute(way);
}

async function realOrSame(file: string): Promise<string> {
  return realpath(file).catch(() => file);
}
