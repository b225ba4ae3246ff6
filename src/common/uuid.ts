// SPDX-License-Identifier: Apache-2.0

import { EverpointError } from './errors.js';

/** The text form everywhere: 8-4-4-4-12 lower-case hex digits; the bytes stand in that order. */
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

export const UUID_BYTES = 16;

export function isUuid(text: string): boolean {
  return UUID.test(text);
}

/** @throws INVALID_ARGUMENT when the text is not a UUID in our form. */
export function uuidToBytes(text: string): Buffer {
  if (!isUuid(text)) {
    throw new EverpointError('INVALID_ARGUMENT', `not a UUID: ${JSON.stringify(text)}`, {
      operation: 'parse UUID',
    });
  }
  return Buffer.from(text.replaceAll('-', ''), 'hex');
}

export function uuidFromBytes(bytes: Uint8Array, at = 0): string {
  const hex = Buffer.from(bytes.buffer, bytes.byteOffset + at, UUID_BYTES).toString('hex');
  return [
    hex.slice(0, 8),
    hex.slice(8, 12),
    hex.slice(12, 16),
    hex.slice(16, 20),
    hex.slice(20),
  ].join('-');
}
