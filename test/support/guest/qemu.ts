// SPDX-License-Identifier: Apache-2.0
import { execFileSync } from 'node:child_process';

export const QEMU = 'qemu-system-x86_64';

export type Accel = 'kvm' | 'tcg';

/** A vhost-user-blk disk that a back-end listens for. */
export interface SocketDisk {
  /** Path of the back-end's unix socket; at most 107 bytes. */
  socket: string;
  /** Queues the guest is given; it uses at most one per CPU. Default 1. */
  queues?: number;
  /** Descriptors per queue. Default: QEMU's own (128). */
  queueSize?: number;
}

/** A raw image that QEMU itself serves, through its page cache: a restored disk, say. */
export interface FileDisk {
  file: string;
  readOnly?: boolean;
  queues?: number;
}

/** A disk by the arguments that the service names for it, used word for word. */
export interface ReadyDisk {
  /** Option and value in turn; `-m`, `-object` and `-numa` of the first such disk are the guest's. */
  qemuArgs: readonly string[];
  queues?: number;
}

export type GuestDisk = SocketDisk | FileDisk | ReadyDisk;

export interface QemuOptions {
  kernel: string;
  initrd: string;
  disks: readonly GuestDisk[];
  accel: Accel;
  memoryMb: number;
  cpus: number;
  /** Seconds between attempts to reach a back-end that went away; false: never again. */
  reconnect: number | false;
  /** `[major, minor]`: newer QEMUs count `reconnect` in milliseconds under another name. */
  version: readonly [number, number];
  /** File descriptors, open in the QEMU process, of the console's and the job's socket. */
  consoleFd: number;
  jobFd: number;
}

const MAX_SOCKET_PATH = 107;

/** QEMU splits option values at commas; a comma inside one is written twice. */
function escape(value: string): string {
  return value.replaceAll(',', ',,');
}

function reconnectOption(options: QemuOptions): string {
  if (options.reconnect === false) return '';
  const [major, minor] = options.version;
  const inMs = major > 9 || (major === 9 && minor >= 2);
  return inMs ? `,reconnect-ms=${options.reconnect * 1000}` : `,reconnect=${options.reconnect}`;
}

function socketDiskArgs(disk: SocketDisk, n: number, options: QemuOptions): string[] {
  if (Buffer.byteLength(disk.socket) > MAX_SOCKET_PATH) {
    throw new RangeError(`socket path longer than ${MAX_SOCKET_PATH} bytes: ${disk.socket}`);
  }
  const chardev = `socket,id=disk${n},path=${escape(disk.socket)}${reconnectOption(options)}`;
  const size = disk.queueSize === undefined ? '' : `,queue-size=${disk.queueSize}`;
  const device = `vhost-user-blk-pci,id=vd${n},chardev=disk${n},num-queues=${disk.queues ?? 1}${size}`;
  return ['-chardev', chardev, '-device', device];
}

function fileDiskArgs(disk: FileDisk, n: number): string[] {
  const readOnly = disk.readOnly === true ? ',read-only=on' : '';
  const file = `file.driver=file,file.filename=${escape(disk.file)}`;
  const blockdev = `driver=raw,node-name=disk${n},discard=unmap${readOnly},${file}`;
  const device = `virtio-blk-pci,id=vd${n},drive=disk${n},num-queues=${disk.queues ?? 1}`;
  return ['-blockdev', blockdev, '-device', device];
}

function diskArgs(disk: GuestDisk, n: number, options: QemuOptions): string[] {
  if ('socket' in disk) return socketDiskArgs(disk, n, options);
  if ('file' in disk) return fileDiskArgs(disk, n);
  return readyPairs(disk)
    .filter(([name]) => !MEMORY_OPTIONS.has(name))
    .flat();
}

/** What a guest has once, however many disks it has. */
const MEMORY_OPTIONS = new Set(['-m', '-object', '-numa']);

function readyPairs(disk: ReadyDisk): Array<[string, string]> {
  const pairs: Array<[string, string]> = [];
  for (let n = 0; n < disk.qemuArgs.length; n += 2) {
    const [name, value] = disk.qemuArgs.slice(n, n + 2);
    if (name === undefined || value === undefined || !name.startsWith('-')) {
      throw new RangeError(`not option and value in turn: ${disk.qemuArgs.join(' ')}`);
    }
    pairs.push([name, value]);
  }
  return pairs;
}

function memoryArgs(options: QemuOptions): string[] {
  const ready = options.disks.find((disk) => 'qemuArgs' in disk);
  if (ready !== undefined) {
    return readyPairs(ready)
      .filter(([name]) => MEMORY_OPTIONS.has(name))
      .flat();
  }
  const memory = `${options.memoryMb}M`;
  // The back-end maps the guest's memory: it must be shared.
  const object = `memory-backend-memfd,id=mem,size=${memory},share=on`;
  return ['-m', memory, '-object', object, '-numa', 'node,memdev=mem'];
}

/** Kernel command line of the guest. */
export function kernelCommandLine(diskCount: number): string {
  return [
    'console=ttyS0,115200',
    // Errors (a failed request, say) and worse reach the console, the chatter of a boot does not.
    'loglevel=4',
    'panic=-1',
    'nokaslr',
    'mitigations=off',
    'no_timer_check',
    'cryptomgr.notests', // self-tests of ciphers: a tenth of an emulated boot
    'random.trust_cpu=on',
    `everpoint.disks=${diskCount}`,
  ].join(' ');
}

/** Arguments of `qemu-system-x86_64` for one headless guest without a network. */
export function qemuArgs(options: QemuOptions): string[] {
  return [
    ...['-nodefaults', '-no-user-config', '-no-reboot', '-display', 'none', '-vga', 'none'],
    ...['-machine', `pc,accel=${options.accel},hpet=off,usb=off`],
    // Emulated, a small CPU boots 0.3 s sooner than one with every feature. Without rdrand the
    // guest has no random numbers at first, and mkfs.ext4 waits 4 s for them to make its UUIDs.
    ...['-cpu', options.accel === 'kvm' ? 'host' : 'qemu64,+rdrand'],
    ...['-smp', String(options.cpus)],
    ...memoryArgs(options),
    ...['-kernel', options.kernel, '-initrd', options.initrd],
    ...['-append', kernelCommandLine(options.disks.length)],
    ...['-chardev', `socket,id=console,fd=${options.consoleFd}`],
    ...['-chardev', `socket,id=job,fd=${options.jobFd}`],
    ...['-serial', 'chardev:console', '-serial', 'chardev:job'],
    ...options.disks.flatMap((disk, n) => diskArgs(disk, n, options)),
  ];
}

/** `[major, minor]` from what `qemu-system-x86_64 --version` prints. */
export function parseQemuVersion(text: string): [number, number] {
  const found = /version (\d+)\.(\d+)/.exec(text);
  if (!found) throw new RangeError(`no version in: ${text.slice(0, 80)}`);
  return [Number(found[1]), Number(found[2])];
}

export function qemuVersion(binary: string): { text: string; version: [number, number] } {
  const text = execFileSync(binary, ['--version'], { encoding: 'utf8' }).split('\n')[0] ?? '';
  return { text, version: parseQemuVersion(text) };
}
