// SPDX-License-Identifier: Apache-2.0

import {
  deserializeError,
  ERROR_CODES,
  type ErrorCode,
  type ErrorDetails,
  EverpointError,
  type SerializedError,
  serializeError,
  toEverpointError,
} from '../common/errors.js';

/** What the addon or the data plane's own files answered. */
export class DataPlaneError extends EverpointError {}

/** The data plane cannot be reached now, or does not answer; it may a moment later. */
export class DataPlaneUnavailableError extends EverpointError {
  constructor(operation: string, message: string, cause?: unknown) {
    super('BUSY', message, {
      operation,
      cause,
      retryable: true,
      hint: 'the data plane is started again by itself; ask for its state, or try again soon',
    });
  }
}

/** The addon cannot be loaded. */
export class AddonError extends EverpointError {}

/** An error of the addon: its `code` is one of ours, everything else is a system's error. */
export function fromNative(thrown: unknown, operation: string, details?: Partial<ErrorDetails>) {
  if (thrown instanceof EverpointError) return thrown;
  const code = thrown instanceof Error && 'code' in thrown ? thrown.code : undefined;
  if (thrown instanceof Error && ERROR_CODES.includes(code as ErrorCode)) {
    const hint = 'hint' in thrown && typeof thrown.hint === 'string' ? thrown.hint : details?.hint;
    return new DataPlaneError(code as ErrorCode, thrown.message, {
      ...details,
      operation,
      hint,
      cause: thrown,
    });
  }
  return toEverpointError(thrown, operation, details?.file);
}

/** The `error.data` of a JSON-RPC answer. */
export function toWire(thrown: unknown, operation: string): SerializedError {
  return serializeError(fromNative(thrown, operation), operation);
}

/** What `toWire` made, back again; nothing when it is something else. */
export function fromWire(data: unknown): EverpointError | undefined {
  if (typeof data !== 'object' || data === null) return undefined;
  const { code, message, operation } = data as Partial<SerializedError>;
  if (!ERROR_CODES.includes(code as ErrorCode)) return undefined;
  if (typeof message !== 'string' || typeof operation !== 'string') return undefined;
  return deserializeError(data as SerializedError);
}
