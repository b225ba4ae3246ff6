// SPDX-License-Identifier: Apache-2.0

import { usageError } from './errors.js';

const UNITS = ['', 'K', 'M', 'G', 'T', 'P'];

/** `10G`, `512MiB`, `1.5T`, `1048576`: units are powers of 1024. @throws usage error */
export function parseSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?) ?([KMGTP]?)(?:i?B)?$/i.exec(text.trim());
  if (match !== null) {
    const bytes = Number(match[1]) * 1024 ** UNITS.indexOf((match[2] ?? '').toUpperCase());
    if (Number.isSafeInteger(bytes) && bytes > 0) return bytes;
  }
  throw usageError(`not a size in whole bytes: ${text} (write it like 10G or 512MiB)`);
}

/** A whole number from `min` up. @throws usage error */
export function parseCount(text: string, what: string, min = 1): number {
  if (/^\d{1,9}$/.test(text) && Number(text) >= min) return Number(text);
  throw usageError(`${what} must be a whole number from ${min} up, not ${text}`);
}
