// SPDX-License-Identifier: Apache-2.0

/** The front-end program as a test sees it: events by name, commands, exit code. */

import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';

const PROGRAM = join(import.meta.dirname, '../../../build/release/everpoint-front-end');

/** One line of the program: an event, or the one result of `load`, `hostile` and `probe`. */
export type FrontEndLine = Record<string, unknown> & { event?: string };

export interface FrontEndEnd {
  code: number | null;
  signal: NodeJS.Signals | null;
  /** What it said to people. */
  errors: string;
  lines: FrontEndLine[];
}

interface Waiter {
  matches: (line: FrontEndLine) => boolean;
  resolve: (line: FrontEndLine) => void;
  reject: (error: Error) => void;
}

export class FrontEnd {
  /** Everything so far, growing. */
  readonly lines: FrontEndLine[] = [];
  /** Settles at the program's end; never rejects. */
  readonly ended: Promise<FrontEndEnd>;
  #child: ChildProcessByStdio<Writable, Readable, Readable>;
  #waiters = new Set<Waiter>();
  #over = false;
  #errors = '';

  /** @param args - as on the command line, the command first */
  constructor(args: readonly string[]) {
    if (!existsSync(PROGRAM)) throw new Error(`${PROGRAM} is not built`);
    // setpriv: it must not outlive a test runner that was killed. It keeps the pid (exec).
    this.#child = spawn('setpriv', ['--pdeathsig', 'KILL', PROGRAM, ...args], {
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    this.#child.stdin.on('error', () => undefined); // It may end before it reads a command.
    this.#child.stderr.on('data', (chunk: Buffer) => (this.#errors += chunk.toString()));
    const lines = createInterface({ input: this.#child.stdout });
    lines.on('line', (text) => this.#take(JSON.parse(text) as FrontEndLine));
    this.ended = new Promise((resolve) => {
      this.#child.once('close', (code, signal) => {
        this.#over = true;
        for (const waiter of this.#waiters) waiter.reject(new Error(this.#story('it ended')));
        this.#waiters.clear();
        resolve({ code, signal, errors: this.#errors, lines: this.lines });
      });
    });
  }

  send(command: 'pause' | 'resume' | 'stop' | 'tick'): void {
    this.#child.stdin.write(`${command}\n`);
  }

  /** The first matching line from index `from` on, there already or still to come. */
  waitFor(event: string, timeoutMs = 30_000, from = 0): Promise<FrontEndLine> {
    const matches = (line: FrontEndLine): boolean => line.event === event;
    const already = this.lines.slice(from).find(matches);
    if (already !== undefined) return Promise.resolve(already);
    if (this.#over) return Promise.reject(new Error(this.#story(`it ended without ${event}`)));
    return new Promise((resolve, reject) => {
      const waiter = { matches, resolve, reject };
      this.#waiters.add(waiter);
      setTimeout(() => {
        if (!this.#waiters.delete(waiter)) return;
        reject(new Error(this.#story(`no ${event} within ${timeoutMs} ms`)));
      }, timeoutMs).unref();
    });
  }

  count(event: string): number {
    return this.lines.filter((line) => line.event === event).length;
  }

  last(event: string): FrontEndLine | undefined {
    return this.lines.findLast((line) => line.event === event);
  }

  kill(): void {
    this.#child.kill('SIGKILL');
  }

  #take(line: FrontEndLine): void {
    this.lines.push(line);
    for (const waiter of [...this.#waiters]) {
      if (!waiter.matches(line)) continue;
      this.#waiters.delete(waiter);
      waiter.resolve(line);
    }
  }

  #story(what: string): string {
    const tail = this.lines.slice(-12).map((line) => JSON.stringify(line));
    return [`front-end: ${what}`, ...tail, this.#errors].join('\n');
  }
}

/** Runs the program to its end. */
export function runFrontEnd(args: readonly string[]): Promise<FrontEndEnd> {
  return new FrontEnd(args).ended;
}
