// SPDX-License-Identifier: Apache-2.0
import { spawn, type ChildProcess } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import type { Duplex, Readable } from 'node:stream';
import { GuestError } from './errors.ts';
import { buildInitramfs, writeBootInitramfs } from './initramfs.ts';
import { QEMU, qemuArgs, qemuVersion, type Accel, type GuestDisk } from './qemu.ts';

/** One line from the guest. */
export interface GuestLine {
  /** `job`: the script's output and the markers; `console`: the kernel; `qemu`: QEMU's stderr. */
  from: 'job' | 'console' | 'qemu';
  text: string;
  /** Milliseconds since QEMU was started. */
  atMs: number;
}

/** What a guest is given, but for the accelerator. */
export interface BootOptions {
  disks: readonly GuestDisk[];
  /** Shell script (busybox ash) that the guest runs; disks are /dev/vda, /dev/vdb … in order. */
  script: string;
  /** Default 256; disks that come with ready arguments bring their own. */
  memoryMb?: number;
  /** Default: as many as the disk with the most queues, at least 1, at most 4. */
  cpus?: number;
  /** Default 1 (second); false: QEMU does not look for a back-end again. */
  reconnect?: number | false;
  /** Host programs beyond the standard ones, put into the initramfs with their libraries. */
  extraTools?: readonly string[];
  onLine?: (line: GuestLine) => void;
}

export interface GuestDurations {
  /** From the start of QEMU to the job's first line, where the job was reached. */
  bootMs: number | null;
  /** The job itself, where it ended. */
  jobMs: number | null;
  /** Until QEMU was gone. */
  totalMs: number;
}

export interface GuestExit {
  /** Exit code of the job; null where the guest did not get there. */
  exitCode: number | null;
  qemuCode: number | null;
  qemuSignal: NodeJS.Signals | null;
  durations: GuestDurations;
}

/** A guest that runs. */
export interface Guest {
  readonly pid: number;
  readonly accel: Accel;
  /** Everything so far, growing. */
  readonly lines: readonly GuestLine[];
  /**
   * The first line, already there or still to come, from index `from` on, that matches. Rejects
   * when time is up or the guest ends without it.
   */
  waitForLine(pattern: RegExp | string, timeoutMs: number, from?: number): Promise<GuestLine>;
  /** Gives the job a line to read from `/dev/ttyS1` (`pauseJob` waits for one). */
  say(line: string): void;
  /** Ends QEMU hard, as a power cut ends a machine. */
  kill(): void;
  /** Settles when QEMU is gone and all output was read; never rejects. */
  readonly exited: Promise<GuestExit>;
}

interface Waiter {
  matches: (line: GuestLine) => boolean;
  resolve: (line: GuestLine) => void;
  reject: (error: GuestError) => void;
  timer: NodeJS.Timeout;
}

/** Calls `onLine` for each whole line of a serial port, and for a last one without its end. */
export function splitLines(stream: Readable, onLine: (text: string) => void): Promise<void> {
  let rest = '';
  stream.setEncoding('latin1');
  stream.on('data', (chunk: string) => {
    const parts = (rest + chunk).split('\n');
    rest = parts.pop() ?? '';
    for (const part of parts) onLine(part.replaceAll('\r', ''));
  });
  return new Promise((resolve) => {
    let ended = false;
    const end = (): void => {
      if (ended) return;
      ended = true;
      if (rest !== '') onLine(rest.replaceAll('\r', ''));
      resolve();
    };
    stream.on('end', end);
    // A socket whose other end died may report an error in the place of its end.
    stream.on('error', end);
    stream.on('close', end);
  });
}

/** The last lines, for error messages. */
export function tail(lines: readonly GuestLine[], count = 25): string {
  return lines
    .slice(-count)
    .map((line) => `  ${(line.atMs / 1000).toFixed(2)}s ${line.from}: ${line.text}`)
    .join('\n');
}

class RunningGuest implements Guest {
  readonly lines: GuestLine[] = [];
  readonly exited: Promise<GuestExit>;
  readonly accel: Accel;
  readonly pid: number;
  readonly #child: ChildProcess;
  readonly #started = performance.now();
  readonly #onLine: ((line: GuestLine) => void) | undefined;
  readonly #waiters = new Set<Waiter>();
  #beginMs: number | null = null;
  #endMs: number | null = null;
  #exitCode: number | null = null;
  #gone = false;

