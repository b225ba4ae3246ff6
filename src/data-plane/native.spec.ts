// SPDX-License-Identifier: Apache-2.0

import * as fs from 'node:fs';
import * as path from 'node:path';

import { describe, expect, it, vi } from 'vitest';

import { fakeAddonPath, temporaryFolder } from '../../test/support/data-plane/sample.js';
import { addonPath, loadAddon, openNative } from './native.js';

describe('loadAddon', () => {
  it('finds the release build unless another one is named', () => {
    expect(addonPath({})).toMatch(/\/build\/release\/everpoint\.node$/);
    expect(addonPath({ EVERPOINT_ADDON: '/x/y.node' })).toBe('/x/y.node');
  });

  it('says what is missing and what to do', () => {
    const { folder, remove } = temporaryFolder();
    try {
      expect(() => loadAddon(path.join(folder, 'none.node'))).toThrow(/cannot load the addon/);
      const half = path.join(folder, 'half.cjs');
      fs.writeFileSync(
        half,
        'exports.version = exports.build = () => 1; exports.DataPlane = class { status() {} };',
      );
      expect(() => loadAddon(half)).toThrow(/lacks DataPlane\.openGroup/);
      fs.writeFileSync(path.join(folder, 'null.cjs'), 'module.exports = null;');
      expect(() => loadAddon(path.join(folder, 'null.cjs'))).toThrow(/lacks version/);
    } finally {
      remove();
    }
  });

  it('turns every error into one of ours, and checks its options', async () => {
    const addon = loadAddon(fakeAddonPath());
    const options = { stateDir: '/nowhere', reactors: 1, onEvent: () => undefined };
    const native = openNative(addon, options);
    await expect(native.status('x')).rejects.toMatchObject({
      name: 'DataPlaneError',
      code: 'NOT_FOUND',
      operation: 'read group state',
    });
    expect(() => openNative(addon, { ...options, reactors: 0 })).toThrow(/reactors/);
    expect(() => openNative(addon, { ...options, stateDir: 'a' })).toThrow(/absolute/);
    vi.stubEnv('EVERPOINT_FAKE_ADDON', 'refuse');
    expect(() => openNative(addon, options)).toThrow(expect.objectContaining({ code: 'NO_SPACE' }));
  });
});
