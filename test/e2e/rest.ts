// SPDX-License-Identifier: Apache-2.0

/** What the service answers, as far as demo and specs look at it, and the calls they share. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Service } from '../support/service.ts';

export interface ServiceInfo {
  version: string;
  pid: number;
  build: { uring: boolean } | null;
  dataPlane: { state: string; pid: number | null; notes: string[] };
}

export interface ExportAnswer {
  kind: string;
  queues: number;
  uri: string;
  connected: boolean;
  qemuArgs: string[];
}

export interface GroupAnswer {
  id: string;
  name: string;
  state: string;
  reason: string;
  lsn: number;
  durableLsn: number;
  logBytes: number;
  volumes: Array<{ name: string; sizeBytes: number; exports: ExportAnswer[] }>;
}

export interface PointAnswer {
  lsn: number;
  time: string;
}

export interface RestoreResult extends PointAnswer {
  bytes: number;
  targets: Array<{ path: string; sizeBytes: number; dataBytes: number; zeroBytes: number }>;
}

export interface JobAnswer {
  id: string;
  state: 'queued' | 'running' | 'done' | 'failed' | 'cancelled';
  progress: { done: number; total: number };
  error?: { code: string; message: string; hint?: string };
  result?: RestoreResult;
}

export interface SegmentAnswer {
  segment: number;
  state: 'active' | 'sealed';
  mapped: boolean;
  entries: number;
}

export interface MapAnswer {
  id: string;
  firstLsn: number;
  lastLsn: number;
  entries: number;
  fileBytes: number;
}

export interface GapAnswer {
  fromLsn: number;
  toLsn: number | null;
  reason: string;
}

/** The service answered with an error, or not at all. */
export class ServiceError extends Error {
  readonly operation: string;
  readonly status: number | undefined;
  readonly retryable: boolean;

  constructor(operation: string, message: string, status?: number) {
    super(`${operation}: ${message}`);
    this.name = 'ServiceError';
    this.operation = operation;
    this.status = status;
    this.retryable = status === undefined || status === 503;
  }
}

/** One call; the answer's body. ServiceError for everything but 2xx. */
export async function call<Answer>(
  service: Service,
  method: string,
  path: string,
  body?: unknown,
): Promise<Answer> {
  const answer = await service.call(method, path, body);
  if (answer.status >= 200 && answer.status < 300) return answer.body as Answer;
  const why = `${answer.status} ${problemText(answer.text)}`;
  throw new ServiceError(`${method} ${path}`, why, answer.status);
}

/** `/metrics` by name and labels, as they stand there. */
export async function readMetrics(service: Service): Promise<Map<string, number>> {
  const { text } = await service.call('GET', '/metrics');
  const samples = text.split('\n').map((line) => /^(\w+(?:\{.*\})?) (\S+)$/.exec(line));
  return new Map(
    samples.flatMap((found) => (found ? [[found[1] ?? '', Number(found[2])] as const] : [])),
  );
}

/** Restores volumes to new files and waits for the end of the job. */
export async function restore(
  service: Service,
  group: string,
  at: string,
  targets: Array<{ volume: string; path: string }>,
  onProgress?: (done: number, total: number) => void,
): Promise<RestoreResult> {
  const path = `/v1/groups/${group}/restores`;
  let job = await call<JobAnswer>(service, 'POST', path, { at, targets });
  while (job.state === 'queued' || job.state === 'running') {
    onProgress?.(job.progress.done, job.progress.total);
    await sleep(50);
    job = await call(service, 'GET', `/v1/jobs/${job.id}`);
  }
  if (job.state === 'done' && job.result !== undefined) return job.result;
  const { message = '', hint = '' } = job.error ?? {};
  throw new ServiceError(`restore at ${at}`, `${job.state} ${message} ${hint}`.trim());
}

/** The last lines of what both processes wrote. */
export function lastWords(service: Service, lines = 15): string {
  const part = (name: string, text: string): string[] =>
    text
      .trimEnd()
      .split('\n')
      .filter((line) => line !== '')
      .slice(-lines)
      .map((line) => `  ${name}: ${line}`);
  return [...part('service', service.output), ...part('data plane', service.dataPlaneLog)].join(
    '\n',
  );
}

function problemText(text: string): string {
  try {
    const problem = JSON.parse(text) as { title?: string; detail?: string; hint?: string };
    return [problem.detail ?? problem.title, problem.hint].filter(Boolean).join(' ');
  } catch {
    return text.slice(0, 200);
  }
}
