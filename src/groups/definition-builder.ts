// SPDX-License-Identifier: Apache-2.0
import { type Stats } from 'node:fs';
import { lstat, stat } from 'node:fs/promises';
import path from 'node:path';
import { Inject, Injectable } from '@nestjs/common';
import type { DeviceRow } from '../catalog/device.repository.js';
import { GroupRepository } from '../catalog/group.repository.js';
import { errnoOf, EverpointError } from '../common/errors.js';
import { VOLUME_NAME_BYTES_MAX } from '../common/limits.js';
import { InvalidFieldsError } from '../common/rest/problem.js';
import { Settings } from '../config/configuration.js';
import { SOCKET_VOLUME_BYTES_MAX } from '../config/load.js';
import { SOCKET_PATH_BYTES_MAX } from '../data-plane/paths.js';
import type {
  ExportDefinition,
  GroupDefinition,
  LogBufferDefinition,
  VolumeDefinition,
} from '../data-plane/port.js';
import { DeviceService } from '../devices/device.service.js';
import type { ExportBody, GroupBody, LogBufferBody, PrimaryBody, VolumeBody } from './group.dto.js';
import { resolveOwner } from './owner.js';
import { PathGuard } from './path-guard.js';
import { groupOfRow } from './stored-group.js';

const OPERATION = 'create group';

/** Turns a checked body into a definition for the data plane, or says what cannot be. */
@Injectable()
export class DefinitionBuilder {
  constructor(
    @Inject(Settings) private readonly settings: Settings,
    @Inject(DeviceService) private readonly devices: DeviceService,
    @Inject(GroupRepository) private readonly groups: GroupRepository,
    @Inject(PathGuard) private readonly paths: PathGuard,
  ) {}

  /** Primaries that are to be made still have `create`. */
  async build(id: string, body: GroupBody): Promise<GroupDefinition> {
    refuseLater(body);
    const volumes: VolumeDefinition[] = [];
    for (const [number, volume] of body.volumes.entries()) {
      volumes.push(await this.volume(id, number, volume));
    }
    await this.checkDistinct(volumes);
    const { segmentBytes, sealAfterMs } = this.settings;
    return {
      id,
      name: body.name,
      ack: body.ack,
      flush: body.flush,
      onLogPressure: body.onLogPressure,
      throttleMaxMs: body.throttleMaxMs,
      devices: (await this.readyDevices(body.devices)).map(({ id, path }) => ({ id, path })),
      logBuffer: await this.logBuffer(body.logBuffer ?? { kind: 'tmpfs' }, volumes),
      ...(segmentBytes !== undefined && { segmentBytes }),
      ...(sealAfterMs !== undefined && { sealAfterMs }),
      volumes,
    };
  }

  /** The file of a buffer that has one: new, and nobody else's. */
  private async logBuffer(
    body: LogBufferBody,
    volumes: readonly VolumeDefinition[],
  ): Promise<LogBufferDefinition> {
    const { kind, bytes } = body;
    const field = 'logBuffer.path';
    const size = bytes === undefined ? {} : { bytes };
    if (kind === 'tmpfs') {
      if (body.path !== undefined) throw refuse(field, 'a tmpfs buffer finds its own place');
      return { kind, ...size };
    }
    if (body.path === undefined) throw refuse(field, `is needed: a ${kind} buffer is a file`);
    const real = await this.paths.resolveBuffer(field, body.path);
    if (volumes.some(({ primary }) => primary.path === real)) {
      throw refuse(field, `${real} is a primary of this group`);
    }
    // It is written all over: what lies there already is never taken for an old buffer.
    if ((await statOrNothing(real)) !== undefined) {
      throw new EverpointError('ALREADY_EXISTS', `${real} exists already.`, {
        operation: OPERATION,
        hint: 'Choose another path for the log buffer, or remove the file.',
      });
    }
    return { kind, path: real, ...size };
  }

