// SPDX-License-Identifier: Apache-2.0

import * as path from 'node:path';

import { EverpointError } from '../common/errors.js';
import {
  DEVICES_PER_GROUP_MAX,
  LOG_BUFFER_BYTES_MAX,
  LOG_BUFFER_BYTES_MIN,
  MARKER_LABEL_BYTES_MAX,
  SECTOR_BYTES,
  SEGMENT_BYTES_MAX,
  THROTTLE_MS_MAX,
  VOLUME_BYTES_MAX,
  VOLUME_NAME_BYTES_MAX,
  VOLUMES_PER_GROUP_MAX,
} from '../common/limits.js';
import { isUuid } from '../common/uuid.js';
import { SOCKET_PATH_BYTES_MAX } from './paths.js';
import type {
  ExportDefinition,
  GroupChange,
  GroupDefinition,
  MarkerRequest,
  VolumeDefinition,
} from './port.js';

/**
 * Early checks of everything that comes over the port, before it reaches the addon or a file. What
 * is checked here is what the values mean by themselves; whether files exist is the caller's.
 */

export const SEGMENT_BYTES_MIN = 8 * 1024 * 1024;
export const QUEUES_PER_EXPORT_MAX = 64;
export const NAME_BYTES_MAX = 255;
const ID_MAX = 0xffff_fffe;

const ACK = ['primary', 'both'];
const PRESSURE = ['throttle', 'gap'];
const BUFFER_KINDS = ['tmpfs', 'file', 'pmem'];

type Fields = Record<string, unknown>;

function refuse(message: string): never {
  throw new EverpointError('INVALID_ARGUMENT', message, { operation: 'check definition' });
}

function fields(value: unknown, what: string): Fields {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    refuse(`${what} must be an object`);
  }
  return value as Fields;
}

function onlyKnown(value: Fields, known: readonly string[], what: string): void {
  for (const key of Object.keys(value)) {
    if (!known.includes(key)) refuse(`${what} has an unknown field ${JSON.stringify(key)}`);
  }
}

function text(value: unknown, what: string, bytesMax: number): string {
  if (typeof value !== 'string' || value === '') refuse(`${what} must be a text`);
  if (Buffer.byteLength(value) > bytesMax) refuse(`${what} is longer than ${bytesMax} bytes`);
  if (value.includes('\0')) refuse(`${what} must not hold a NUL`);
  return value;
}

function absolute(value: unknown, what: string, bytesMax = 4095): string {
  const at = text(value, what, bytesMax);
  if (!path.isAbsolute(at)) refuse(`${what} must be an absolute path`);
  return at;
}

function integer(value: unknown, what: string, min: number, max: number): number {
  if (!Number.isSafeInteger(value) || (value as number) < min || (value as number) > max) {
    refuse(`${what} must be a whole number from ${min} to ${max}`);
  }
  return value as number;
}

function oneOf(value: unknown, what: string, values: readonly string[]): void {
  if (!values.includes(value as string)) refuse(`${what} must be one of ${values.join(', ')}`);
}

function list(value: unknown, what: string, min: number, max: number): unknown[] {
  if (!Array.isArray(value) || value.length < min || value.length > max) {
    refuse(`${what} must be a list of ${min} to ${max}`);
  }
  return value as unknown[];
}

function unique(values: readonly (string | number)[], what: string): void {
  if (new Set(values).size !== values.length) refuse(`${what} must differ`);
}

/** The id of a group in a call. @throws INVALID_ARGUMENT */
export function checkGroupId(value: unknown): string {
  if (typeof value !== 'string' || !isUuid(value)) refuse('the group must be a UUID');
  return value;
}

