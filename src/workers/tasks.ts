// SPDX-License-Identifier: Apache-2.0

/** What worker threads do. Each task is a pure function of its input and the files that it names. */

import { errnoOf, type SerializedError } from '../common/errors.js';
import {
  buildLevelZeroMap,
  mergeMaps,
  summarizeSegment,
  type BuildLevelZeroRequest,
  type BuildLevelZeroResult,
  type MergeMapsRequest,
  type SegmentSummary,
} from '../maps/build.js';
import { MapsError } from '../maps/errors.js';
import type { MapHeader } from '../maps/map-format.js';
import {
  restoreVolume,
  type Progress,
  type RestoreRequest,
  type RestoreResult,
} from '../maps/restore.js';
import { EntryType } from '../maps/segment/format.js';
import { type OpenSegmentOptions, SegmentFile, type SegmentLabel } from '../maps/segment/reader.js';

export interface SegmentQuery {
  readonly path: string;
  readonly sealed: boolean;
  /** For an active segment: how far the data plane has published the log. */
  readonly durableLsn?: number | undefined;
}

export interface ReadSegmentRequest extends SegmentQuery {
  readonly firstLsn?: number | undefined;
  readonly lastLsn?: number | undefined;
}

export interface FlushPoint {
  readonly lsn: number;
  readonly timeNs: bigint;
  readonly volume: number;
}

export interface ReadSegmentResult {
  readonly summary: SegmentSummary;
  /** Markers and geometry changes within the asked range. */
  readonly labels: readonly SegmentLabel[];
  readonly flushes: readonly FlushPoint[];
}

export interface FindLsnRequest extends SegmentQuery {
  readonly timeNs: bigint;
  /** Later entries do not count. */
  readonly lastLsn?: number | undefined;
}

export interface LsnTime {
  readonly lsn: number;
  readonly timeNs: bigint;
}

export interface TimesOfLsnsRequest extends SegmentQuery {
  readonly lsns: readonly number[];
}

/** Every task with what goes in and what comes out; all of it can be cloned between threads. */
export interface TaskMap {
  buildLevelZeroMap: { input: BuildLevelZeroRequest; output: BuildLevelZeroResult };
  mergeMaps: { input: MergeMapsRequest; output: MapHeader };
  restoreVolume: { input: RestoreRequest; output: RestoreResult };
  readSegment: { input: ReadSegmentRequest; output: ReadSegmentResult };
  findLsnAtTime: { input: FindLsnRequest; output: LsnTime | null };
  timesOfLsns: { input: TimesOfLsnsRequest; output: readonly bigint[] };
}

export type TaskName = keyof TaskMap;

export interface TaskContext {
  readonly onProgress: (progress: Progress) => void;
  readonly signal: AbortSignal;
}

export type TaskTable = {
  readonly [K in TaskName]: (
    input: TaskMap[K]['input'],
    context: TaskContext,
  ) => TaskMap[K]['output'] | Promise<TaskMap[K]['output']>;
};

export const TASKS: TaskTable = {
  buildLevelZeroMap,
  mergeMaps,
  restoreVolume,
  readSegment: (input) => withSegment(input, (file) => readSegment(file, input)),
  findLsnAtTime: (input) => withSegment(input, (file) => findLsnAtTime(file, input)),
  timesOfLsns: (input) =>
    withSegment(input, (file) => input.lsns.map((lsn) => file.readEntries(lsn, lsn).timeNs[0]!)),
};

function withSegment<T>(query: SegmentQuery, use: (file: SegmentFile) => T): T {
  const durable = query.durableLsn === undefined ? {} : { durableLsn: query.durableLsn };
  const file = openKnown(query.path, { expectSealed: query.sealed, ...durable });
  try {
    return use(file);
  } finally {
    file.close();
  }
}

/** Who asks knows of the segment: that it is not there is damage, not a wrong question. */
function openKnown(file: string, options: OpenSegmentOptions): SegmentFile {
  try {
    return SegmentFile.open(file, options);
  } catch (error) {
    if (errnoOf(error) !== 'NOT_FOUND') throw error;
    throw new MapsError('CORRUPTION', `the log segment ${file} is missing`, {
      operation: 'read segment',
      file,
      cause: error,
      hint: 'mount the device if it is not; else put the file back from a copy of the device',
    });
  }
}

function readSegment(file: SegmentFile, request: ReadSegmentRequest): ReadSegmentResult {
  const first = Math.max(request.firstLsn ?? file.firstLsn, file.firstLsn);
  const last = Math.min(request.lastLsn ?? file.lastLsn, file.lastLsn);
  const entries = file.readEntries(first, last);
  const flushes: FlushPoint[] = [];
  for (let i = 0; i < entries.count; i += 1) {
    if (entries.type[i] !== EntryType.flush) continue;
    const volume = entries.volume[i]!;
    flushes.push({ lsn: entries.lsn(i), timeNs: entries.timeNs[i]!, volume });
  }
  return { summary: summarizeSegment(file), labels: file.readLabels(entries), flushes };
}

/** The last entry whose time is not later; null when even the first one is. */
function findLsnAtTime(file: SegmentFile, request: FindLsnRequest): LsnTime | null {
  const upTo = Math.min(request.lastLsn ?? file.lastLsn, file.lastLsn);
  if (upTo < file.firstLsn) return null;
  // Times rise with LSNs: one batch table per step of the search.
  let low = file.firstLsn - 1;
  let high = upTo;
  const timeOf = (lsn: number) => file.readEntries(lsn, lsn).timeNs[0]!;
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (timeOf(middle) <= request.timeNs) low = middle;
    else high = middle - 1;
  }
  return low < file.firstLsn ? null : { lsn: low, timeNs: timeOf(low) };
}

/** What the pool sends to a worker. */
export interface WorkerInput {
  readonly task: TaskName;
  readonly input: unknown;
  readonly port: import('node:worker_threads').MessagePort;
}

/** What a worker answers: errors as data, because cloning would strip their fields. */
export type WorkerOutput =
  | { readonly ok: true; readonly output: unknown }
  | { readonly ok: false; readonly error: SerializedError };

export type WorkerMessage = { readonly progress: Progress };
export type PoolMessage = 'cancel';