  constructor(args: readonly string[], accel: Accel, folder: string, options: BootOptions) {
    this.accel = accel;
    this.#onLine = options.onLine;
    // setpriv: QEMU must not outlive a test runner that was killed. It keeps the pid (exec).
    this.#child = spawn('setpriv', ['--pdeathsig', 'KILL', QEMU, ...args], {
      stdio: ['ignore', 'ignore', 'pipe', 'pipe', 'pipe'],
    });
    this.pid = this.#child.pid ?? 0;
    this.exited = this.#watch(folder);
  }

  waitForLine(pattern: RegExp | string, timeoutMs: number, from = 0): Promise<GuestLine> {
    const matches = (line: GuestLine): boolean =>
      typeof pattern === 'string' ? line.text.includes(pattern) : pattern.test(line.text);
    const already = this.lines.slice(from).find(matches);
    if (already) return Promise.resolve(already);
    if (this.#gone) return Promise.reject(this.#waitError(pattern, 'the guest has ended'));
    return new Promise((resolve, reject) => {
      const waiter: Waiter = {
        matches,
        resolve,
        reject: () => reject(this.#waitError(pattern, 'the guest has ended')),
        timer: setTimeout(() => {
          this.#waiters.delete(waiter);
          reject(this.#waitError(pattern, `not within ${timeoutMs} ms`));
        }, timeoutMs),
      };
      this.#waiters.add(waiter);
    });
  }

  say(line: string): void {
    // Node makes a "pipe" a socket pair, so the serial port can be written to as well.
    (this.#child.stdio[4] as Duplex).write(`${line}\n`);
  }

  kill(): void {
    if (!this.#gone) this.#child.kill('SIGKILL');
  }

  #waitError(pattern: RegExp | string, why: string): GuestError {
    return new GuestError('wait for guest', `${why}: ${String(pattern)}\n${tail(this.lines)}`);
  }

  async #watch(folder: string): Promise<GuestExit> {
    const child = this.#child;
    const streams = (
      [
        ['qemu', 2],
        ['console', 3],
        ['job', 4],
      ] as const
    ).map(([from, fd]) =>
      splitLines(child.stdio[fd] as Readable, (text) => this.#take(from, text)),
    );
    const [qemuCode, qemuSignal] = await new Promise<[number | null, NodeJS.Signals | null]>(
      (resolve) => {
        child.on('exit', (code, signal) => resolve([code, signal]));
        child.on('error', (error) => {
          this.#take('qemu', `cannot start: ${error.message}`);
          resolve([null, null]);
        });
      },
    );
    const totalMs = performance.now() - this.#started;
    await Promise.all(streams);
    this.#gone = true;
    for (const waiter of this.#waiters) {
      clearTimeout(waiter.timer);
      waiter.reject(new GuestError('wait for guest', 'the guest has ended'));
    }
    this.#waiters.clear();
    rmSync(folder, { recursive: true, force: true });
    const bootMs = this.#beginMs;
    const jobMs = bootMs !== null && this.#endMs !== null ? this.#endMs - bootMs : null;
    return {
      exitCode: this.#exitCode,
      qemuCode,
      qemuSignal,
      durations: { bootMs, jobMs, totalMs },
    };
  }

  #take(from: GuestLine['from'], text: string): void {
    const line: GuestLine = { from, text, atMs: performance.now() - this.#started };
    this.lines.push(line);
    if (from === 'job' && text.startsWith('@@guest begin')) this.#beginMs ??= line.atMs;
    const end = from === 'job' ? /^@@guest end (\d+)/.exec(text) : null;
    if (end) {
      this.#exitCode = Number(end[1]);
      this.#endMs = line.atMs;
    }
    this.#onLine?.(line);
    for (const waiter of [...this.#waiters]) {
      if (!waiter.matches(line)) continue;
      this.#waiters.delete(waiter);
      clearTimeout(waiter.timer);
      waiter.resolve(line);
    }
  }
}

/** Boots a guest whose accelerator is already decided. `startGuest` decides by itself. */
export function bootGuest(options: BootOptions, accel: Accel): Guest {
  const initramfs = buildInitramfs({ extraTools: options.extraTools ?? [] });
  const folder = mkdtempSync(join(tmpdir(), 'everpoint-guest-'));
  try {
    const initrd = join(folder, 'initrd');
    writeBootInitramfs(initramfs.path, options.script, initrd);
    const queues = options.disks.map((disk) => disk.queues ?? 1);
    const args = qemuArgs({
      kernel: initramfs.kernel.vmlinuz,
      initrd,
      disks: options.disks,
      accel,
      memoryMb: options.memoryMb ?? 256,
      cpus: options.cpus ?? Math.min(4, Math.max(1, ...queues)),
      reconnect: options.reconnect ?? 1,
      version: qemuVersion(QEMU).version,
      consoleFd: 3,
      jobFd: 4,
    });
    return new RunningGuest(args, accel, folder, options);
  } catch (error) {
    rmSync(folder, { recursive: true, force: true });
    throw error;
  }
}
