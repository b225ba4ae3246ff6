// SPDX-License-Identifier: Apache-2.0

import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { Janitor } from './janitor.ts';
import { blkioFolder } from './system.ts';

/** Per second, on one device. */
export interface Limits {
  readBytes?: number;
  writeBytes?: number;
  readRequests?: number;
  writeRequests?: number;
}

const FILES: Record<keyof Limits, string> = {
  readBytes: 'blkio.throttle.read_bps_device',
  writeBytes: 'blkio.throttle.write_bps_device',
  readRequests: 'blkio.throttle.read_iops_device',
  writeRequests: 'blkio.throttle.write_iops_device',
};

/** $1 the cgroup, $2 its parent: no limit, no process, no cgroup. Children that ended leave at once. */
const PUT_AWAY = `
for file in ${Object.values(FILES).join(' ')}; do
  while read -r device limit; do echo "$device 0" >"$1/$file"; done <"$1/$file"
done
n=0
while [ -d "$1" ] && [ $n -lt 100 ]; do
  while read -r pid; do echo "$pid" >"$2/cgroup.procs"; done <"$1/cgroup.procs"
  rmdir "$1" || sleep 0.2
  n=$((n + 1))
done
`;

const all = new Set<Throttle>();
let made = 0;

/**
 * A cgroup (v1, blkio) of a test's own: what its processes send to a device waits its turn in the
 * kernel, also after the process is gone. Direct I/O and synced files are what it holds back; what
 * the kernel's own threads write (journal, write-back) is not theirs.
 */
export class Throttle {
  readonly #folder: string;
  readonly #parent: string;
  readonly #limited = new Set<string>();
  readonly #janitor: Janitor;

  constructor() {
    const parent = blkioFolder();
    if (parent === undefined) throw new Error('no blkio controller of cgroup v1 is mounted');
    this.#parent = parent;
    made += 1;
    this.#folder = join(parent, `ep-test-${process.pid}-${made}`);
    mkdirSync(this.#folder);
    this.#janitor = new Janitor(PUT_AWAY, [this.#folder, parent]);
    all.add(this);
  }

  /** Ends all limits that this process has set. Call it before file systems are unmounted. */
  static removeAll(): void {
    for (const one of [...all]) one.remove();
  }

  /** A process and all its threads, those to come too; its children only if they start later. */
  add(pid: number): void {
    writeFileSync(join(this.#folder, 'cgroup.procs'), `${pid}`);
  }

  /** Takes a process out again. What it has sent so far waits all the same. */
  release(pid: number): void {
    writeFileSync(join(this.#parent, 'cgroup.procs'), `${pid}`);
  }

  /** @param device - `MAJOR:MINOR` of a whole device that belongs to the test */
  limit(device: string, limits: Limits): void {
    for (const [name, value] of Object.entries(limits) as [keyof Limits, number][]) {
      this.#limited.add(device);
      writeFileSync(join(this.#folder, FILES[name]), `${device} ${value}`);
    }
  }

  /** What waits goes on at once. */
  lift(): void {
    for (const device of this.#limited) {
      for (const file of Object.values(FILES)) {
        writeFileSync(join(this.#folder, file), `${device} 0`);
      }
    }
    this.#limited.clear();
  }

  remove(): void {
    if (!all.delete(this)) return;
    if (existsSync(this.#folder)) {
      this.lift();
      const pids = readFileSync(join(this.#folder, 'cgroup.procs'), 'utf8').split('\n');
      for (const pid of pids.filter((text) => text !== '')) {
        try {
          this.release(Number(pid));
        } catch {
          // It has just ended.
        }
      }
      try {
        rmdirSync(this.#folder);
      } catch {
        return; // One that has not quite ended yet: the janitor comes after us.
      }
    }
    this.#janitor.dismiss();
  }
}
