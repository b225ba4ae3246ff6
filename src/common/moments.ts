// SPDX-License-Identifier: Apache-2.0

import { tryParseDuration } from './durations.js';
import { EverpointError } from './errors.js';
import { MARKER_LABEL_BYTES_MAX } from './limits.js';
import { tryParseTime } from './time.js';

/** What an `at` asks for, before anybody has looked which LSN that is. */
export type Moment =
  | { readonly kind: 'latest' }
  | { readonly kind: 'lsn'; readonly lsn: number }
  | { readonly kind: 'marker'; readonly label: string }
  | { readonly kind: 'time'; readonly timeNs: bigint }
  /** So long before now. */
  | { readonly kind: 'ago'; readonly durationNs: bigint };

/**
 * `latest`, `lsn:1234`, `marker:NAME`, an RFC 3339 time with up to nine fractional digits, or `-5m`.
 * @throws INVALID_ARGUMENT
 */
export function parseMoment(text: string): Moment {
  if (text === 'latest') return { kind: 'latest' };
  if (text.startsWith('lsn:')) {
    const digits = text.slice(4);
    const lsn = Number(digits);
    if (/^\d{1,16}$/.test(digits) && Number.isSafeInteger(lsn)) return { kind: 'lsn', lsn };
    throw refuse(text, 'an LSN is a whole number below 2^53');
  }
  if (text.startsWith('marker:')) {
    const label = text.slice(7);
    const bytes = Buffer.byteLength(label);
    if (bytes >= 1 && bytes <= MARKER_LABEL_BYTES_MAX) return { kind: 'marker', label };
    throw refuse(text, `a marker's label has 1 to ${MARKER_LABEL_BYTES_MAX} bytes`);
  }
  if (text.startsWith('-')) {
    const durationNs = tryParseDuration(text.slice(1));
    if (durationNs !== undefined) return { kind: 'ago', durationNs };
  }
  const timeNs = tryParseTime(text);
  if (timeNs !== undefined) return { kind: 'time', timeNs };
  throw refuse(text, 'latest, lsn:1234, marker:NAME, 2026-03-01T12:00:00Z or -5m');
}

function refuse(text: string, hint: string): EverpointError {
  return new EverpointError('INVALID_ARGUMENT', `not a moment: ${JSON.stringify(text)}`, {
    operation: 'parse moment',
    hint,
  });
}
