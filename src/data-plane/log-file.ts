// SPDX-License-Identifier: Apache-2.0

import * as fs from 'node:fs';

/** At a start, a log above this is put aside as `….1`, in the place of the last one. */
const LOG_BYTES_MAX = 32 * 1024 * 1024;
const TAIL_BYTES = 16 * 1024;
const FATAL_LEVEL = 60;

/** The file, opened for appending, for the data plane's log and whatever else it says on stderr. */
export function openLogFile(file: string): number {
  const size = fs.statSync(file, { throwIfNoEntry: false })?.size ?? 0;
  if (size > LOG_BYTES_MAX) fs.renameSync(file, `${file}.1`);
  return fs.openSync(file, 'a', 0o640);
}

/** The message of the last line of level `fatal` since `sinceMs`, to show why a start failed. */
export function lastFatal(file: string, sinceMs: number): string | undefined {
  let tail: string;
  try {
    const fd = fs.openSync(file, 'r');
    try {
      const { size } = fs.fstatSync(fd);
      const buffer = Buffer.alloc(Math.min(size, TAIL_BYTES));
      const got = fs.readSync(fd, buffer, 0, buffer.length, size - buffer.length);
      tail = buffer.toString('utf8', 0, got);
    } finally {
      fs.closeSync(fd);
    }
  } catch {
    return undefined;
  }
  for (const line of tail.split('\n').reverse()) {
    if (!line.startsWith('{')) continue;
    try {
      const entry = JSON.parse(line) as { level?: unknown; time?: unknown; msg?: unknown };
      if (entry.level === FATAL_LEVEL && Number(entry.time) >= sinceMs) return String(entry.msg);
    } catch {
      // Half a line, at the beginning of the tail or where something else wrote.
    }
  }
  return undefined;
}
