// SPDX-License-Identifier: Apache-2.0

import { EverpointError, type ErrorDetails } from '../common/errors.js';

/** Errors of segments, maps, manifests and restores. */
export class MapsError extends EverpointError {}

/** Damage in a file: names the file and the byte offset of the structure that does not hold. */
export function corruption(
  operation: string,
  file: string,
  offset: number,
  what: string,
  details: Partial<ErrorDetails> = {},
): MapsError {
  return new MapsError('CORRUPTION', `${file} is damaged at offset ${offset}: ${what}`, {
    operation,
    file,
    hint: 'restore the file from a copy of the secondary device, or check the device for errors',
    ...details,
  });
}

/** A version or flag that this program does not know. */
export function unsupported(operation: string, file: string, what: string): MapsError {
  return new MapsError('UNSUPPORTED', `${file}: ${what}`, {
    operation,
    file,
    hint: 'the file was written by a newer Everpoint; read it with that version',
  });
}
