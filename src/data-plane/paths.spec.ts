// SPDX-License-Identifier: Apache-2.0

import * as fs from 'node:fs';
import * as path from 'node:path';

import { describe, expect, it } from 'vitest';

import { temporaryFolder } from '../../test/support/data-plane/sample.js';
import {
  controlSocket,
  ensureRunDir,
  packageRoot,
  runDir,
  SOCKET_PATH_BYTES_MAX,
} from './paths.js';

describe('runDir', () => {
  it('lies in the state folder where names fit, in a short stable one where not', () => {
    expect(runDir('/srv/everpoint')).toBe('/srv/everpoint/run');
    const deep = `/srv/${'deep/'.repeat(20)}state`;
    expect(runDir(deep)).toBe(runDir(`${deep}/`));
    expect(runDir(deep)).not.toBe(runDir(`${deep}2`));
    expect(runDir(deep)).not.toContain('deep');
    for (let length = 1; length < 200; length += 1) {
      const socket = controlSocket(`/${'ä'.repeat(length)}`);
      expect(Buffer.byteLength(socket)).toBeLessThanOrEqual(SOCKET_PATH_BYTES_MAX);
    }
  });

  it('refuses a folder that others may write to, and a link', () => {
    const { folder, remove } = temporaryFolder();
    try {
      const run = path.join(folder, 'run');
      ensureRunDir(run);
      ensureRunDir(run);
      expect(fs.statSync(run).mode & 0o777).toBe(0o711);
      fs.chmodSync(run, 0o777);
      expect(() => {
        ensureRunDir(run);
      }).toThrow(/this user alone/);
      fs.symlinkSync('/tmp', path.join(folder, 'link'));
      expect(() => {
        ensureRunDir(path.join(folder, 'link'));
      }).toThrow(/this user alone/);
    } finally {
      remove();
    }
  });

  it('knows the package', () => {
    expect(fs.existsSync(path.join(packageRoot(), 'package.json'))).toBe(true);
  });
});
