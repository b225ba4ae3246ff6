// SPDX-License-Identifier: Apache-2.0

/**
 * Writes "newc" cpio archives, the format the Linux kernel unpacks as an initramfs. Written here
 * rather than by the `cpio` tool so that archives need no root (owners, device nodes) and equal
 * input gives equal bytes, which the cache and the tests rely on.
 */

export type CpioEntry =
  | { kind: 'dir'; path: string; mode?: number }
  | { kind: 'file'; path: string; data: Uint8Array; mode?: number }
  | { kind: 'link'; path: string; target: string }
  | { kind: 'char'; path: string; major: number; minor: number; mode?: number };

const TYPE_BITS = { dir: 0o040000, file: 0o100000, link: 0o120000, char: 0o020000 } as const;
const ALIGN = 4;

function pad(length: number): Buffer {
  return Buffer.alloc((ALIGN - (length % ALIGN)) % ALIGN);
}

function member(
  inode: number,
  name: string,
  mode: number,
  data: Uint8Array,
  device: [number, number],
): Buffer[] {
  const nameBytes = Buffer.from(`${name}\0`);
  const fields = [
    inode,
    mode,
    0, // uid
    0, // gid
    1, // nlink
    0, // mtime
    data.length,
    0, // major and minor of the device the file is on
    0,
    device[0],
    device[1],
    nameBytes.length,
    0, // check: unused in newc
  ];
  const header = Buffer.from(
    `070701${fields.map((f) => f.toString(16).padStart(8, '0').toUpperCase()).join('')}`,
  );
  return [
    header,
    nameBytes,
    pad(header.length + nameBytes.length),
    Buffer.from(data.buffer, data.byteOffset, data.length),
    pad(data.length),
  ];
}

/** Missing parent folders of every entry, parents first: the kernel does not create them itself. */
export function withParents(entries: readonly CpioEntry[]): CpioEntry[] {
  const known = new Set<string>();
  const out: CpioEntry[] = [];
  for (const entry of entries) {
    const parts = entry.path.split('/');
    for (let n = 1; n < parts.length; n += 1) {
      const parent = parts.slice(0, n).join('/');
      if (known.has(parent)) continue;
      known.add(parent);
      out.push({ kind: 'dir', path: parent });
    }
    if (known.has(entry.path)) {
      if (entry.kind === 'dir') continue;
      throw new RangeError(`cpio: ${entry.path} is there twice`);
    }
    known.add(entry.path);
    out.push(entry);
  }
  return out;
}

/**
 * One archive with its trailer, padded to 512 bytes: archives written one after the other are
 * unpacked one after the other, so a small one with the boot's job is appended to the cached base.
 */
export function writeCpio(entries: readonly CpioEntry[]): Buffer {
  const parts: Buffer[] = [];
  let inode = 1;
  for (const entry of withParents(entries)) {
    if (entry.path.startsWith('/') || entry.path.split('/').includes('..')) {
      throw new RangeError(`cpio: ${entry.path} is not a plain relative path`);
    }
    const bits = TYPE_BITS[entry.kind];
    switch (entry.kind) {
      case 'dir':
        parts.push(
          ...member(inode, entry.path, bits | (entry.mode ?? 0o755), Buffer.alloc(0), [0, 0]),
        );
        break;
      case 'file':
        parts.push(...member(inode, entry.path, bits | (entry.mode ?? 0o644), entry.data, [0, 0]));
        break;
      case 'link':
        parts.push(...member(inode, entry.path, bits | 0o777, Buffer.from(entry.target), [0, 0]));
        break;
      case 'char':
        parts.push(
          ...member(inode, entry.path, bits | (entry.mode ?? 0o600), Buffer.alloc(0), [
            entry.major,
            entry.minor,
          ]),
        );
        break;
    }
    inode += 1;
  }
  parts.push(...member(0, 'TRAILER!!!', 0, Buffer.alloc(0), [0, 0]));
  const archive = Buffer.concat(parts);
  const tail = (512 - (archive.length % 512)) % 512;
  return tail === 0 ? archive : Buffer.concat([archive, Buffer.alloc(tail)]);
}
