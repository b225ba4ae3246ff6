// SPDX-License-Identifier: Apache-2.0
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { splitLines } from './boot.ts';
import { withParents, writeCpio, type CpioEntry } from './cpio.ts';
import { fioRoundsJob, parseFioRounds } from './fio.ts';
import { parseLdd } from './initramfs.ts';
import * as jobs from './jobs.ts';
import { loadOrder, moduleName, moduleNeeds, readModinfo, type ModuleNeeds } from './kernel.ts';
import { kernelCommandLine, parseQemuVersion, qemuArgs, type QemuOptions } from './qemu.ts';

/** The archive's members, read by rules of the format and not by the code under test. */
function readCpio(archive: Buffer): Array<{ name: string; mode: number; data: string }> {
  const members = [];
  for (let at = 0; at < archive.length;) {
    expect(archive.toString('latin1', at, at + 6)).toBe('070701');
    const field = (n: number): number =>
      Number.parseInt(archive.toString('latin1', at + 6 + n * 8, at + 14 + n * 8), 16);
    const nameAt = at + 110;
    const name = archive.toString('latin1', nameAt, nameAt + field(11) - 1);
    if (name === 'TRAILER!!!') break;
    const dataAt = Math.ceil((nameAt + field(11)) / 4) * 4;
    members.push({
      name,
      mode: field(1),
      data: archive.toString('latin1', dataAt, dataAt + field(6)),
    });
    at = Math.ceil((dataAt + field(6)) / 4) * 4;
  }
  return members;
}

describe('cpio', () => {
  const entries: CpioEntry[] = [
    { kind: 'file', path: 'a/b/odd', data: Buffer.from('12345'), mode: 0o755 },
    { kind: 'link', path: 'a/l', target: 'b/odd' },
    { kind: 'char', path: 'dev/console', major: 5, minor: 1 },
    { kind: 'file', path: 'empty', data: Buffer.alloc(0) },
  ];

  it('writes every member with its parents before it', () => {
    const members = readCpio(writeCpio(entries));
    expect(members.map((m) => m.name)).toEqual([
      'a',
      'a/b',
      'a/b/odd',
      'a/l',
      'dev',
      'dev/console',
      'empty',
    ]);
    expect(members[2]).toEqual({ name: 'a/b/odd', mode: 0o100755, data: '12345' });
    expect(members[3]).toMatchObject({ mode: 0o120777, data: 'b/odd' });
    expect(members[5]?.mode).toBe(0o020600);
  });

  it('is padded, so that a second archive can follow, and is the same for the same input', () => {
    const archive = writeCpio(entries);
    expect(archive.length % 512).toBe(0);
    expect(writeCpio(entries).equals(archive)).toBe(true);
  });

  it('refuses paths that leave the archive and names that are there twice', () => {
    const file = (path: string): CpioEntry => ({ kind: 'file', path, data: Buffer.alloc(0) });
    expect(() => writeCpio([file('/etc/passwd')])).toThrow(RangeError);
    expect(() => writeCpio([file('a/../../b')])).toThrow(RangeError);
    expect(() => withParents([file('a'), file('a')])).toThrow(/twice/);
  });
});

