// SPDX-License-Identifier: Apache-2.0

import type { Writable } from 'node:stream';

import { inSeconds } from './wording.js';

/** Where a command runs; replaced in tests. */
export interface Io {
  readonly stdout: Writable & { isTTY?: boolean };
  readonly stderr: Writable & { isTTY?: boolean };
  readonly stdin: NodeJS.ReadableStream;
  readonly environment: NodeJS.ProcessEnv;
  readonly cwd: string;
}

/** Says results: JSON for machines, and nothing else then, or text for people. */
export class Output {
  constructor(
    private readonly io: Io,
    readonly json: boolean,
  ) {}

  /** A progress bar or a notice has a reader. */
  get interactive(): boolean {
    return !this.json && this.io.stderr.isTTY === true;
  }

  get errors(): Io['stderr'] {
    return this.io.stderr;
  }

  /** The result: as it is for machines, as `text` makes it for people. */
  result(value: unknown, text: () => string | string[]): void {
    if (this.json) {
      this.io.stdout.write(`${JSON.stringify(value ?? null, undefined, 2)}\n`);
      return;
    }
    const lines = text();
    for (const line of typeof lines === 'string' ? [lines] : lines) {
      this.io.stdout.write(`${inSeconds(line)}\n`);
    }
  }

  /** One line of a stream of results. */
  line(value: unknown, text: string): void {
    this.io.stdout.write(`${this.json ? JSON.stringify(value) : inSeconds(clean(text))}\n`);
  }

  /** What went well has a catch. */
  warning(text: string): void {
    this.io.stderr.write(
      this.json ? `${JSON.stringify({ warning: text })}\n` : `warning: ${clean(text)}\n`,
    );
  }
}

/** What a server sent must not move the cursor or change a terminal's title. */
export function clean(text: string): string {
  return text.replace(/\p{Cc}/gu, '?');
}

export type Cell = string | number | boolean | null | undefined;

/** Columns as wide as they need; numbers to the right. */
export function table(headers: string[], rows: Cell[][]): string[] {
  const texts = rows.map((row) => row.map((cell) => clean(String(cell ?? '-'))));
  const widths = headers.map((header, at) =>
    Math.max(header.length, ...texts.map((row) => row[at]?.length ?? 0)),
  );
  const right = headers.map((_, at) => rows.some((row) => typeof row[at] === 'number'));
  const render = (cells: string[]): string =>
    cells
      .map((cell, at) => {
        const width = widths[at] ?? 0;
        return right[at] ? cell.padStart(width) : cell.padEnd(width);
      })
      .join('  ')
      .trimEnd();
  return [render(headers), ...texts.map(render)];
}

/** `key   value` lines. */
export function pairs(rows: [string, Cell][]): string[] {
  const width = Math.max(...rows.map(([key]) => key.length));
  return rows.map(([key, value]) => `${key.padEnd(width)}  ${clean(String(value ?? '-'))}`);
}

/** So that it can be pasted into a shell. */
export function shellQuote(text: string): string {
  return /^[A-Za-z0-9_./:=,@%+-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}
