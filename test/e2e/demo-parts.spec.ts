// SPDX-License-Identifier: Apache-2.0
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { bytes, count, duration, plural, speed } from './format.ts';
import { allocatedBytes, compareImages } from './images.ts';
import { Terminal } from './terminal.ts';

describe('comparing disks', () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'ep-images-'));
  });
  afterEach(() => {
    rmSync(folder, { recursive: true, force: true });
  });
  const image = (name: string, size: number, at?: number): string => {
    const file = join(folder, name);
    writeFileSync(file, '');
    truncateSync(file, size);
    if (at !== undefined) {
      const data = Buffer.alloc(size);
      data[at] = 1;
      writeFileSync(file, data);
    }
    return file;
  };
  const SIZE = (9 << 20) + 512;

  it('finds the first byte that differs, also behind the first chunk', async () => {
    const empty = image('empty', SIZE);
    const zeroes = image('zeroes', SIZE, 0);
    expect(await compareImages(empty, image('holes', SIZE))).toEqual({
      equal: true,
      sizeBytes: SIZE,
      firstDifference: null,
    });
    expect(await compareImages(empty, zeroes)).toMatchObject({ equal: false, firstDifference: 0 });
    const last = image('last', SIZE, SIZE - 1);
    expect(await compareImages(empty, last)).toMatchObject({ firstDifference: SIZE - 1 });
  });

  it('is not content with the beginning of a disk', async () => {
    const difference = await compareImages(image('whole', SIZE), image('part', 4 << 20));
    expect(difference).toEqual({ equal: false, sizeBytes: SIZE, firstDifference: 4 << 20 });
  });

  it('knows what a sparse file occupies', async () => {
    expect(await allocatedBytes(image('sparse', SIZE))).toBeLessThan(1 << 20);
  });
});

describe('figures', () => {
  it('have units and no more digits than say something', () => {
    expect([0, 512, 1024, 1536, 268435456, 5 * 2 ** 40].map(bytes)).toEqual([
      '0 B',
      '512 B',
      '1 KiB',
      '1.5 KiB',
      '256 MiB',
      '5 TiB',
    ]);
    expect([12.4, 999, 1234, 99_960].map(duration)).toEqual(['12 ms', '999 ms', '1.2 s', '100 s']);
    expect(count(1234567)).toBe('1,234,567');
    expect([plural(1, 'file'), plural(2, 'flush', 'flushes')]).toEqual(['1 file', '2 flushes']);
    expect(speed(50_000_000, 500)).toBe('100 MB/s');
  });
});

describe('what a person sees', () => {
  class Capture extends Writable {
    text = '';
    override _write(chunk: Buffer, _encoding: string, done: () => void): void {
      this.text += chunk.toString();
      done();
    }
  }

  it('is plain text, one line per step, where it is not a terminal', async () => {
    const out = new Capture();
    const terminal = new Terminal({ out: out as unknown as NodeJS.WriteStream, verbose: false });
    await terminal.step('First', async (step) => {
      step.live('never shown');
      step.note('a figure');
      step.check({ text: 'this held', held: true });
    });
    const failing = terminal.step('Second', async (step) => {
      step.check({ text: 'this did not', held: false });
      throw new Error('no');
    });
    await expect(failing).rejects.toThrow('no');
    const lines = out.text.trimEnd().split('\n');
    expect(lines[0]).toMatch(/^ 1 {2}First {40,}\d+ ms$/);
    expect(lines.slice(1, 3)).toEqual(['      a figure', '      ✓ this held']);
    expect(lines[3]).toMatch(/^ 2 {2}Second +failed after \d+ ms$/);
    expect(lines[4]).toBe('      ✗ this did not');
    expect(out.text).not.toContain('\x1b');
    expect(out.text).not.toContain('never shown');
  });

  it('is the usage and exit code 2 for a wrong option', () => {
    const demo = join(import.meta.dirname, 'demo.ts');
    for (const args of [['--nonsense'], ['--accel', 'xen']]) {
      const { status, stdout, stderr } = spawnSync(process.execPath, [demo, ...args], {
        encoding: 'utf8',
      });
      expect(status).toBe(2);
      expect(stdout).toBe('');
      expect(stderr).toContain('usage: npm run demo');
    }
  });
});
