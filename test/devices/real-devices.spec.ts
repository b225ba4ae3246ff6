// SPDX-License-Identifier: Apache-2.0

import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, openSync, readFileSync, closeSync, fdatasyncSync } from 'node:fs';
import { constants, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { afterEach, describe, expect, it } from 'vitest';

import { LoopFileSystem } from '../support/devices/loop-file-system.js';
import { whyNoLoopDevices, whyNoThrottle } from '../support/devices/system.js';
import { Throttle } from '../support/devices/throttle.js';
import { until } from '../support/service.js';

// What the other specs of this folder build on: each trouble does what it says, ends when it is
// told to, and leaves nothing behind.

const MIB = 1 << 20;
const loops = whyNoLoopDevices();
const throttles = loops ?? whyNoThrottle();
if (throttles !== undefined) console.log(`real devices are not tested here: ${throttles}`);

afterEach(() => {
  Throttle.removeAll();
  LoopFileSystem.removeAll();
});

/** dd with direct I/O in a process of its own: what hangs must not be this one. */
function directWrite(file: string, mib: number): { pid: number; ended: Promise<number | null> } {
  const target = [`of=${file}`, 'bs=1M', `count=${mib}`, 'oflag=direct', 'conv=notrunc'];
  const child = spawn('dd', ['if=/dev/zero', ...target], { stdio: 'ignore' });
  const ended = new Promise<number | null>((resolve) => child.once('exit', resolve));
  return { pid: child.pid!, ended };
}

const errorOf = (act: () => unknown): string | undefined => {
  try {
    act();
    return undefined;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code;
  }
};

/** As the log does: direct, into blocks that were reserved before, then made durable. */
function rewrite(file: string): void {
  const fd = openSync(file, constants.O_WRONLY | constants.O_DSYNC);
  try {
    writeSync(fd, Buffer.alloc(64 << 10, 7));
    fdatasyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

describe.skipIf(loops !== undefined)('a loop-backed file system', () => {
  it('hangs while it is frozen and goes on afterwards', async () => {
    const disk = LoopFileSystem.make({ sizeBytes: 48 * MIB });
    const file = join(disk.path, 'file');
    writeFileSync(file, Buffer.alloc(MIB));
    disk.freeze();
    const write = directWrite(file, 1);
    expect(await Promise.race([write.ended, sleep(500, 'waits')])).toBe('waits');
    disk.thaw();
    expect(await write.ended).toBe(0);
  });

  it('fills to the last block and has room again', () => {
    const disk = LoopFileSystem.make({ sizeBytes: 48 * MIB });
    const taken = disk.fill();
    expect(taken).toBeGreaterThan(30 * MIB);
    expect(errorOf(() => writeFileSync(join(disk.path, 'more'), Buffer.alloc(4096)))).toBe(
      'ENOSPC',
    );
    disk.free();
    writeFileSync(join(disk.path, 'more'), Buffer.alloc(MIB));
    expect(disk.freeBytes).toBeGreaterThan(taken - 2 * MIB);
  });

  it('fails where the files are, keeps its metadata, and has all its data when it is mended', () => {
    const disk = LoopFileSystem.make({ sizeBytes: 48 * MIB });
    const file = join(disk.path, 'file');
    writeFileSync(file, Buffer.alloc(MIB, 3));
    rewrite(file);
    disk.failBeyond(disk.metadataBytes);
    expect(errorOf(() => rewrite(file))).toBe('EIO');
    disk.mend();
    rewrite(file);
    const found = readFileSync(file);
    expect(found.subarray(0, 64 << 10).equals(Buffer.alloc(64 << 10, 7))).toBe(true);
    expect(found.subarray(64 << 10).equals(Buffer.alloc(MIB - (64 << 10), 3))).toBe(true);
    // Nothing has turned the file system read-only.
    writeFileSync(join(disk.path, 'other'), 'more');
  });

  it('is lost when it is shut down, and there again when it is mounted anew', () => {
    const disk = LoopFileSystem.make({ sizeBytes: 48 * MIB });
    const file = join(disk.path, 'file');
    writeFileSync(file, Buffer.alloc(MIB));
    rewrite(file);
    disk.shutDown();
    expect(errorOf(() => rewrite(file))).toBe('EIO');
    expect(errorOf(() => mkdirSync(join(disk.path, 'folder')))).toBe('EIO');
    disk.remount();
    rewrite(file);
  });

  it('is put away when its process is killed', async () => {
    // A process of its own, as the one that runs this must live.
    const script = `
      import { LoopFileSystem } from ${JSON.stringify(join(import.meta.dirname, '../support/devices/loop-file-system.ts'))};
      const disk = LoopFileSystem.make({ sizeBytes: ${48 * MIB} });
      disk.freeze();
      console.log(JSON.stringify([disk.path, disk.device]));
      process.kill(process.pid, 'SIGKILL');
    `;
    const ran = spawnSync(process.execPath, ['--input-type=module-typescript', '-e', script], {
      encoding: 'utf8',
    });
    expect(ran.signal, ran.stderr).toBe('SIGKILL');
    const [path, device] = JSON.parse(ran.stdout) as [string, string];
    await until('it is unmounted and gone', () => !existsSync(join(path, '..')));
    expect(readFileSync('/proc/self/mounts', 'utf8')).not.toContain(path);
    expect(
      spawnSync('losetup', ['-O', 'BACK-FILE', '-n', device], { encoding: 'utf8' }).stdout,
    ).not.toContain(path.replace(/\/mnt$/, ''));
  });
});

describe.skipIf(throttles !== undefined)('a throttle', () => {
  it('holds back what a process writes, to its end and beyond, until it is lifted', async () => {
    const disk = LoopFileSystem.make({ sizeBytes: 48 * MIB });
    const file = join(disk.path, 'file');
    writeFileSync(file, Buffer.alloc(4 * MIB));
    rewrite(file);
    const throttle = new Throttle();
    throttle.limit(disk.deviceNumber, { writeBytes: 1024 });
    throttle.add(process.pid);
    const write = directWrite(file, 2);
    // Only what starts while this process is in it: its own writes shall not wait.
    throttle.release(process.pid);
    expect(await Promise.race([write.ended, sleep(500, 'waits')])).toBe('waits');
    const begin = performance.now();
    throttle.lift();
    expect(await write.ended).toBe(0);
    expect(performance.now() - begin).toBeLessThan(2_000);
  });
});