/** @throws INVALID_ARGUMENT that names the field */
export function checkDefinition(value: unknown): GroupDefinition {
  const group = fields(value, 'the definition');
  const known = [
    ...['id', 'name', 'ack', 'flush', 'onLogPressure', 'throttleMaxMs', 'devices', 'logBuffer'],
    ...['segmentBytes', 'sealAfterMs', 'volumes'],
  ];
  onlyKnown(group, known, 'the definition');
  checkGroupId(group['id']);
  checkSettings(group, ['name', 'ack', 'flush', 'onLogPressure', 'throttleMaxMs']);
  if (group['segmentBytes'] !== undefined) {
    integer(group['segmentBytes'], 'segmentBytes', SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
  }
  if (group['sealAfterMs'] !== undefined) integer(group['sealAfterMs'], 'sealAfterMs', 1, ID_MAX);
  checkDevices(group['devices']);
  checkLogBuffer(group['logBuffer']);
  const volumes = list(group['volumes'], 'volumes', 1, VOLUMES_PER_GROUP_MAX).map(checkVolume);
  unique(
    volumes.map((volume) => volume.number),
    'the numbers of the volumes',
  );
  unique(
    volumes.map((volume) => volume.name),
    'the names of the volumes',
  );
  unique(
    volumes.map((volume) => path.resolve(volume.primary.path)),
    'the primaries',
  );
  unique(
    volumes.flatMap((volume) => volume.exports.map((at) => path.resolve(at.path))),
    'the sockets',
  );
  return value as GroupDefinition;
}

/** @throws INVALID_ARGUMENT that names the field */
export function checkChange(value: unknown): GroupChange {
  const change = fields(value, 'the change');
  const known = ['name', 'ack', 'flush', 'onLogPressure', 'throttleMaxMs'];
  onlyKnown(change, known, 'the change');
  checkSettings(
    change,
    known.filter((key) => change[key] !== undefined),
  );
  return value as GroupChange;
}

/** @throws INVALID_ARGUMENT that names the field */
export function checkMarker(value: unknown): MarkerRequest {
  const marker = fields(value, 'the marker');
  onlyKnown(marker, ['label', 'keepUntilNs'], 'the marker');
  text(marker['label'], 'the label', MARKER_LABEL_BYTES_MAX);
  const keep = marker['keepUntilNs'];
  if (keep !== undefined && keep !== 'forever') {
    if (typeof keep !== 'string' || !/^\d{1,19}$/.test(keep)) {
      refuse('keepUntilNs must be nanoseconds in decimal digits, or forever');
    }
  }
  return value as MarkerRequest;
}

function checkSettings(group: Fields, keys: readonly string[]): void {
  for (const key of keys) {
    const value = group[key];
    if (key === 'name') text(value, key, NAME_BYTES_MAX);
    else if (key === 'throttleMaxMs') integer(value, key, 0, THROTTLE_MS_MAX);
    else oneOf(value, key, key === 'onLogPressure' ? PRESSURE : ACK);
  }
}

function checkDevices(value: unknown): void {
  const devices = list(value, 'devices', 1, DEVICES_PER_GROUP_MAX).map((one) => {
    const device = fields(one, 'a device');
    onlyKnown(device, ['id', 'path'], 'a device');
    if (typeof device['id'] !== 'string' || !isUuid(device['id'])) {
      refuse("a device's id must be a UUID");
    }
    return { id: device['id'], path: absolute(device['path'], "a device's path") };
  });
  unique(
    devices.map((device) => device.id),
    'the devices',
  );
  unique(
    devices.map((device) => path.resolve(device.path)),
    "the devices' folders",
  );
}

function checkLogBuffer(value: unknown): void {
  const buffer = fields(value, 'logBuffer');
  onlyKnown(buffer, ['kind', 'path', 'bytes'], 'logBuffer');
  oneOf(buffer['kind'], 'logBuffer.kind', BUFFER_KINDS);
  if (buffer['kind'] !== 'tmpfs') {
    if (buffer['path'] === undefined) {
      refuse(
        `logBuffer.path is missing: a buffer of kind ${String(buffer['kind'])} names its file`,
      );
    }
    absolute(buffer['path'], 'logBuffer.path');
  } else if (buffer['path'] !== undefined) {
    refuse('logBuffer.path: a buffer of kind tmpfs places itself');
  }
  if (buffer['bytes'] !== undefined) {
    integer(buffer['bytes'], 'logBuffer.bytes', LOG_BUFFER_BYTES_MIN, LOG_BUFFER_BYTES_MAX);
  }
}

function checkVolume(value: unknown): VolumeDefinition {
  const volume = fields(value, 'a volume');
  onlyKnown(volume, ['number', 'name', 'blockSize', 'primary', 'exports'], 'a volume');
  integer(volume['number'], "a volume's number", 0, VOLUMES_PER_GROUP_MAX - 1);
  const name = text(volume['name'], "a volume's name", VOLUME_NAME_BYTES_MAX);
  if (volume['blockSize'] !== 512 && volume['blockSize'] !== 4096) {
    refuse(`volume ${name}: blockSize must be 512 or 4096`);
  }
  checkPrimary(fields(volume['primary'], `volume ${name}: primary`), name);
  list(volume['exports'], `volume ${name}: exports`, 0, 16).forEach((one) => {
    checkExport(one, name);
  });
  return value as VolumeDefinition;
}

function checkPrimary(primary: Fields, name: string): void {
  const what = `volume ${name}: primary`;
  onlyKnown(primary, ['kind', 'path', 'sizeBytes', 'create'], what);
  oneOf(primary['kind'], `${what}.kind`, ['file', 'device']);
  absolute(primary['path'], `${what}.path`);
  const { sizeBytes, create } = primary;
  if (sizeBytes !== undefined) {
    const size = integer(sizeBytes, `${what}.sizeBytes`, SECTOR_BYTES, VOLUME_BYTES_MAX);
    if (size % SECTOR_BYTES !== 0) refuse(`${what}.sizeBytes must be a multiple of 512`);
  }
  if (create !== undefined && typeof create !== 'boolean') refuse(`${what}.create must be boolean`);
  if (create === true && primary['kind'] !== 'file') refuse(`${what}: only a file can be created`);
  if (create === true && sizeBytes === undefined) refuse(`${what}: create needs sizeBytes`);
}

function checkExport(value: unknown, name: string): ExportDefinition {
  const what = `volume ${name}: export`;
  const one = fields(value, what);
  onlyKnown(one, ['kind', 'queues', 'path', 'uid', 'gid'], what);
  oneOf(one['kind'], `${what}.kind`, ['vhost-user-blk']);
  integer(one['queues'], `${what}.queues`, 1, QUEUES_PER_EXPORT_MAX);
  absolute(one['path'], `${what}.path`, SOCKET_PATH_BYTES_MAX);
  if (one['uid'] !== undefined) integer(one['uid'], `${what}.uid`, 0, ID_MAX);
  if (one['gid'] !== undefined) integer(one['gid'], `${what}.gid`, 0, ID_MAX);
  return value as ExportDefinition;
}
