// SPDX-License-Identifier: Apache-2.0

import { EverpointError } from './errors.js';

const NS_PER_S = 1_000_000_000n;

/** m is minutes; a year is 365 days. Largest first. */
const UNITS: readonly (readonly [string, bigint])[] = [
  ['y', 365n * 86_400n * NS_PER_S],
  ['w', 7n * 86_400n * NS_PER_S],
  ['d', 86_400n * NS_PER_S],
  ['h', 3_600n * NS_PER_S],
  ['m', 60n * NS_PER_S],
  ['s', NS_PER_S],
];

/** A thousand years: longer ones are a slip of the finger. */
const DURATION_NS_MAX = 1000n * 365n * 86_400n * NS_PER_S;

/** `48h`, `90s`, `1h30m` as nanoseconds; nothing when the text is not a duration. */
export function tryParseDuration(text: string): bigint | undefined {
  if (!/^(\d{1,12}[smhdwy])+$/.test(text)) return undefined;
  let total = 0n;
  for (const part of text.matchAll(/(\d+)([smhdwy])/g)) {
    const unit = UNITS.find(([name]) => name === part[2]);
    if (!unit) return undefined;
    total += BigInt(part[1] ?? '0') * unit[1];
  }
  return total > DURATION_NS_MAX ? undefined : total;
}

/** `48h`, `90s`, `1h30m` as nanoseconds. @throws INVALID_ARGUMENT */
export function parseDuration(text: string): bigint {
  const ns = tryParseDuration(text);
  if (ns === undefined) {
    throw new EverpointError('INVALID_ARGUMENT', `not a duration: ${JSON.stringify(text)}`, {
      operation: 'parse duration',
      hint: 'write a number and one of s m h d w y (m is minutes), like 90s, 48h or 14d',
    });
  }
  return ns;
}

/** The largest unit that divides it: `2d`, `90m`; a part below a second is cut off. */
export function formatDuration(ns: bigint): string {
  const whole = ns - (ns % NS_PER_S);
  for (const [name, size] of UNITS) {
    if (whole !== 0n && whole % size === 0n) return `${whole / size}${name}`;
  }
  return '0s';
}
