// SPDX-License-Identifier: Apache-2.0

import { EverpointError } from './errors.js';

/**
 * Times are bigint nanoseconds since the Unix epoch inside, and RFC 3339 in UTC with nine digits
 * outside. A JavaScript Date has milliseconds only; it is used for the calendar, not for the rest.
 */

const NS_PER_MS = 1_000_000n;
const NS_PER_S = 1_000_000_000n;
/** The first and the last second of four-digit years. */
const SECONDS_MIN = -62_167_219_200;
const SECONDS_MAX = 253_402_300_799;

const RFC3339 =
  /^(\d{4})-(\d{2})-(\d{2})[Tt ](\d{2}):(\d{2}):(\d{2})(?:\.(\d{1,9}))?([Zz]|[+-]\d{2}:\d{2})$/;

let anchorNs: bigint | undefined;

/** The wall clock, in nanoseconds (the system's own resolution, not only milliseconds). */
export function nowNs(): bigint {
  // performance.timeOrigin is taken once, so a stepped wall clock would go unnoticed: Date is the
  // truth, the fine part comes from the monotonic clock as long as both agree to 2 ms.
  const coarse = BigInt(Date.now()) * NS_PER_MS;
  const monotonic = process.hrtime.bigint();
  anchorNs ??= coarse - monotonic;
  const fine = anchorNs + monotonic;
  const drift = fine - coarse;
  if (drift > 2n * NS_PER_MS || drift < -2n * NS_PER_MS) {
    anchorNs = coarse - monotonic;
    return coarse;
  }
  return fine;
}

/** `2026-03-01T12:00:00.000000000Z`. */
export function formatTime(ns: bigint): string {
  let seconds = ns / NS_PER_S;
  let rest = ns % NS_PER_S;
  if (rest < 0n) {
    rest += NS_PER_S;
    seconds -= 1n;
  }
  const whole = Number(seconds);
  if (whole < SECONDS_MIN || whole > SECONDS_MAX) {
    throw new EverpointError('INVALID_ARGUMENT', `time ${ns} ns is outside of years 0 to 9999`, {
      operation: 'format time',
    });
  }
  const text = new Date(whole * 1000).toISOString().slice(0, 19);
  return `${text}.${rest.toString().padStart(9, '0')}Z`;
}

/**
 * RFC 3339 with up to nine fractional digits and any offset, as nanoseconds.
 * @throws INVALID_ARGUMENT for anything else, days that do not exist included.
 */
export function parseTime(text: string): bigint {
  const ns = tryParseTime(text);
  if (ns === undefined) {
    throw new EverpointError('INVALID_ARGUMENT', `not an RFC 3339 time: ${JSON.stringify(text)}`, {
      operation: 'parse time',
      hint: 'write it like 2026-03-01T12:00:00Z, with up to nine digits after the seconds',
    });
  }
  return ns;
}

/** As `parseTime`, but nothing in the place of an error. */
export function tryParseTime(text: string): bigint | undefined {
  const match = RFC3339.exec(text);
  if (!match) return undefined;
  const [year, month, day, hour, minute] = match.slice(1, 6).map(Number) as [
    number,
    number,
    number,
    number,
    number,
  ];
  // A leap second is read as the last one before it: our clocks do not have it.
  const second = Math.min(Number(match[6]), 60) === 60 ? 59 : Number(match[6]);
  if (hour > 23 || minute > 59 || second > 59) return undefined;
  const date = new Date(0);
  date.setUTCFullYear(year, month - 1, day);
  date.setUTCHours(hour, minute, second);
  if (date.getUTCMonth() !== month - 1 || date.getUTCDate() !== day) return undefined;
  const offset = offsetSeconds(match[8] ?? 'Z');
  if (offset === undefined) return undefined;
  const fraction = BigInt((match[7] ?? '').padEnd(9, '0'));
  return (BigInt(date.getTime() / 1000) - BigInt(offset)) * NS_PER_S + fraction;
}

function offsetSeconds(text: string): number | undefined {
  if (text === 'Z' || text === 'z') return 0;
  const hours = Number(text.slice(1, 3));
  const minutes = Number(text.slice(4, 6));
  if (hours > 23 || minutes > 59) return undefined;
  const seconds = hours * 3600 + minutes * 60;
  return text.startsWith('-') ? -seconds : seconds;
}
