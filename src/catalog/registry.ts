// SPDX-License-Identifier: Apache-2.0
import { readFile } from 'node:fs/promises';
import { crc32 } from '../common/crc.js';
import { errnoOf, EverpointError } from '../common/errors.js';
import { writeFileAtomic } from '../common/files.js';
import type { PolicyRow } from './policy.repository.js';
import type { DeviceRow } from './device.repository.js';

/** What no manifest can tell: which folders are devices, and the policies that were written. */
export interface RegistryContent {
  devices: DeviceRow[];
  policies: PolicyRow[];
}

const MAGIC = 'everpoint registry';
const VERSION = 1;

/**
 * `<state>/registry.json`: devices and policies, so that the catalog is a cache of them too. Written
 * whole after every change of either, and at each start; read when the catalog is missing. The line
 * format is `{magic, version, crc, content}`; `crc` is the CRC-32 of the JSON text of `content`.
 */
export class Registry {
  constructor(readonly file: string) {}

  async write(content: RegistryContent): Promise<void> {
    const crc = crc32(JSON.stringify(content));
    const text = JSON.stringify({ magic: MAGIC, version: VERSION, crc, content }, null, 1);
    await writeFileAtomic(this.file, `${text}\n`, { mode: 0o600 });
  }

  /** Nothing when there is no file. @throws CORRUPTION, UNSUPPORTED */
  async read(): Promise<RegistryContent | undefined> {
    let text: string;
    try {
      text = await readFile(this.file, 'utf8');
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return undefined;
      throw error;
    }
    let parsed: { magic?: unknown; version?: unknown; crc?: unknown; content?: unknown };
    try {
      parsed = JSON.parse(text) as typeof parsed;
    } catch (error) {
      throw this.damaged('it is not JSON', error);
    }
    if (parsed.magic !== MAGIC) throw this.damaged('it is not a registry');
    if (parsed.version !== VERSION) {
      throw new EverpointError(
        'UNSUPPORTED',
        `${this.file} has version ${String(parsed.version)}, this program reads ${VERSION}`,
        { operation: 'read registry', file: this.file },
      );
    }
    if (parsed.crc !== crc32(JSON.stringify(parsed.content))) {
      throw this.damaged('its checksum does not match');
    }
    return parsed.content as RegistryContent;
  }

  private damaged(why: string, cause?: unknown): EverpointError {
    return new EverpointError('CORRUPTION', `${this.file} is damaged: ${why}`, {
      operation: 'read registry',
      file: this.file,
      cause,
      hint: 'Remove it: devices are then found by adding their folders again, with the same ids.',
    });
  }
}