describe('kernel modules', () => {
  const needs = (depends: string[] = [], softPre: string[] = []): ModuleNeeds => ({
    depends,
    softPre,
  });
  const modules = new Map<string, ModuleNeeds>([
    ['virtio', needs()],
    ['virtio_ring', needs(['virtio'])],
    ['virtio_blk', needs(['virtio', 'virtio_ring'])],
    ['crc32c_generic', needs()],
    ['libcrc32c', needs([], ['crc32c'])],
    ['mbcache', needs()],
    ['jbd2', needs()],
    ['ext4', needs(['jbd2', 'mbcache', 'crc16'], ['crc32c', 'nowhere'])],
  ]);
  const order = (...wanted: string[]): string[] =>
    loadOrder(wanted, (name) => modules.get(name), new Set(['crc16']));

  it('loads what is needed first, once, and not what is built in', () => {
    expect(order('virtio-blk', 'ext4', 'virtio_ring')).toEqual([
      'virtio',
      'virtio_ring',
      'virtio_blk',
      'crc32c_generic',
      'jbd2',
      'mbcache',
      'ext4',
    ]);
  });

  it('takes the generic form of a soft need', () => {
    expect(order('libcrc32c')).toEqual(['crc32c_generic', 'libcrc32c']);
  });

  it('says who needs a module that is not there, and finds circles', () => {
    modules.set('lost', needs(['missing_one']));
    expect(() => order('lost')).toThrow(/lost needs missing_one/);
    modules.set('x', needs(['y'])).set('y', needs(['x']));
    expect(() => order('x')).toThrow(/need each other/);
  });

  it('reads needs from a module', () => {
    expect(
      moduleNeeds([
        ['license', 'GPL'],
        ['depends', 'jbd2,crc16,x-y'],
        ['softdep', 'pre: crc32c aes post: later'],
      ]),
    ).toEqual({ depends: ['jbd2', 'crc16', 'x_y'], softPre: ['crc32c', 'aes'] });
    expect(moduleNeeds([['depends', '']])).toEqual({ depends: [], softPre: [] });
    expect(moduleName('virtio-rng.ko.xz')).toBe('virtio_rng');
  });

  it('finds .modinfo in an ELF file and refuses what is none', () => {
    const info = Buffer.from('license=GPL\0depends=a,b\0\0no pair\0');
    const names = Buffer.from('\0.modinfo\0.shstrtab\0');
    const elf = Buffer.alloc(64 + info.length + names.length + 3 * 64);
    const headers = 64 + info.length + names.length;
    Buffer.from([0x7f, 0x45, 0x4c, 0x46, 2, 1]).copy(elf);
    elf.writeBigUInt64LE(BigInt(headers), 0x28);
    elf.writeUInt16LE(64, 0x3a);
    elf.writeUInt16LE(3, 0x3c);
    elf.writeUInt16LE(2, 0x3e);
    info.copy(elf, 64);
    names.copy(elf, 64 + info.length);
    const header = (n: number, name: number, offset: number, size: number): void => {
      elf.writeUInt32LE(name, headers + n * 64);
      elf.writeBigUInt64LE(BigInt(offset), headers + n * 64 + 0x18);
      elf.writeBigUInt64LE(BigInt(size), headers + n * 64 + 0x20);
    };
    header(1, 1, 64, info.length);
    header(2, 10, 64 + info.length, names.length);
    expect(readModinfo(elf)).toEqual([
      ['license', 'GPL'],
      ['depends', 'a,b'],
    ]);
    expect(() => readModinfo(elf.subarray(0, headers + 64))).toThrow(/out of bounds/);
    expect(() => readModinfo(Buffer.from('#!/bin/sh'))).toThrow(/not an ELF/);
  });
});

describe('QEMU arguments', () => {
  const options: QemuOptions = {
    kernel: '/k',
    initrd: '/i',
    disks: [
      { socket: '/run/a,b.sock', queues: 2 },
      { socket: '/run/c.sock', queueSize: 64 },
    ],
    accel: 'tcg',
    memoryMb: 256,
    cpus: 2,
    reconnect: 1,
    version: [7, 2],
    consoleFd: 3,
    jobFd: 4,
  };
  const valuesOf = (args: string[], name: string): string[] =>
    args.filter((_, n) => args[n - 1] === name);

  it('shares the memory, connects each disk and has no network', () => {
    const args = qemuArgs(options);
    expect(valuesOf(args, '-chardev')).toContain('socket,id=disk0,path=/run/a,,b.sock,reconnect=1');
    expect(valuesOf(args, '-device')).toEqual([
      'vhost-user-blk-pci,id=vd0,chardev=disk0,num-queues=2',
      'vhost-user-blk-pci,id=vd1,chardev=disk1,num-queues=1,queue-size=64',
    ]);
    expect(valuesOf(args, '-object')).toEqual(['memory-backend-memfd,id=mem,size=256M,share=on']);
    expect(valuesOf(args, '-numa')).toEqual(['node,memdev=mem']);
    expect(args).toContain('-no-reboot');
    // Without -nodefaults QEMU would add a network card of its own.
    expect(args).toContain('-nodefaults');
    expect(args).not.toContain('-netdev');
    expect(valuesOf(args, '-append')[0]).toContain('everpoint.disks=2');
  });

  it('serves an image itself, and takes the arguments that a service names', () => {
    const ready = (n: number): string[] => [
      ...['-m', '1G', '-object', 'memory-backend-memfd,id=m,size=1G,share=on'],
      ...['-numa', 'node,memdev=m', '-chardev', `socket,id=ep-${n},path=/s${n},reconnect=1`],
      ...['-device', `vhost-user-blk-pci,chardev=ep-${n},num-queues=2`],
    ];
    const disks = [
      { qemuArgs: ready(0) },
      { file: '/images/a,b.raw', readOnly: true, queues: 2 },
      { qemuArgs: ready(1) },
    ];
    const args = qemuArgs({ ...options, disks });
    expect(valuesOf(args, '-m')).toEqual(['1G']);
    expect(valuesOf(args, '-object')).toEqual(['memory-backend-memfd,id=m,size=1G,share=on']);
    expect(valuesOf(args, '-numa')).toEqual(['node,memdev=m']);
    expect(valuesOf(args, '-device')).toEqual([
      'vhost-user-blk-pci,chardev=ep-0,num-queues=2',
      'virtio-blk-pci,id=vd1,drive=disk1,num-queues=2',
      'vhost-user-blk-pci,chardev=ep-1,num-queues=2',
    ]);
    expect(valuesOf(args, '-blockdev')).toEqual([
      'driver=raw,node-name=disk1,discard=unmap,read-only=on,file.driver=file,file.filename=/images/a,,b.raw',
    ]);
    expect(() => qemuArgs({ ...options, disks: [{ qemuArgs: ['-m'] }] })).toThrow(RangeError);
  });

  it('knows the newer name of reconnect, and none', () => {
    const text = (more: Partial<QemuOptions>): string =>
      qemuArgs({ ...options, ...more }).join(' ');
    expect(text({ version: [9, 2] })).toContain('reconnect-ms=1000');
    expect(text({ version: [9, 1] })).toContain(',reconnect=1');
    expect(text({ reconnect: false })).not.toContain('reconnect');
    expect(parseQemuVersion('QEMU emulator version 7.2.22 (Debian 1:7.2)')).toEqual([7, 2]);
  });

  it('uses the host CPU with KVM only', () => {
    expect(valuesOf(qemuArgs({ ...options, accel: 'kvm' }), '-cpu')).toEqual(['host']);
    // Random numbers from the start: without them mkfs.ext4 sleeps for seconds.
    expect(valuesOf(qemuArgs(options), '-cpu')).toEqual(['qemu64,+rdrand']);
    expect(kernelCommandLine(0)).toContain('panic=-1');
  });

  it('refuses a socket path that the kernel would cut short', () => {
    const disks = [{ socket: `/${'x'.repeat(107)}` }];
    expect(() => qemuArgs({ ...options, disks })).toThrow(RangeError);
  });
});

