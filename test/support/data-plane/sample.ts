// SPDX-License-Identifier: Apache-2.0

import { randomUUID } from 'node:crypto';
import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';

import type { GroupDefinition } from '../../../src/data-plane/port.js';

/** A folder of its own for one test; `remove` ends it. */
export function temporaryFolder(): { folder: string; remove: () => void } {
  const folder = fs.mkdtempSync(path.join(tmpdir(), 'everpoint-dp-'));
  return { folder, remove: () => fs.rmSync(folder, { recursive: true, force: true }) };
}

/** A group with one volume that is to be created, everything below `folder`. */
export function sampleGroup(folder: string, name: string, create = true): GroupDefinition {
  const device = path.join(folder, 'secondary');
  fs.mkdirSync(device, { recursive: true });
  return {
    id: randomUUID(),
    name,
    ack: 'primary',
    flush: 'both',
    onLogPressure: 'throttle',
    throttleMaxMs: 5000,
    devices: [{ id: randomUUID(), path: device }],
    logBuffer: { kind: 'tmpfs' },
    volumes: [
      {
        number: 0,
        name: 'vda',
        blockSize: 512,
        primary: {
          kind: 'file',
          path: path.join(folder, `${name}.raw`),
          sizeBytes: 1024 * 1024,
          ...(create ? { create: true } : {}),
        },
        exports: [
          { kind: 'vhost-user-blk', queues: 1, path: path.join(folder, `${name}.d`, 'v.sock') },
        ],
      },
    ],
  };
}

export function fakeAddonPath(): string {
  return path.resolve(import.meta.dirname, '..', 'fake-addon.cjs');
}

/** Waits until `look` answers something, for at most `timeoutMs`. */
export async function until<T>(
  what: string,
  look: () => T | undefined | false | Promise<T | undefined | false>,
  timeoutMs = 10_000,
): Promise<T> {
  for (const deadline = Date.now() + timeoutMs; ;) {
    const found = await look();
    if (found !== undefined && found !== false) return found;
    if (Date.now() > deadline) throw new Error(`not within ${timeoutMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