  private async readyDevices(names: string[]): Promise<DeviceRow[]> {
    const rows: DeviceRow[] = [];
    for (const [index, name] of names.entries()) {
      const field = `devices.${index}`;
      const row = await this.devices.get(name).catch((error: unknown) => {
        if (error instanceof EverpointError && error.code === 'NOT_FOUND')
          throw refuse(field, error.message);
        throw error;
      });
      if (rows.some((other) => other.id === row.id)) throw refuse(field, 'is given twice');
      const { state, reason } = await this.devices.examine(row);
      if (state !== 'ready') throw refuse(field, `the device is ${state}: ${reason ?? ''}`);
      rows.push(row);
    }
    return rows;
  }

  private async volume(id: string, number: number, body: VolumeBody): Promise<VolumeDefinition> {
    const at = `volumes.${number}`;
    if (Buffer.byteLength(body.name) > VOLUME_NAME_BYTES_MAX) {
      throw refuse(`${at}.name`, `has more than ${VOLUME_NAME_BYTES_MAX} bytes`);
    }
    const primary = await this.primary(`${at}.primary`, body.primary, body.blockSize);
    const exports: ExportDefinition[] = [];
    const wanted: ExportBody[] = body.exports ?? [{ kind: 'vhost-user-blk' }];
    for (const [index, one] of wanted.entries()) {
      const fallback = this.socketPath(id, number, body.name, index);
      exports.push(await this.export(`${at}.exports.${index}`, one, fallback));
    }
    return { number, name: body.name, blockSize: body.blockSize, primary, exports };
  }

  private async primary(
    field: string,
    body: PrimaryBody,
    blockSize: number,
  ): Promise<VolumeDefinition['primary']> {
    if (body.path === undefined) throw refuse(`${field}.path`, 'is needed');
    if (body.bdev !== undefined) throw refuse(`${field}.bdev`, `is not for the kind ${body.kind}`);
    const kind = body.kind as 'file' | 'device';
    const real = await this.paths.resolve(`${field}.path`, body.path);
    const taken = await this.paths.primaryOf(real);
    if (taken !== undefined) {
      throw new EverpointError('CONFLICT', `${real} is a primary of the group ${taken} already.`, {
        operation: OPERATION,
      });
    }
    const { sizeBytes } = body;
    const found = await statOrNothing(real);
    if (body.create === true) {
      if (kind !== 'file') throw refuse(`${field}.create`, 'is for files only');
      if (sizeBytes === undefined) throw refuse(`${field}.sizeBytes`, 'is needed with "create"');
      if (sizeBytes % blockSize !== 0) {
        throw refuse(`${field}.sizeBytes`, `must be a multiple of the block size ${blockSize}`);
      }
      if (found !== undefined) {
        throw new EverpointError('ALREADY_EXISTS', `${real} exists already.`, {
          operation: OPERATION,
          hint: 'Leave "create" out to protect the file as it is, or choose another path.',
        });
      }
      return { kind, path: real, sizeBytes, create: true };
    }
    if (found === undefined) {
      throw refuse(`${field}.path`, `${real} does not exist; "create": true makes a file`);
    }
    checkKind(`${field}.kind`, kind, real, found);
    if (kind === 'file' && sizeBytes !== undefined && sizeBytes !== found.size) {
      throw refuse(`${field}.sizeBytes`, `${real} has ${found.size} bytes, not ${sizeBytes}`);
    }
    return { kind, path: real, ...(kind === 'file' && { sizeBytes: found.size }) };
  }