describe('text from the guest', () => {
  it('splits serial output into lines, wherever the pieces end', async () => {
    const stream = new PassThrough();
    const lines: string[] = [];
    const done = splitLines(stream, (line) => lines.push(line));
    for (const piece of ['one\r', '\ntw', 'o\n\nlast']) stream.write(piece);
    stream.end();
    await done;
    expect(lines).toEqual(['one', 'two', '', 'last']);
  });

  it('takes libraries and the loader from ldd', () => {
    const text =
      '\tlinux-vdso.so.1 (0x00007f)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f)\n' +
      '\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n';
    expect(parseLdd(text)).toEqual(['/lib/x/libc.so.6', '/lib64/ld-linux-x86-64.so.2']);
    expect(parseLdd('\tstatically linked\n')).toEqual([]);
  });

  it('reads and compares manifests', () => {
    const hash = (digit: string): string => digit.repeat(64);
    const lines = [
      `@sum made ${hash('a')}  ./x`,
      `@sum made ${hash('b')}  ./with  space`,
      `@sum other ${hash('c')}  ./x`,
      `@sum made short  ./y`,
    ];
    const made = jobs.parseManifest(lines, 'made');
    expect([...made.keys()]).toEqual(['./x', './with  space']);
    expect(jobs.compareManifests(made, new Map(made)).equal).toBe(true);
    const other = jobs.parseManifest(lines, 'other').set('./z', hash('d'));
    expect(jobs.compareManifests(made, other)).toEqual({
      equal: false,
      missing: ['./with  space'],
      changed: ['./x'],
      extra: ['./z'],
    });
    expect(jobs.compareManifests(new Map(), new Map()).equal).toBe(false);
  });

  it('follows a load by its lines', () => {
    const lines = [
      'flushed t=0 op=64',
      'tick ms=500 ops=100 +100 errors=0 longest-ms=7.5',
      'flushed t=0 op=128',
      'tick ms=1000 ops=150 +50 errors=0 longest-ms=2.0',
    ];
    expect(jobs.parseLoad(lines)).toEqual({
      flushed: new Map([[0, 128]]),
      longestMs: 7.5,
      ops: 150,
      errors: [],
      ended: false,
    });
    const bad = 'io-error t=1 op=write block=9: Input/output error';
    const last = 'load end ops=151 flushes=2 verified=9 errors=1 seconds=1.00';
    expect(jobs.parseLoad([...lines, bad, last])).toMatchObject({
      ops: 151,
      errors: [bad],
      ended: true,
    });
  });
});

