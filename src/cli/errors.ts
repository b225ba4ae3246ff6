// SPDX-License-Identifier: Apache-2.0

/** What the command ends with (README, "Exit codes"). */
export const EXIT_OK = 0;
export const EXIT_FAILED = 1;
export const EXIT_USAGE = 2;
export const EXIT_NOT_FOUND = 3;
export const EXIT_NOT_REACHABLE = 4;

/** Ends the command with a message and an exit code. */
export class CliError extends Error {
  readonly exitCode: number;
  readonly hint: string | undefined;

  constructor(
    exitCode: number,
    message: string,
    options: { hint?: string | undefined; cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'CliError';
    this.exitCode = exitCode;
    this.hint = options.hint;
  }
}

export function usageError(message: string): CliError {
  return new CliError(EXIT_USAGE, message);
}

/** The body of an answer that is no success (RFC 9457), as far as the CLI shows it. */
export interface Problem {
  title?: string;
  detail?: string;
  status?: number;
  hint?: string;
  errors?: { field?: string; message?: string }[];
  nearest?: { before?: Point | null; after?: Point | null };
}

interface Point {
  lsn: number;
  time: string;
}

/** The service refused. */
export class ProblemError extends CliError {
  constructor(
    readonly status: number,
    readonly problem: Problem,
    fallbackHint?: string,
  ) {
    const title = problem.title ?? `HTTP status ${status}`;
    const detail = problem.detail === undefined ? '' : `: ${problem.detail}`;
    super(status === 404 ? EXIT_NOT_FOUND : EXIT_FAILED, title + detail, {
      hint: problem.hint ?? fallbackHint,
    });
    this.name = 'ProblemError';
  }
}

/** The lines that people see of an error. */
export function describeError(error: CliError): string[] {
  const lines = [`everpoint: ${error.message}`];
  if (error instanceof ProblemError) {
    for (const { field, message } of error.problem.errors ?? []) {
      // The detail has them already when it was made from them.
      const text = `${field ?? ''}: ${message ?? ''}`;
      if (!error.message.includes(text)) lines.push(`  ${text}`);
    }
    const { before, after } = error.problem.nearest ?? {};
    if (before) lines.push(`  nearest point before: lsn:${before.lsn} (${before.time})`);
    if (after) lines.push(`  nearest point after:  lsn:${after.lsn} (${after.time})`);
  }
  if (error.hint !== undefined) lines.push(`hint: ${error.hint}`);
  return lines;
}
