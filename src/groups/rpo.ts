// SPDX-License-Identifier: Apache-2.0
import { nowNs } from '../common/time.js';
import type { GroupStatus } from '../data-plane/port.js';

/**
 * How much would be lost with the primary now: the age of the oldest write that is not durable on the
 * secondary, or, from a gap's opening until it is healed, of the newest protected moment.
 */
export function rpoSecondsOf({ gaps, rpoSeconds }: GroupStatus): number {
  const open = gaps.find((gap) => gap.toLsn === 0);
  // Before the first entry no moment was protected: the data plane knows since when.
  if (open === undefined || open.fromNs === '0') return rpoSeconds;
  return Math.max(rpoSeconds, secondsSince(open.fromNs));
}

export function secondsSince(timeNs: string): number {
  return timeNs === '0' ? 0 : Math.max(0, Number(nowNs() - BigInt(timeNs)) / 1e9);
}