describe('jobs', () => {
  it('plan the same files for the same seed, within the limits', () => {
    const options = { device: '/dev/vda', files: 50, minBytes: 10, maxBytes: 20, seed: 3 };
    const files = jobs.plannedFiles(options);
    expect(jobs.plannedFiles(options)).toEqual(files);
    expect(jobs.plannedFiles({ ...options, seed: 4 })).not.toEqual(files);
    expect(new Set(files.map((f) => f.name)).size).toBe(50);
    expect(files.every((f) => f.bytes >= 10 && f.bytes <= 20)).toBe(true);
    expect(new Set(files.map((f) => f.bytes)).size).toBeGreaterThan(5);
  });

  it('are text that a shell can read, whatever the device is called', () => {
    const device = `/dev/it's $(here)`;
    const script = jobs.inSequence(
      jobs.makeFilesJob({ device, files: 3, minBytes: 1, maxBytes: 9, seed: 1 }),
      jobs.destroyFilesJob({ device }),
      jobs.verifyFilesJob({ device }),
      jobs.fsckJob({ device }),
      jobs.loadJob({ device, bytes: 1 << 20, seed: 1 }),
      jobs.loadCheckJob({ device, bytes: 1 << 20, seed: 1 }),
      jobs.fioVerifyJob({ device, bytes: 1 << 20, seconds: 1 }),
    );
    execFileSync('sh', ['-n'], { input: script });
    expect(execFileSync('sh', ['-c', `printf %s ${jobs.quote(device)}`]).toString()).toBe(device);
  });

  it('run in sequence until one fails, with its exit code', () => {
    const run = (...parts: string[]): { code: number; out: string } => {
      const script = `${jobs.inSequence(...parts)}\nexit 0`;
      const text = execFileSync('sh', ['-c', `sh -c "$0"; echo "code=$?"`, script]).toString();
      return { code: Number(/code=(\d+)/.exec(text)?.[1]), out: text };
    };
    expect(run('echo one; exit 0', 'exit 31', 'echo never')).toEqual({
      code: 31,
      out: 'one\ncode=31\n',
    });
    expect(run('true', 'true').code).toBe(0);
  });

  it('ask the same disk, part and seed of a load and of its check', () => {
    const load = { device: '/d', bytes: 8 << 20, offset: 4096, seed: 9, threads: 2, maxBlocks: 3 };
    const shape = '--bytes 8388608 --offset 4096 --seed 9 --threads 2 --max-blocks 3';
    expect(jobs.loadRunArgs({ ...load, ops: 5 }).join(' ')).toBe(
      `run --target /d ${shape} --ops 5`,
    );
    expect(jobs.loadRunArgs(load).join(' ')).toContain('--seconds 10');
    const flushed = new Map([
      [0, 64],
      [1, 128],
    ]);
    expect(jobs.loadCheckArgs(load, flushed, 'torn-last').join(' ')).toBe(
      `check --target /d ${shape} --flushed 0:64,1:128 --torn-last`,
    );
  });
});

describe('rounds of fio', () => {
  it('are text that a shell can read', () => {
    const job = fioRoundsJob({ device: "/dev/it's", bytes: 4096, seed: 1, seconds: 1 });
    execFileSync('sh', ['-n'], { input: job });
  });

  it('are read from the reports, failed ones too, and nothing else is', () => {
    const report = (error: number): string => {
      const times = (ns: number): object => ({ total_ios: ns / 1e6, clat_ns: { max: ns } });
      const sync = { total_ios: 3, lat_ns: { max: 9e6 } };
      return JSON.stringify({ jobs: [{ error, write: times(5e6), read: times(7e6), sync }] });
    };
    const lines = [
      '@@guest begin 1',
      `@fio 1 0 ${report(0)}`,
      `@fio 2 1 fio: a word ${report(84)}`,
    ];
    const [good, bad, ...more] = parseFioRounds(lines);
    expect(more).toEqual([]);
    expect(good).toEqual({
      ...{ round: 1, exitCode: 0, error: 0, writes: 5, reads: 7, fsyncs: 3 },
      ...{ writeMaxMs: 5, readMaxMs: 7, fsyncMaxMs: 9 },
    });
    expect(bad).toMatchObject({ round: 2, exitCode: 1, error: 84 });
    expect(() => parseFioRounds(['@fio 1 0 {"jobs":[]}'])).toThrow('without a job');
  });
});

describe('init script', () => {
  it('is text that a shell can read', () => {
    execFileSync('sh', ['-n'], { input: readFileSync(join(import.meta.dirname, 'init.sh')) });
  });
});
