// SPDX-License-Identifier: Apache-2.0
import os from 'node:os';

/** One line that every bench prints first: figures mean nothing without it. */
export function describeMachine(): string {
  const cpus = os.cpus();
  const memory = Math.round(os.totalmem() / 1024 ** 3);
  const load = os.loadavg()[0] ?? 0;
  return `machine: ${cpus.length} × ${cpus[0]?.model.trim() ?? 'unknown CPU'}, ${memory} GiB, Linux ${os.release()}, load ${load.toFixed(1)}`;
}
