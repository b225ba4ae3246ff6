// SPDX-License-Identifier: Apache-2.0

import {
  closeSync,
  fsyncSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statfsSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';

import { Janitor } from './janitor.ts';
import { ioctl, run, withFd } from './system.ts';

// linux/fs.h, linux/loop.h and ext4's own.
const FIFREEZE = 0xc0045877;
const FITHAW = 0xc0045878;
const EXT4_IOC_SHUTDOWN = 0x8004587d;
const LOOP_SET_STATUS64 = 0x4c04;
const LOOP_GET_STATUS64 = 0x4c05;
/** struct loop_info64: its size, and where the device's length stands. */
const LOOP_INFO_BYTES = 232;
const LOOP_INFO_SIZELIMIT = 32;

/** $1 mount point, $2 device, $3 image, $4 folder. Who still uses it is ending just now. */
const PUT_AWAY = `
n=0
while grep -q " $1 " /proc/self/mounts; do
  fsfreeze -u "$1"; umount "$1" && continue
  n=$((n + 1)); [ $n -gt 100 ] && umount -l "$1" && break
  sleep 0.2
done
losetup -j "$3" | grep -q "^$2:" && losetup -d "$2"
rm -rf "$4"
`;

export interface LoopOptions {
  sizeBytes: number;
  /** Folder in which image and mount point get a folder of their own. Default: os.tmpdir(). */
  under?: string;
}

const all = new Set<LoopFileSystem>();

/**
 * A small ext4 of a test's own: a file, a loop device on it, mounted. It can be made to hang, to
 * fill and to fail, and to work again, while others have files open in it. All metadata, the journal
 * too, lies at the front (`packed_meta_blocks`), so that the rest can fail alone.
 *
 * Nothing here ever touches a file system or device that it did not make.
 */
export class LoopFileSystem {
  /** Where it is mounted. */
  readonly path: string;
  /** `/dev/loopN`. */
  readonly device: string;
  /** `MAJOR:MINOR`, as cgroups name a device. */
  readonly deviceNumber: string;
  readonly #folder: string;
  readonly #image: string;
  readonly #janitor: Janitor;
  /** st_dev of what is mounted: freezing the wrong file system would stop the machine. */
  #dev: number;
  #frozen = false;

  private constructor(options: LoopOptions) {
    this.#folder = mkdtempSync(join(options.under ?? tmpdir(), 'ep-loop-'));
    this.#image = join(this.#folder, 'image');
    this.path = join(this.#folder, 'mnt');
    mkdirSync(this.path);
    writeFileSync(this.#image, '');
    truncateSync(this.#image, options.sizeBytes);
    const how = ['-q', '-F', '-m', '0', '-b', '4096', '-J', 'size=4'];
    const extended = 'packed_meta_blocks=1,lazy_itable_init=0,lazy_journal_init=0,nodiscard';
    run('mkfs.ext4', ...how, '-E', extended, this.#image);
    this.device = run('losetup', '--find', '--show', this.#image).trim();
    this.#janitor = new Janitor(PUT_AWAY, [this.path, this.device, this.#image, this.#folder]);
    this.deviceNumber = readFileSync(`/sys/block/${basename(this.device)}/dev`, 'utf8').trim();
    const outside = statSync(this.path).dev;
    this.#dev = outside;
    this.#mount();
    if (this.#dev === outside) throw new Error(`${this.path} is not mounted`);
  }

  /** Makes one and mounts it. `removeAll` takes it down again, and so does the end of the process. */
  static make(options: LoopOptions): LoopFileSystem {
    const made = new LoopFileSystem(options);
    all.add(made);
    return made;
  }

  /** Takes down all that this process has made: for `afterEach`, after whoever used them has ended. */
  static removeAll(): void {
    for (const one of [...all]) one.remove();
  }

  /** Ends what hangs and fails of all that this process has made: nobody can end on a frozen one. */
  static mendAll(): void {
    for (const one of all) {
      one.thaw();
      one.mend();
    }
  }

  /** As statfs says. */
  get freeBytes(): number {
    const { bavail, bsize } = statfsSync(this.path);
    return bavail * bsize;
  }

  /** From here on every write to it waits, as on a device that does not answer, until `thaw`. */
  freeze(): void {
    withFd(this.path, this.#dev, (fd) => ioctl(fd, FIFREEZE, 0));
    this.#frozen = true;
  }

  thaw(): void {
    if (!this.#frozen) return;
    withFd(this.path, this.#dev, (fd) => ioctl(fd, FITHAW, 0));
    this.#frozen = false;
  }

  /** Takes all the space that is left. @returns bytes taken */
  fill(): number {
    const filler = join(this.path, 'filler');
    const fd = openSync(filler, 'w');
    let taken = 0;
    try {
      // Reserved in one go, the last blocks by writing: both are what a full disk looks like.
      for (let most = this.freeBytes - (1 << 20); most > 0;) {
        try {
          run('fallocate', '-l', `${most}`, filler);
          taken = most;
          break;
        } catch {
          // Somebody else has just taken some of it.
          most = Math.min(this.freeBytes, most) - (1 << 20);
        }
      }
      for (const chunk of [Buffer.alloc(1 << 16, 1), Buffer.alloc(4096, 1)]) {
        try {
          for (;;) taken += writeSync(fd, chunk, 0, chunk.length, taken);
        } catch (error) {
          if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
        }
      }
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    return taken;
  }

  /** Gives back what `fill` took. */
  free(): void {
    rmSync(join(this.path, 'filler'), { force: true });
  }

  /**
   * Reads and writes past the first `bytes` of the device fail (EIO) until `mend`; what is there
   * stays. With all metadata before that, the file system itself goes on.
   */
  failBeyond(bytes: number): void {
    this.#setSizeLimit(bytes);
  }

  /** The whole device is there again. */
  mend(): void {
    this.#setSizeLimit(0);
  }

  /** Where the metadata ends, in bytes: everything past it is the files' data. */
  get metadataBytes(): number {
    // Free blocks are listed by group, lowest first; nothing was written when it was made.
    const text = run('dumpe2fs', this.#image);
    const first = /^\s*Free blocks: (\d+)/m.exec(text)?.[1];
    if (first === undefined) throw new Error(`no free blocks in:\n${text.slice(0, 2000)}`);
    return Number(first) * 4096;
  }

  /** It is gone for good for who has it open: every call fails. Mounting it anew brings it back. */
  shutDown(): void {
    const flags = Buffer.alloc(4);
    flags.writeUInt32LE(2); // EXT4_GOING_FLAGS_NOLOGFLUSH: as it stands on the device.
    withFd(this.path, this.#dev, (fd) => ioctl(fd, EXT4_IOC_SHUTDOWN, flags));
  }

  /** Unmounts and mounts it; whoever had it open must have let go. */
  remount(): void {
    run('umount', this.path);
    this.#mount();
  }

  /** `remount` where nobody has it open. @returns whether it did */
  tryRemount(): boolean {
    try {
      run('umount', this.path);
    } catch {
      return false;
    }
    this.#mount();
    return true;
  }

  /** Unmounts and removes it, in whatever state it is. */
  remove(): void {
    if (!all.delete(this)) return;
    this.#frozen = true; // Thawing once too often does no harm.
    try {
      this.thaw();
    } catch {
      // It was not frozen.
    }
    this.mend();
    if (!this.#unmount()) run('umount', '--lazy', this.path); // It goes when its users go.
    run('losetup', '--detach', this.device);
    rmSync(this.#folder, { recursive: true, force: true });
    this.#janitor.dismiss();
  }

  /** Who has just been killed may not have let go yet. */
  #unmount(): boolean {
    for (let tries = 0; tries < 25; tries += 1) {
      try {
        run('umount', this.path);
        return true;
      } catch {
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 200);
      }
    }
    return false;
  }

  #mount(): void {
    run('mount', '-t', 'ext4', '-o', 'errors=continue', this.device, this.path);
    this.#dev = statSync(this.path).dev;
  }

  #setSizeLimit(bytes: number): void {
    withFd(this.device, undefined, (fd) => {
      const info = Buffer.alloc(LOOP_INFO_BYTES);
      ioctl(fd, LOOP_GET_STATUS64, info);
      info.writeBigUInt64LE(BigInt(bytes), LOOP_INFO_SIZELIMIT);
      ioctl(fd, LOOP_SET_STATUS64, info);
    });
  }
}
