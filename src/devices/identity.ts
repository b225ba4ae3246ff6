// SPDX-License-Identifier: Apache-2.0
import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { crc32 } from '../common/crc.js';
import { errnoOf, EverpointError } from '../common/errors.js';
import { writeFileAtomic } from '../common/files.js';
import { formatTime, nowNs } from '../common/time.js';
import { isUuid } from '../common/uuid.js';

export const IDENTITY_FILE = 'everpoint.device';
const MAGIC = 'everpoint device';
const VERSION = 1;

/** The UUID in a folder's identity file, nothing when there is none. @throws CORRUPTION, UNSUPPORTED */
export async function readIdentity(folder: string): Promise<string | undefined> {
  const file = path.join(folder, IDENTITY_FILE);
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  }
  const fault = (why: string): EverpointError =>
    new EverpointError('CORRUPTION', `${file} is damaged: ${why}`, {
      operation: 'read device identity',
      file,
      hint: 'Put the file back from a copy; its UUID stands in the manifests of groups on the device.',
    });
  let parsed: Record<string, unknown>;
  try {
    parsed = JSON.parse(text) as Record<string, unknown>;
  } catch {
    throw fault('it is not JSON');
  }
  const { magic, version, uuid, created, crc } = parsed;
  if (magic !== MAGIC) throw fault('it is not a device identity');
  if (version !== VERSION) {
    throw new EverpointError('UNSUPPORTED', `${file} has version ${String(version)}`, {
      operation: 'read device identity',
      file,
      hint: `This program knows version ${VERSION}.`,
    });
  }
  if (crc !== crc32(JSON.stringify({ magic, version, uuid, created }))) {
    throw fault('its checksum does not match');
  }
  if (typeof uuid !== 'string' || !isUuid(uuid)) throw fault('it has no UUID');
  return uuid;
}

/** Makes a folder a device. */
export async function writeIdentity(folder: string): Promise<string> {
  const uuid = randomUUID();
  const body = { magic: MAGIC, version: VERSION, uuid, created: formatTime(nowNs()) };
  const text = JSON.stringify({ ...body, crc: crc32(JSON.stringify(body)) });
  await writeFileAtomic(path.join(folder, IDENTITY_FILE), `${text}\n`);
  return uuid;
}
