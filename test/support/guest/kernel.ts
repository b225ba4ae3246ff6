// SPDX-License-Identifier: Apache-2.0
import { existsSync, readFileSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { GuestError } from './errors.ts';

/** A Debian kernel package unpacked with `dpkg-deb -x`. */
export interface GuestKernel {
  version: string;
  vmlinuz: string;
  /** Folder `lib/modules/<version>`. */
  modules: string;
}

/** What a kernel module asks to have loaded before it. */
export interface ModuleNeeds {
  depends: string[];
  softPre: string[];
}

const UNPACK_HINT =
  'apt-get download the versioned package that linux-image-cloud-amd64 depends on, then ' +
  'dpkg-deb -x it into build/guest/kernel';

/** Finds the newest kernel under `folder` that has both its image and its modules. */
export function findKernel(folder: string): GuestKernel {
  const boot = join(folder, 'boot');
  const names = existsSync(boot) ? readdirSync(boot) : [];
  const versions = names
    .filter((name) => name.startsWith('vmlinuz-'))
    .map((name) => name.slice('vmlinuz-'.length))
    .filter((version) => existsSync(join(folder, 'lib/modules', version)))
    .sort(new Intl.Collator('en', { numeric: true }).compare);
  const version = versions.at(-1);
  if (version === undefined) {
    throw new GuestError('find guest kernel', `no kernel in ${folder}`, { hint: UNPACK_HINT });
  }
  return {
    version,
    vmlinuz: join(boot, `vmlinuz-${version}`),
    modules: join(folder, 'lib/modules', version),
  };
}

/** Module names use `-` and `_` as one and the same letter. */
export function moduleName(fileName: string): string {
  return fileName.replace(/\.ko(\.\w+)?$/, '').replaceAll('-', '_');
}

/** Every module file below `folder` by its name. Debian's unpacked package has no modules.dep. */
export function indexModules(folder: string): Map<string, string> {
  const index = new Map<string, string>();
  for (const entry of readdirSync(folder, { recursive: true, encoding: 'utf8' })) {
    if (!/\.ko(\.\w+)?$/.test(entry)) continue;
    index.set(moduleName(entry.slice(entry.lastIndexOf('/') + 1)), join(folder, entry));
  }
  return index;
}

/** Names of what the kernel image has built in, where it says so. */
export function builtinModules(folder: string): Set<string> {
  const file = join(folder, 'modules.builtin');
  if (!existsSync(file)) return new Set();
  const lines = readFileSync(file, 'utf8').split('\n').filter(Boolean);
  return new Set(lines.map((line) => moduleName(line.slice(line.lastIndexOf('/') + 1))));
}

/** The `.modinfo` section of a 64-bit little-endian ELF module, as key and value pairs. */
export function readModinfo(elf: Buffer): Array<[string, string]> {
  const fail = (why: string): GuestError => new GuestError('read kernel module', why);
  if (elf.length < 64 || elf.readUInt32BE(0) !== 0x7f454c46) throw fail('not an ELF file');
  if (elf[4] !== 2 || elf[5] !== 1) throw fail('not 64-bit little-endian');
  const headers = Number(elf.readBigUInt64LE(0x28));
  const entrySize = elf.readUInt16LE(0x3a);
  const count = elf.readUInt16LE(0x3c);
  const namesIndex = elf.readUInt16LE(0x3e);
  if (entrySize < 64 || headers + entrySize * count > elf.length || namesIndex >= count) {
    throw fail('section headers out of bounds');
  }
  const section = (n: number): { name: number; offset: number; size: number } => ({
    name: elf.readUInt32LE(headers + n * entrySize),
    offset: Number(elf.readBigUInt64LE(headers + n * entrySize + 0x18)),
    size: Number(elf.readBigUInt64LE(headers + n * entrySize + 0x20)),
  });
  const names = section(namesIndex);
  for (let n = 0; n < count; n += 1) {
    const { name, offset, size } = section(n);
    const start = names.offset + name;
    if (elf.toString('latin1', start, elf.indexOf(0, start)) !== '.modinfo') continue;
    return elf
      .toString('latin1', offset, offset + size)
      .split('\0')
      .filter((item) => item.includes('='))
      .map((item) => [item.slice(0, item.indexOf('=')), item.slice(item.indexOf('=') + 1)]);
  }
  throw fail('no .modinfo section');
}

/** Hard dependencies and `softdep=pre:` ones, by normalised name. */
export function moduleNeeds(modinfo: ReadonlyArray<readonly [string, string]>): ModuleNeeds {
  const needs: ModuleNeeds = { depends: [], softPre: [] };
  for (const [key, value] of modinfo) {
    if (key === 'depends') needs.depends.push(...value.split(',').filter(Boolean).map(moduleName));
    if (key === 'softdep') {
      const pre = /\bpre:\s*([^:]*?)(?:\s+post:|$)/.exec(value);
      needs.softPre.push(...(pre?.[1] ?? '').split(/\s+/).filter(Boolean).map(moduleName));
    }
  }
  return needs;
}

/**
 * The order in which to load `wanted` so that whatever a module needs comes before it. A soft need
 * is a hint that may name an alias (`crc32c` is `crc32c_generic`): a module of that name or with
 * `_generic` behind it is taken, else it is left out.
 */
export function loadOrder(
  wanted: readonly string[],
  needsOf: (name: string) => ModuleNeeds | undefined,
  builtin: ReadonlySet<string>,
): string[] {
  const order: string[] = [];
  const state = new Map<string, 'visiting' | 'done'>();
  const visit = (name: string, by: string): void => {
    if (builtin.has(name) || state.get(name) === 'done') return;
    if (state.get(name) === 'visiting') {
      throw new GuestError('order kernel modules', `${name} and ${by} need each other`);
    }
    const needs = needsOf(name);
    if (needs === undefined) {
      throw new GuestError('order kernel modules', `${by} needs ${name}, which is not there`);
    }
    state.set(name, 'visiting');
    for (const soft of needs.softPre) {
      const real = [soft, `${soft}_generic`].find((n) => needsOf(n) !== undefined);
      if (real !== undefined && state.get(real) !== 'visiting') visit(real, name);
    }
    for (const dependency of needs.depends) visit(dependency, name);
    state.set(name, 'done');
    order.push(name);
  };
  for (const name of wanted) visit(moduleName(name), 'the guest');
  return order;
}

/** Size and time of the kernel's files that matter: a new kernel must rebuild the initramfs. */
export function kernelFingerprint(kernel: GuestKernel): string {
  const image = statSync(kernel.vmlinuz);
  return `${kernel.version} ${image.size} ${Math.trunc(image.mtimeMs)}`;
}
