// SPDX-License-Identifier: Apache-2.0

/** Runs work of the same key one at a time, in the order it was given. */
export class Serial {
  private readonly tails = new Map<string, Promise<unknown>>();

  run<T>(key: string, work: () => Promise<T>): Promise<T> {
    const before = this.tails.get(key) ?? Promise.resolve();
    const result = before.then(work, work);
    const tail = result
      .catch(() => undefined)
      .finally(() => {
        if (this.tails.get(key) === tail) this.tails.delete(key);
      });
    this.tails.set(key, tail);
    return result;
  }
}

/**
 * The one lock of changes to the set of groups: names, sockets and primaries are unique among all of
 * them, so creations, changes, deletions and take-overs come one after the other.
 */
export class GroupLock {
  private readonly serial = new Serial();

  run<T>(work: () => Promise<T>): Promise<T> {
    return this.serial.run('groups', work);
  }
}
