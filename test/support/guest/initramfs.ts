// SPDX-License-Identifier: Apache-2.0
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { gunzipSync, zstdDecompressSync } from 'node:zlib';
import { writeCpio, type CpioEntry } from './cpio.ts';
import { GuestError } from './errors.ts';
import {
  builtinModules,
  findKernel,
  indexModules,
  kernelFingerprint,
  loadOrder,
  moduleNeeds,
  readModinfo,
  type GuestKernel,
  type ModuleNeeds,
} from './kernel.ts';

/** What every guest loads: its disks and ext4. Dependencies are found in the modules themselves. */
export const GUEST_MODULES = [
  'virtio_ring',
  'virtio',
  'virtio_pci_modern_dev',
  'virtio_pci_legacy_dev',
  'virtio_pci',
  'virtio_blk',
  'crc32c_generic',
  'ext4',
] as const;

/** Host programs the standard jobs call; they go in together with their shared libraries. */
export const GUEST_TOOLS = ['mkfs.ext4', 'e2fsck'] as const;

const HERE = import.meta.dirname;
/** `build/guest` of the project. */
export const GUEST_DIR = join(HERE, '../../../build/guest');
const SEARCH = ['/usr/sbin', '/sbin', '/usr/bin', '/bin', '/usr/local/bin'];

/** What {@link buildInitramfs} made or found. */
export interface Initramfs {
  kernel: GuestKernel;
  /** Uncompressed newc archive; a boot's own archive is appended to it. */
  path: string;
  /** False where the cached one was taken. */
  built: boolean;
}

function findTool(name: string): string {
  const found = name.startsWith('/')
    ? [name].find(existsSync)
    : SEARCH.map((folder) => join(folder, name)).find(existsSync);
  if (found === undefined) {
    throw new GuestError('build initramfs', `${name} is not installed`, {
      hint: 'apt-get install busybox-static e2fsprogs',
    });
  }
  return found;
}

