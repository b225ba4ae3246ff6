// SPDX-License-Identifier: Apache-2.0

/** What the device tests ask of the system beyond Node's own modules. */

import { execFileSync } from 'node:child_process';
import { closeSync, existsSync, fstatSync, openSync, readFileSync, rmSync } from 'node:fs';
import { mkdtempSync, truncateSync, writeFileSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';

import koffi from 'koffi';

/** Runs a program to its end; its stdout. The error of one that fails has what it said. */
export function run(program: string, ...args: string[]): string {
  try {
    return execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  } catch (error) {
    const said = String((error as { stderr?: string }).stderr ?? '').trim();
    throw new Error(`${program} ${args.join(' ')}: ${said || (error as Error).message}`, {
      cause: error,
    });
  }
}

const libc = koffi.load('libc.so.6');
const ioctlNumber = libc.func('int ioctl(int fd, unsigned long request, long argument)');
const ioctlBytes = libc.func('int ioctl(int fd, unsigned long request, _Inout_ uint8_t *argument)');

/** ioctl(2) with a number or with memory that it reads or fills. */
export function ioctl(fd: number, request: number, argument: number | Buffer): void {
  const call = typeof argument === 'number' ? ioctlNumber : ioctlBytes;
  if (call(fd, request, argument) === 0) return;
  const errno = koffi.errno();
  const name = Object.entries(constants.errno).find(([, value]) => value === errno)?.[0];
  throw new Error(`ioctl 0x${request.toString(16)}: ${name ?? errno}`);
}

/** Opens a folder or device, gives it to `use`, closes it. `device` must be what it lies on. */
export function withFd<T>(path: string, device: number | undefined, use: (fd: number) => T): T {
  const fd = openSync(path, 'r');
  try {
    if (device !== undefined && fstatSync(fd).dev !== device) {
      throw new Error(`${path} is not where the test's own file system is mounted`);
    }
    return use(fd);
  } finally {
    closeSync(fd);
  }
}

/** Folder of the blkio controller (cgroup v1), where there is one that can be written to. */
export function blkioFolder(): string | undefined {
  const mounts = readFileSync('/proc/self/mounts', 'utf8').split('\n');
  const found = mounts.find((line) => {
    const [, , type, options] = line.split(' ');
    return type === 'cgroup' && options?.split(',').includes('blkio');
  });
  return found?.split(' ')[1];
}

let answer: { reason: string | undefined } | undefined;

/** Why there can be no loop-backed file systems here, or nothing. Tries it, once per process. */
export function whyNoLoopDevices(): string | undefined {
  answer ??= { reason: tryLoopDevice() };
  return answer.reason;
}

function tryLoopDevice(): string | undefined {
  if (process.getuid?.() !== 0) return 'only root can mount';
  if (!existsSync('/dev/loop-control')) return 'this system has no loop devices';
  const folder = mkdtempSync(join(tmpdir(), 'ep-loop-probe-'));
  try {
    const image = join(folder, 'image');
    writeFileSync(image, '');
    truncateSync(image, 1 << 20);
    const device = run('losetup', '--find', '--show', image).trim();
    run('losetup', '--detach', device);
    run('mkfs.ext4', '-V');
    return undefined;
  } catch (error) {
    return (error as Error).message;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Why nothing can be throttled here, or nothing. */
export function whyNoThrottle(): string | undefined {
  const folder = blkioFolder();
  if (folder === undefined) return 'no blkio controller of cgroup v1 is mounted';
  if (!existsSync(join(folder, 'blkio.throttle.write_bps_device'))) {
    return 'the kernel has no blkio throttling';
  }
  return undefined;
}
