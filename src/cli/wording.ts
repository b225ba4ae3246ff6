// SPDX-License-Identifier: Apache-2.0

import { formatBytes } from '../common/bytes.js';
import type { Group } from './types.js';

/**
 * The service speaks of the fields of a body; who typed a command knows its options. Here the one
 * becomes the other.
 */

const OPTIONS: readonly (readonly [RegExp, string])[] = [
  [/\bset "(overwrite|create)": true/g, 'use --$1'],
  [/"(overwrite|create)": true/g, '--$1'],
  [/\bset "baseline": "none"/g, 'use --baseline none'],
  [/"baseline": "none"/g, '--baseline none'],
  [/\bset "confirm": true/g, 'give --yes'],
  [/"create"/g, '--create'],
  [/--create makes a file/g, '--create with --size makes it'],
  [/\bin "nearest"/g, 'above'],
  [
    /^Cannot (GET|POST|PUT|PATCH|DELETE) \S*$/,
    'the service does not know this request; is it of another version?',
  ],
];

const WORDS: Readonly<Record<string, string>> = {
  sizeBytes: 'size',
  blockSize: 'block size',
  keepAll: 'keep-all',
  snapshotEvery: 'snapshot-every',
  mergeFanIn: 'merge-fan-in',
  pinLimit: 'pin-limit',
  logBuffer: 'log buffer',
  onLogPressure: 'on-log-pressure',
  throttleMaxMs: 'throttle-max',
  at: 'moment',
};

const LISTS: Readonly<Record<string, string>> = {
  volumes: 'disk',
  targets: 'target',
  exports: 'export',
  devices: 'device',
  grid: 'grid step',
};

/** A text of the service in the words of the command line. */
export function inOptions(text: string): string {
  return OPTIONS.reduce((now, [pattern, words]) => now.replace(pattern, words), text);
}

/** What is wrong with one field, as a sentence that names no field of a body. */
export function fieldFault(field: string, message: string): string {
  const property = field.split('.').at(-1) ?? '';
  // Whole sentences name what they are about.
  if (/^(\/|[A-Z]|the |two |property )/.test(message)) return inOptions(message);
  const what = fieldWords(field);
  if (message.startsWith(`${property} `)) {
    return inOptions(`${what}${message.slice(property.length)}`);
  }
  const colon = /^(is|has|must|needs) /.test(message) ? '' : ':';
  return inOptions(`${what}${colon} ${message}`);
}

/** `volumes.0.primary.sizeBytes` is the `size of disk 1`. */
function fieldWords(field: string): string {
  const words: string[] = [];
  const parts = field.split('.');
  for (const [at, name] of parts.entries()) {
    const next = parts[at + 1];
    if (/^\d+$/.test(name) || (name === 'primary' && next !== undefined)) continue;
    const index = next !== undefined && /^\d+$/.test(next) ? Number(next) : undefined;
    words.push(index === undefined ? (WORDS[name] ?? name) : `${LISTS[name] ?? name} ${index + 1}`);
  }
  return words.reverse().join(' of ');
}

/** Times with nine digits are for machines; people get seconds. */
export function inSeconds(text: string): string {
  return text.replace(/(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2})\.\d{9}Z/g, '$1Z');
}

/** What there is to say of an open gap and its resync. */
export function interruption({ gap, resync, reason }: Group): string[] {
  const lines: string[] = [];
  if (gap !== null) {
    const why = gap.reason === reason ? '' : `: ${gap.reason}`;
    lines.push(`gap open since ${gap.from}, after lsn:${gap.fromLsn}${why}`);
  }
  if (resync !== null) {
    const { leftBytes, totalBytes } = resync;
    lines.push(`resync: ${formatBytes(leftBytes)} of ${formatBytes(totalBytes)} left to compare`);
  }
  return lines;
}

const UNITS: readonly (readonly [string, number])[] = [
  ['d', 86_400],
  ['h', 3600],
  ['m', 60],
  ['s', 1],
];

/** `9m 9s`, `2d 3h`: the two largest units. */
export function formatSeconds(seconds: number): string {
  let rest = Math.max(0, Math.floor(seconds));
  const first = UNITS.findIndex(([, size]) => rest >= size);
  if (first < 0) return '0s';
  const shown: string[] = [];
  for (const [name, size] of UNITS.slice(first, first + 2)) {
    const count = Math.floor(rest / size);
    rest -= count * size;
    if (count > 0) shown.push(`${count}${name}`);
  }
  return shown.join(' ');
}
