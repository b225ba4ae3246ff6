// SPDX-License-Identifier: Apache-2.0

import { fieldFault, inOptions, inSeconds } from './wording.js';

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
  /** Lines below the message. */
  readonly details: readonly string[];

  constructor(
    exitCode: number,
    message: string,
    options: {
      hint?: string | undefined;
      details?: readonly string[] | undefined;
      cause?: unknown;
    } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'CliError';
    this.exitCode = exitCode;
    this.hint = options.hint;
    this.details = options.details ?? [];
  }
}

export function usageError(message: string, hint?: string): CliError {
  return new CliError(EXIT_USAGE, message, { hint });
}

/** Ends the command with an exit code when its result says already what is wrong. */
export class AnsweredError extends CliError {
  constructor(exitCode: number) {
    super(exitCode, 'the answer says why');
    this.name = 'AnsweredError';
  }
}

/** The body of an answer that is no success (RFC 9457), as far as the CLI shows it. */
export interface Problem {
  title?: string;
  detail?: string;
  status?: number;
  hint?: string;
  errors?: { field?: string; message?: string }[];
  /** Of a moment that cannot be had, as `resolve` answers it. */
  lsn?: number | null;
  reachable?: boolean;
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
    options: { exitCode?: number; wording?: 'options' | 'fields' } = {},
  ) {
    const fields = options.wording === 'fields';
    const translate = (text: string): string => (fields ? text : inOptions(text));
    const { before, after } = problem.nearest ?? {};
    const nowhere = problem.reachable === false && !before && !after;
    super(options.exitCode ?? exitCodeOf(status), messageOf(status, problem, fields), {
      details: detailsOf(problem),
      // It points at the nearest points: there are none.
      hint: problem.hint === undefined || nowhere ? undefined : translate(problem.hint),
    });
    this.name = 'ProblemError';
  }

  /** For who wrote the body himself: with the names that stand in it. */
  inFields(): ProblemError {
    return new ProblemError(this.status, this.problem, {
      exitCode: this.exitCode,
      wording: 'fields',
    });
  }
}

function exitCodeOf(status: number): number {
  if (status === 404) return EXIT_NOT_FOUND;
  return status === 400 || status === 422 ? EXIT_USAGE : EXIT_FAILED;
}

function messageOf(status: number, problem: Problem, fields: boolean): string {
  const { detail, errors = [] } = problem;
  if (detail === undefined) return `the service answered with HTTP status ${status}`;
  if (fields) return detail;
  const made = detail === errors.map(({ field, message }) => `${field}: ${message}`).join('; ');
  if (!made) return inOptions(detail);
  return errors.map(({ field = '', message = '' }) => fieldFault(field, message)).join('; ');
}

function detailsOf({ detail, errors = [], nearest }: Problem): string[] {
  const lines: string[] = [];
  for (const { field = '', message = '' } of errors) {
    // The detail has them already when it was made from them.
    if (!detail?.includes(`${field}: ${message}`)) lines.push(fieldFault(field, message));
  }
  return [...lines, ...nearestLines(nearest)];
}

/** The reachable points around a moment that is not. */
export function nearestLines(nearest: Problem['nearest']): string[] {
  const { before, after } = nearest ?? {};
  return [
    ...(before ? [`nearest before: lsn:${before.lsn} ${before.time}`] : []),
    ...(after ? [`nearest after:  lsn:${after.lsn} ${after.time}`] : []),
  ];
}

/** A marker is known by what it resolves to: only one that does not exist has no LSN. */
export function isMissingMarker(at: string, lsn: number | null | undefined): boolean {
  return at.startsWith('marker:') && lsn === null;
}

/** The lines that people see of an error. */
export function describeError(error: CliError): string[] {
  const lines = [`everpoint: ${error.message}`, ...error.details.map((line) => `  ${line}`)];
  if (error.hint !== undefined) lines.push(`hint: ${error.hint}`);
  return lines.map(inSeconds);
}