  private async export(
    field: string,
    body: ExportBody,
    fallback: string,
  ): Promise<ExportDefinition> {
    const socket = body.path ?? fallback;
    if (path.resolve(socket) !== socket)
      throw refuse(`${field}.path`, 'must be a plain absolute path');
    const bytes = Buffer.byteLength(socket);
    if (bytes > SOCKET_PATH_BYTES_MAX) {
      throw refuse(
        `${field}.path`,
        `has ${bytes} bytes; a socket's path has at most ${SOCKET_PATH_BYTES_MAX}`,
      );
    }
    const there = await lstat(socket).catch(() => undefined);
    if (there !== undefined && !there.isSocket()) {
      throw refuse(`${field}.path`, `${socket} exists and is not a socket`);
    }
    const owner = body.owner === undefined ? undefined : await resolveOwner(body.owner);
    if (body.owner !== undefined && owner === undefined) {
      throw refuse(`${field}.owner`, `there is no such user or group: ${body.owner}`);
    }
    return { kind: 'vhost-user-blk', queues: body.queues ?? 1, path: socket, ...owner };
  }

  /**
   * The same over restarts, and short enough whatever the volume's name is. One folder below the run
   * folder for each volume: it is its owner's alone, and nothing above it keeps that owner out.
   */
  private socketPath(id: string, number: number, name: string, index: number): string {
    const short = Buffer.byteLength(name) <= SOCKET_VOLUME_BYTES_MAX ? name : `v${number}`;
    const file = index === 0 ? 'vhost.sock' : `vhost-${index + 1}.sock`;
    return path.join(this.settings.runDir, `${id.slice(0, 8)}-${short}`, file);
  }

  private async checkDistinct(volumes: VolumeDefinition[]): Promise<void> {
    const primaries = new Set<string>();
    const sockets = new Set<string>();
    for (const row of await this.groups.list()) {
      for (const volume of groupOfRow(row).definition.volumes) {
        for (const one of volume.exports) sockets.add(one.path);
      }
    }
    for (const [index, volume] of volumes.entries()) {
      if (primaries.has(volume.primary.path)) {
        throw refuse(`volumes.${index}.primary.path`, 'is the primary of two volumes');
      }
      primaries.add(volume.primary.path);
      for (const one of volume.exports) {
        if (sockets.has(one.path)) {
          throw new EverpointError('CONFLICT', `The socket ${one.path} is another export's.`, {
            operation: OPERATION,
            hint: 'Choose another path, or leave it out.',
          });
        }
        sockets.add(one.path);
      }
    }
  }
}

function refuse(field: string, message: string, hint?: string): InvalidFieldsError {
  return new InvalidFieldsError(OPERATION, [{ field, message }], hint);
}

/** What api.md names and a later version does. */
function refuseLater(body: GroupBody): void {
  const faults: { field: string; message: string }[] = [];
  for (const [index, volume] of body.volumes.entries()) {
    const at = `volumes.${index}`;
    if (volume.baseline !== 'none') {
      faults.push({
        field: `${at}.baseline`,
        message:
          `"${volume.baseline}" needs an initial copy, which is not supported yet; ` +
          'set "baseline": "none" (for an empty disk)',
      });
    }
    if (volume.primary.kind === 'none' || volume.primary.kind === 'spdk') {
      faults.push({
        field: `${at}.primary.kind`,
        message: `"${volume.primary.kind}" is not supported yet; use "file" or "device"`,
      });
    }
    for (const [number, one] of (volume.exports ?? []).entries()) {
      if (one.kind === 'nbd') {
        faults.push({
          field: `${at}.exports.${number}.kind`,
          message: '"nbd" is not supported yet; use "vhost-user-blk"',
        });
      }
    }
  }
  if (faults.length > 0) throw new InvalidFieldsError(OPERATION, faults);
}

async function statOrNothing(file: string): Promise<Stats | undefined> {
  try {
    return await stat(file);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}

function checkKind(field: string, kind: 'file' | 'device', real: string, found: Stats): void {
  if (kind === 'file' && !found.isFile()) throw refuse(field, `${real} is not a regular file`);
  if (kind === 'device' && !found.isBlockDevice()) {
    throw refuse(field, `${real} is not a block device`);
  }
}