/** Paths of a program's shared libraries and its loader, from the text that `ldd` prints. */
export function parseLdd(text: string): string[] {
  const paths = text.split('\n').map((line) => /(?:=>\s*)?(\/\S+)\s+\(0x/.exec(line)?.[1]);
  return [...new Set(paths.filter((path) => path !== undefined))];
}

function sharedLibraries(program: string): string[] {
  return parseLdd(execFileSync('ldd', [program], { encoding: 'utf8', env: { LC_ALL: 'C' } }));
}

function readModule(path: string): Buffer {
  const data = readFileSync(path);
  if (path.endsWith('.ko')) return data;
  if (path.endsWith('.gz')) return gunzipSync(data);
  if (path.endsWith('.zst')) return zstdDecompressSync(data);
  if (path.endsWith('.xz')) {
    return execFileSync('xz', ['-dc'], { input: data, maxBuffer: 64 << 20 });
  }
  throw new GuestError('read kernel module', `${path}: unknown compression`);
}

function moduleEntries(kernel: GuestKernel): CpioEntry[] {
  const index = indexModules(kernel.modules);
  const cache = new Map<string, { data: Buffer; needs: ModuleNeeds }>();
  const load = (name: string): { data: Buffer; needs: ModuleNeeds } | undefined => {
    const path = index.get(name);
    if (path === undefined) return undefined;
    let known = cache.get(name);
    if (known === undefined) {
      const data = readModule(path);
      known = { data, needs: moduleNeeds(readModinfo(data)) };
      cache.set(name, known);
    }
    return known;
  };
  const order = loadOrder(GUEST_MODULES, (n) => load(n)?.needs, builtinModules(kernel.modules));
  const files = order.map((name): CpioEntry => {
    const data = load(name)?.data ?? Buffer.alloc(0);
    return { kind: 'file', path: `modules/${name}.ko`, data };
  });
  const list = Buffer.from(order.map((name) => `${name}.ko\n`).join(''));
  return [...files, { kind: 'file', path: 'modules/order', data: list }];
}

/** Programs by their host paths, and every library they load, at the same paths in the guest. */
function toolEntries(programs: readonly string[], loader: string): CpioEntry[] {
  const libraries = new Set(programs.flatMap(sharedLibraries));
  return [
    ...[...programs, loader].map((path): CpioEntry => ({
      kind: 'file',
      path: `tools/bin/${basename(path)}`,
      data: readFileSync(path),
      mode: 0o755,
    })),
    ...[...libraries].map((path): CpioEntry => ({
      kind: 'file',
      path: path.slice(1),
      data: readFileSync(path),
      mode: 0o755,
    })),
  ];
}

function fingerprint(path: string): string {
  const { size, mtimeMs } = statSync(path);
  return `${path} ${size} ${Math.trunc(mtimeMs)}`;
}

function contentKey(parts: readonly string[]): string {
  return createHash('sha256').update(parts.join('\n')).digest('hex').slice(0, 16);
}

/** Writes a file so that someone who builds at the same time never sees half of it. */
export function writeWhole(path: string, data: Uint8Array | string, mode = 0o644): void {
  const temporary = `${path}.${process.pid}.tmp`;
  writeFileSync(temporary, data, { mode });
  renameSync(temporary, path);
}

/**
 * The load program (`disk-load.cc`), linked statically, so that the very same file runs in the
 * guest and, to check an image, on the host. Compiled once per source text.
 */
export function buildDiskLoad(guestDir: string = GUEST_DIR): string {
  const source = join(HERE, 'disk-load.cc');
  const flags = ['-std=c++20', '-O2', '-static', '-pthread', '-Wall', '-Wextra', '-Werror'];
  const key = contentKey([readFileSync(source, 'utf8'), flags.join(' ')]);
  const path = join(guestDir, `disk-load-${key}`);
  if (existsSync(path)) return path;
  mkdirSync(guestDir, { recursive: true });
  const temporary = `${path}.${process.pid}.tmp`;
  execFileSync('g++', [...flags, '-o', temporary, source], { stdio: 'inherit' });
  renameSync(temporary, path);
  return path;
}

/**
 * Builds the base initramfs, or finds the one built before from the same input. Uncompressed: QEMU
 * puts it into guest memory at once, while an emulated CPU would need seconds to decompress it.
 */
export function buildInitramfs(
  options: { guestDir?: string; extraTools?: readonly string[] } = {},
): Initramfs {
  const guestDir = options.guestDir ?? GUEST_DIR;
  const kernel = findKernel(join(guestDir, 'kernel'));
  const busybox = findTool('busybox');
  const tools = [...GUEST_TOOLS, ...(options.extraTools ?? [])].map(findTool);
  const loader = buildDiskLoad(guestDir);
  const key = contentKey([
    kernelFingerprint(kernel),
    ...[busybox, ...tools, loader].map(fingerprint),
    ...['initramfs.ts', 'cpio.ts', 'kernel.ts', 'init.sh'].map((name) =>
      readFileSync(join(HERE, name), 'utf8'),
    ),
  ]);
  const path = join(guestDir, `initramfs-${key}.cpio`);
  if (existsSync(path)) return { kernel, path, built: false };
  if (sharedLibrariesOrNone(busybox).length > 0) {
    throw new GuestError('build initramfs', `${busybox} is not statically linked`, {
      hint: 'apt-get install busybox-static',
    });
  }
  const archive = writeCpio([
    { kind: 'dir', path: 'dev' },
    { kind: 'char', path: 'dev/console', major: 5, minor: 1 },
    { kind: 'file', path: 'init', data: readFileSync(join(HERE, 'init.sh')), mode: 0o755 },
    { kind: 'file', path: 'bin/busybox', data: readFileSync(busybox), mode: 0o755 },
    { kind: 'link', path: 'etc/mtab', target: '/proc/mounts' },
    { kind: 'link', path: 'tools/bin/disk-load', target: basename(loader) },
    ...moduleEntries(kernel),
    ...toolEntries(tools, loader),
  ]);
  writeWhole(path, archive);
  return { kernel, path, built: true };
}

/** `ldd` fails on a static program; that is an answer here, not an error. */
function sharedLibrariesOrNone(program: string): string[] {
  try {
    return parseLdd(
      execFileSync('ldd', [program], {
        encoding: 'utf8',
        env: { LC_ALL: 'C' },
        stdio: ['ignore', 'pipe', 'ignore'],
      }),
    );
  } catch {
    return [];
  }
}

/** Writes one boot's initramfs: the base, then an archive with the boot's own job. */
export function writeBootInitramfs(base: string, job: string, target: string): void {
  const own = writeCpio([
    { kind: 'file', path: 'job.sh', data: Buffer.from(job.endsWith('\n') ? job : `${job}\n`) },
  ]);
  writeFileSync(target, Buffer.concat([readFileSync(base), own]));
}
