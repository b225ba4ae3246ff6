// SPDX-License-Identifier: Apache-2.0
import { accessSync, constants, existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { bootGuest } from './boot.ts';
import { GuestError } from './errors.ts';
import { GUEST_DIR, writeWhole } from './initramfs.ts';
import { QEMU, qemuVersion, type Accel } from './qemu.ts';

export type AccelChoice = 'auto' | Accel;

/** Outcome of the one probe per machine boot, kept in build/guest/accel.json. */
export interface AccelProbe {
  accel: Accel;
  reason: string;
  probeMs: number;
  /** The host's boot and QEMU's version: another one of either asks for a new probe. */
  bootId: string;
  qemu: string;
}

const KVM_BOOT_LIMIT_MS = 15_000;

function cached(file: string, bootId: string, qemu: string): AccelProbe | undefined {
  if (!existsSync(file)) return undefined;
  try {
    const probe = JSON.parse(readFileSync(file, 'utf8')) as AccelProbe;
    return probe.bootId === bootId && probe.qemu === qemu ? probe : undefined;
  } catch {
    return undefined; // A damaged cache costs one more probe.
  }
}

async function tryKvm(): Promise<{ accel: Accel; reason: string }> {
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
  } catch (error) {
    return { accel: 'tcg', reason: `/dev/kvm: ${(error as Error).message}` };
  }
  const guest = bootGuest({ disks: [], script: 'exit 0', memoryMb: 128 }, 'kvm');
  const timer = setTimeout(() => guest.kill(), KVM_BOOT_LIMIT_MS);
  const { exitCode, qemuCode, qemuSignal } = await guest.exited;
  clearTimeout(timer);
  if (exitCode === 0) return { accel: 'kvm', reason: 'a guest booted with KVM' };
  const said = guest.lines.findLast((line) => line.from === 'qemu')?.text ?? 'nothing';
  if (qemuSignal === null && qemuCode !== 0 && !/kvm/i.test(said)) {
    // Not KVM's fault: TCG would fail as well, and the wrong answer must not be kept.
    throw new GuestError('probe KVM', `QEMU ended with code ${qemuCode}: ${said}`);
  }
  return {
    accel: 'tcg',
    reason: `KVM does not boot a guest here (code ${qemuCode}, ${qemuSignal}; QEMU said: ${said})`,
  };
}

/**
 * Whether KVM really boots a guest on this machine: /dev/kvm may open and still not work, so a
 * guest is booted once and the answer is kept.
 */
export async function probeAccel(guestDir: string = GUEST_DIR): Promise<AccelProbe> {
  const bootId = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  const qemu = qemuVersion(QEMU).text;
  const file = join(guestDir, 'accel.json');
  const known = cached(file, bootId, qemu);
  if (known) return known;
  const started = performance.now();
  const answer = await tryKvm();
  const probe = { ...answer, probeMs: Math.round(performance.now() - started), bootId, qemu };
  writeWhole(file, `${JSON.stringify(probe, null, 2)}\n`);
  return probe;
}

/** Turns `auto` into what this machine can do; `EVERPOINT_GUEST_ACCEL` overrides `auto`. */
export async function chooseAccel(choice: AccelChoice): Promise<Accel> {
  const asked = choice === 'auto' ? (process.env['EVERPOINT_GUEST_ACCEL'] ?? 'auto') : choice;
  if (asked === 'kvm' || asked === 'tcg') return asked;
  if (asked !== 'auto') {
    throw new GuestError('choose accelerator', `${asked} is not auto, kvm or tcg`);
  }
  return (await probeAccel()).accel;
}
