// SPDX-License-Identifier: Apache-2.0
import { chooseAccel, type AccelChoice } from './accel.ts';
import {
  bootGuest,
  tail,
  type BootOptions,
  type Guest,
  type GuestExit,
  type GuestLine,
} from './boot.ts';
import { GuestError } from './errors.ts';
import type { Accel } from './qemu.ts';

export interface GuestOptions extends BootOptions {
  /** Default `auto`: KVM where it really boots. */
  accel?: AccelChoice;
}

/** Boots a guest and leaves it running: for tests that kill things under its load. */
export async function startGuest(options: GuestOptions): Promise<Guest> {
  return bootGuest(options, await chooseAccel(options.accel ?? 'auto'));
}

export interface GuestResult extends GuestExit {
  exitCode: number;
  accel: Accel;
  /** What the job printed, markers left out. */
  output: string[];
  /** What the kernel printed: errors and worse. */
  console: string[];
}

const textsOf = (lines: readonly GuestLine[], from: GuestLine['from']): string[] =>
  lines.filter((line) => line.from === from).map((line) => line.text);

/** Awaits a started guest's end; throws where the job did not reach its own end in time. */
export async function finishGuest(guest: Guest, timeoutMs: number): Promise<GuestResult> {
  let timedOut = false;
  const timer = setTimeout(() => {
    timedOut = true;
    guest.kill();
  }, timeoutMs);
  const exit = await guest.exited;
  clearTimeout(timer);
  const { exitCode } = exit;
  if (exitCode === null) {
    const why = timedOut
      ? `no end within ${timeoutMs} ms`
      : `QEMU ended (code ${exit.qemuCode}, signal ${exit.qemuSignal}) before the job did`;
    throw new GuestError('run guest', `${why}\n${tail(guest.lines)}`, { retryable: timedOut });
  }
  return {
    ...exit,
    exitCode,
    accel: guest.accel,
    output: textsOf(guest.lines, 'job').filter((text) => !text.startsWith('@@guest ')),
    console: textsOf(guest.lines, 'console'),
  };
}

/** Boots a guest, runs the job to its end and returns what it said. Default limit: 120 s. */
export async function runGuest(
  options: GuestOptions & { timeoutMs?: number },
): Promise<GuestResult> {
  return finishGuest(await startGuest(options), options.timeoutMs ?? 120_000);
}
