// SPDX-License-Identifier: Apache-2.0
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ConfigurationError, describeListen, loadSettings } from './load.js';

describe('loadSettings', () => {
  let folder = '';
  let file = '';

  beforeEach(() => {
    folder = mkdtempSync(path.join(tmpdir(), 'ep-config-'));
    file = path.join(folder, 'everpoint.yaml');
  });
  afterEach(() => {
    rmSync(folder, { recursive: true });
  });

  function problems(text: string, environment: Record<string, string> = {}): string[] {
    writeFileSync(file, text);
    try {
      loadSettings({ file, environment });
    } catch (error) {
      if (error instanceof ConfigurationError) return error.problems;
      throw error;
    }
    return [];
  }

  it('has the documented defaults', () => {
    writeFileSync(file, '');
    const settings = loadSettings({ file, environment: {} });
    const state = path.resolve('var');
    expect(settings).toMatchObject({
      state,
      listen: { kind: 'tcp', host: '127.0.0.1', port: 8320 },
      roots: [state, '/var/lib/libvirt/images'],
      dataPlane: 'managed',
    });
  });

  it('reads the file, and lets the environment win', () => {
    writeFileSync(
      file,
      'state: /srv/ep\nlisten: "[::1]:80"\nroots: [/images, /more]\nworkers: 3\n',
    );
    expect(loadSettings({ file, environment: {} })).toMatchObject({
      state: '/srv/ep',
      listen: { kind: 'tcp', host: '::1', port: 80 },
      roots: ['/images', '/more'],
      workers: 3,
      runDir: '/srv/ep/run',
    });
    const environment = {
      EVERPOINT_ROOTS: '/a:/b',
      EVERPOINT_WORKERS: '5',
      EVERPOINT_LISTEN: '/run/x',
    };
    expect(loadSettings({ file, environment })).toMatchObject({
      listen: { kind: 'unix', path: '/run/x' },
      roots: ['/a', '/b'],
      workers: 5,
    });
  });

  it('says which key or variable is wrong', () => {
    expect(problems('workers: 0')[0]).toMatch(/workers.*EVERPOINT_WORKERS/);
    expect(problems('stat: /x')[0]).toMatch(/unknown key "stat"/);
    expect(problems('- a')[0]).toMatch(/keys and values/);
    expect(problems('a: [')[0]).toMatch(/not YAML/);
    expect(problems('listen: 99999999')[0]).toMatch(/HOST:PORT/);
    expect(problems('listen: "127.0.0.1:99999"')[0]).toMatch(/not a port/);
    expect(problems('', { EVERPOINT_SEGMENT_BYTES: 'big' })[0]).toMatch(/EVERPOINT_SEGMENT_BYTES/);
    expect(problems('state: ok\nworkers: 2')).toEqual([]);
    expect(() => loadSettings({ file: '/no/such.yaml', environment: {} })).toThrow(
      ConfigurationError,
    );
  });

  it('keeps sockets short where the state folder is deep', () => {
    writeFileSync(file, `state: /${'deep/'.repeat(20)}var\n`);
    const { runDir } = loadSettings({ file, environment: {} });
    expect(runDir.length).toBeLessThan(60);
    expect(loadSettings({ file, environment: {} }).runDir).toBe(runDir);
  });

  it('writes addresses as URLs', () => {
    expect(describeListen({ kind: 'tcp', host: '::1', port: 1 })).toBe('http://[::1]:1');
    expect(describeListen({ kind: 'unix', path: '/run/x' })).toBe('unix:/run/x');
  });
});
