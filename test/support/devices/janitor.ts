// SPDX-License-Identifier: Apache-2.0

import { type ChildProcess, spawn } from 'node:child_process';

/**
 * A shell that does its work when this process is gone, however it went: mounts, loop devices and
 * cgroups outlive the process that made them, and no exit handler runs after a SIGKILL. It waits for
 * the end of a pipe that only this process holds.
 */
export class Janitor {
  readonly #child: ChildProcess;

  /** @param script - run by sh after our end, with `args` as $1, $2 … */
  constructor(script: string, args: readonly string[]) {
    const waits = 'read -r word; [ "$word" = dismissed ] && exit 0\n';
    // Detached: what ends this process's group must not end it too.
    this.#child = spawn('sh', ['-c', waits + script, 'janitor', ...args], {
      detached: true,
      stdio: ['pipe', 'ignore', 'ignore'],
    });
    this.#child.unref();
    const { stdin } = this.#child;
    stdin?.on('error', () => undefined);
    // A pipe that this process keeps open must not keep this process running.
    if (stdin !== null && 'unref' in stdin) (stdin as unknown as { unref(): void }).unref();
  }

  /** Everything was put away already. */
  dismiss(): void {
    this.#child.stdin?.end('dismissed\n');
  }
}
