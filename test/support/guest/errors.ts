// SPDX-License-Identifier: Apache-2.0

/** What failed in the guest harness, why, and what the person at the keyboard can do about it. */
export class GuestError extends Error {
  readonly operation: string;
  readonly hint: string;
  readonly retryable: boolean;

  constructor(
    operation: string,
    message: string,
    options: { hint?: string; retryable?: boolean; cause?: unknown } = {},
  ) {
    super(`${operation}: ${message}${options.hint ? ` (${options.hint})` : ''}`, {
      cause: options.cause,
    });
    this.name = 'GuestError';
    this.operation = operation;
    this.hint = options.hint ?? '';
    this.retryable = options.retryable ?? false;
  }
}
