// SPDX-License-Identifier: Apache-2.0

/**
 * The stable codes of every error of ours. All but `CONFLICT` are the data plane's own
 * (`native/base/status.h`), so that an error means the same on both sides of the port.
 */
export type ErrorCode =
  | 'NOT_FOUND'
  | 'CORRUPTION'
  | 'IO_ERROR'
  | 'INVALID_ARGUMENT'
  | 'NO_SPACE'
  | 'BUSY'
  | 'UNSUPPORTED'
  | 'CANCELLED'
  | 'ALREADY_EXISTS'
  | 'CONFLICT';

export const ERROR_CODES: readonly ErrorCode[] = [
  'NOT_FOUND',
  'CORRUPTION',
  'IO_ERROR',
  'INVALID_ARGUMENT',
  'NO_SPACE',
  'BUSY',
  'UNSUPPORTED',
  'CANCELLED',
  'ALREADY_EXISTS',
  'CONFLICT',
];

/** Both ends belong to the range. */
export interface LsnRange {
  readonly first: number;
  readonly last: number;
}

export interface ErrorDetails {
  /** What was being done, in a few words: "read segment". */
  readonly operation: string;
  readonly file?: string | undefined;
  readonly lsnRange?: LsnRange | undefined;
  /** What an operator can do about it. */
  readonly hint?: string | undefined;
  /** Whether the same call may succeed later without anybody changing anything. */
  readonly retryable?: boolean | undefined;
  readonly cause?: unknown;
}

/** An `EverpointError` as plain data, for ports and threads. */
export interface SerializedError {
  readonly code: ErrorCode;
  readonly name: string;
  readonly message: string;
  readonly operation: string;
  readonly file?: string | undefined;
  readonly lsnRange?: LsnRange | undefined;
  readonly hint?: string | undefined;
  readonly retryable: boolean;
  readonly causeMessage?: string | undefined;
}

/**
 * The base of every error that leaves a module. The HTTP status is chosen from `code` in one
 * exception filter, never where the error is made.
 */
export class EverpointError extends Error {
  readonly code: ErrorCode;
  readonly operation: string;
  readonly file: string | undefined;
  readonly lsnRange: LsnRange | undefined;
  readonly hint: string | undefined;
  readonly retryable: boolean;

  constructor(code: ErrorCode, message: string, details: ErrorDetails) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = new.target.name;
    this.code = code;
    this.operation = details.operation;
    this.file = details.file;
    this.lsnRange = details.lsnRange;
    this.hint = details.hint;
    this.retryable = details.retryable ?? code === 'BUSY';
  }
}

/** Plain data that `deserializeError` turns into an equal error; for anything that was thrown. */
export function serializeError(thrown: unknown, operation: string): SerializedError {
  const error = toEverpointError(thrown, operation);
  return {
    code: error.code,
    name: error.name,
    message: error.message,
    operation: error.operation,
    file: error.file,
    lsnRange: error.lsnRange,
    hint: error.hint,
    retryable: error.retryable,
    causeMessage: error.cause instanceof Error ? error.cause.message : undefined,
  };
}

export function deserializeError(data: SerializedError): EverpointError {
  const error = new EverpointError(data.code, data.message, {
    operation: data.operation,
    file: data.file,
    lsnRange: data.lsnRange,
    hint: data.hint,
    retryable: data.retryable,
    cause: data.causeMessage === undefined ? undefined : new Error(data.causeMessage),
  });
  error.name = data.name;
  return error;
}

/** Any thrown value as one of ours; system errors get the code that fits their errno. */
export function toEverpointError(
  thrown: unknown,
  operation: string,
  file?: string,
): EverpointError {
  if (thrown instanceof EverpointError) return thrown;
  const message = thrown instanceof Error ? thrown.message : String(thrown);
  const errno = errnoOf(thrown);
  return new EverpointError(codeOfErrno(errno), `${operation}: ${message}`, {
    operation,
    file,
    cause: thrown,
    retryable: errno === 'EAGAIN' || errno === 'EINTR' || errno === 'EBUSY',
    hint: hintOfErrno(errno),
  });
}

/** `ENOENT` and the like of a thrown system error, nothing for other values. */
export function errnoOf(thrown: unknown): string | undefined {
  if (thrown instanceof Error && 'code' in thrown && typeof thrown.code === 'string') {
    return thrown.code;
  }
  return undefined;
}

function codeOfErrno(errno: string | undefined): ErrorCode {
  switch (errno) {
    case 'ENOENT':
      return 'NOT_FOUND';
    case 'EEXIST':
      return 'ALREADY_EXISTS';
    case 'ENOSPC':
    case 'EDQUOT':
      return 'NO_SPACE';
    case 'EBUSY':
    case 'EAGAIN':
      return 'BUSY';
    case 'EINVAL':
    case 'ENAMETOOLONG':
    case 'ENOTDIR':
    case 'EISDIR':
      return 'INVALID_ARGUMENT';
    case 'ABORT_ERR':
      return 'CANCELLED';
    default:
      return 'IO_ERROR';
  }
}

function hintOfErrno(errno: string | undefined): string | undefined {
  switch (errno) {
    case 'ENOSPC':
    case 'EDQUOT':
      return 'free space on the file system, or choose another place';
    case 'EACCES':
    case 'EPERM':
      return 'check the owner and mode of the file and its folders';
    case 'EROFS':
      return 'the file system is mounted read-only';
    default:
      return undefined;
  }
}
