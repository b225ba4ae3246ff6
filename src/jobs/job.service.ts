// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from 'node:crypto';
import { Inject, Injectable, Logger, type BeforeApplicationShutdown } from '@nestjs/common';
import { EverpointError, serializeError } from '../common/errors.js';
import { notFound } from '../common/rest/problem.js';
import { nowNs } from '../common/time.js';
import {
  type JobFilter,
  type JobProgress,
  JobRepository,
  type JobRow,
  JOB_STATES,
} from '../catalog/job.repository.js';
import { EventBus } from '../events/event-bus.js';
import { MetricsService } from '../metrics/metrics.service.js';
import type { JobHandler } from './job-handler.js';
import { ProgressMeter } from './progress-meter.js';

/** More wait in the queue. */
export const JOBS_RUNNING_MAX = 2;
/** How often progress goes to the catalog and onto the bus. */
const PROGRESS_INTERVAL_MS = 1_000;

/** Why a run was aborted: decides what becomes of the job. */
type AbortReason = 'cancelled' | 'shutdown';

interface Run {
  row: JobRow;
  abort: AbortController;
  ended: Promise<void>;
}

/**
 * Runs long work. Jobs are rows of the catalog: a job that an end of the service interrupted is
 * still `queued` or `running` there, and is taken up again from its start by the next one.
 */
@Injectable()
export class JobService implements BeforeApplicationShutdown {
  private readonly logger = new Logger(JobService.name);
  private readonly handlers = new Map<string, JobHandler>();
  private readonly queue: JobRow[] = [];
  private readonly runs = new Map<string, Run>();
  private open = false;

  constructor(
    @Inject(JobRepository) private readonly jobs: JobRepository,
    @Inject(EventBus) private readonly bus: EventBus,
    @Inject(MetricsService) metrics: MetricsService,
  ) {
    const gauge = metrics.gauge('jobs', 'Jobs by state', ['state']);
    metrics.addCollector(async () => {
      const counts = await jobs.countByState();
      for (const state of JOB_STATES) gauge.set({ state }, counts.get(state) ?? 0);
    });
  }

  /** Called by modules before the service takes up work. */
  register(handler: JobHandler): void {
    if (this.handlers.has(handler.kind)) {
      throw new Error(`two handlers for jobs of the kind "${handler.kind}"`);
    }
    this.handlers.set(handler.kind, handler);
  }

  /**
   * Takes up what the last run of the service left. Throws when a stored job has no handler: an older
   * program on a newer catalog must not let work lie silently.
   */
  async start(): Promise<void> {
    const unfinished = await this.jobs.unfinished();
    for (const row of unfinished) this.handlerOf(row.kind);
    for (const row of unfinished) {
      if (row.state === 'running') {
        this.logger.log(`job ${row.id} (${row.kind}) was interrupted and starts again`);
      }
      await this.handlerOf(row.kind).clean(row.params, row.id);
      await this.save({ ...row, state: 'queued' });
      this.queue.push({ ...row, state: 'queued' });
    }
    this.open = true;
    this.pump();
  }

  async enqueue(kind: string, groupId: string | null, params: unknown): Promise<JobRow> {
    this.handlerOf(kind);
    const now = nowNs().toString();
    const id = `j${randomBytes(9).toString('base64url').replace(/[-_]/g, '0')}`;
    await this.jobs.insert({
      id,
      kind,
      groupId,
      state: 'queued',
      params,
      progress: { done: 0, total: 0, unit: 'bytes', perSecond: 0, etaSeconds: null },
      error: null,
      result: null,
      createdNs: now,
      updatedNs: now,
    });
    const row = await this.get(id);
    this.queue.push(row);
    this.pump();
    return row;
  }

  list(filter: JobFilter): Promise<JobRow[]> {
    return this.jobs
      .list(filter)
      .then((rows) => rows.map((row) => this.runs.get(row.id)?.row ?? row));
  }

  async get(id: string): Promise<JobRow> {
    const row = this.runs.get(id)?.row ?? (await this.jobs.find(id));
    if (row === undefined) throw notFound('job', id);
    return row;
  }

  /** Jobs of a kind that have not ended. */
  async unfinished(kind: string): Promise<JobRow[]> {
    return (await this.jobs.unfinished()).filter((row) => row.kind === kind);
  }

  /** Jobs of a group that have not ended. */
  async unfinishedOf(groupId: string): Promise<JobRow[]> {
    return (await this.jobs.unfinished()).filter((row) => row.groupId === groupId);
  }

  /** Answers when the job has ended. CONFLICT when it had ended before. */
  async cancel(id: string): Promise<JobRow> {
    const row = await this.get(id);
    const at = this.queue.findIndex((queued) => queued.id === id);
    if (at >= 0) {
      this.queue.splice(at, 1);
      await this.save({ ...row, state: 'cancelled' });
      return this.get(id);
    }
    const run = this.runs.get(id);
    if (run === undefined) {
      throw new EverpointError('CONFLICT', `The job ${id} is ${row.state} already.`, {
        operation: 'cancel job',
      });
    }
    run.abort.abort('cancelled' satisfies AbortReason);
    await run.ended;
    return this.get(id);
  }

  /** Interrupts what runs and leaves it for the next start. */
  async beforeApplicationShutdown(): Promise<void> {
    this.open = false;
    const runs = [...this.runs.values()];
    for (const run of runs) run.abort.abort('shutdown' satisfies AbortReason);
    await Promise.allSettled(runs.map((run) => run.ended));
  }

  private handlerOf(kind: string): JobHandler {
    const handler = this.handlers.get(kind);
    if (handler === undefined) {
      throw new Error(
        `The catalog holds a job of the kind "${kind}", which this version cannot run. ` +
          'Use the version that made it, or cancel the job there.',
      );
    }
    return handler;
  }

  private pump(): void {
    while (this.open && this.runs.size < JOBS_RUNNING_MAX) {
      const row = this.queue.shift();
      if (row === undefined) return;
      const abort = new AbortController();
      const run: Run = { row: { ...row, state: 'running' }, abort, ended: Promise.resolve() };
      this.runs.set(row.id, run);
      run.ended = this.execute(run)
        .catch((error: unknown) => {
          this.logger.error(error, `job ${row.id}`);
        })
        .finally(() => {
          this.runs.delete(row.id);
          this.pump();
        });
    }
  }

  private async execute(run: Run): Promise<void> {
    const handler = this.handlerOf(run.row.kind);
    await this.save(run.row);
    const meter = new ProgressMeter();
    let savedAt = 0;
    const report = (progress: Pick<JobProgress, 'done' | 'total' | 'unit'>): void => {
      const { done, total, unit } = progress;
      run.row = { ...run.row, progress: meter.update(done, total, unit) };
      if (performance.now() - savedAt < PROGRESS_INTERVAL_MS) return;
      savedAt = performance.now();
      this.save(run.row).catch((error: unknown) => {
        this.logger.warn(`the progress of job ${run.row.id} was not stored: ${String(error)}`);
      });
    };
    const outcome = await this.outcomeOf(run, handler, report);
    if (outcome === undefined) return;
    run.row = { ...run.row, ...outcome };
    await this.save(run.row);
  }

  /** What the run ended with; nothing when the service's end interrupted it. */
  private async outcomeOf(
    run: Run,
    handler: JobHandler,
    report: (progress: Pick<JobProgress, 'done' | 'total' | 'unit'>) => void,
  ): Promise<Partial<JobRow> | undefined> {
    const { id, params } = run.row;
    const signal = run.abort.signal;
    const keep = async (changed: unknown): Promise<void> => {
      run.row = { ...run.row, params: changed };
      await this.save(run.row);
    };
    try {
      // Who listens to a signal that was aborted before hears nothing.
      signal.throwIfAborted();
      const result = await handler.run(params, { id, signal, report, keep });
      const { progress } = run.row;
      const done = { ...progress, done: progress.total, etaSeconds: 0 };
      return { state: 'done', result, progress: done };
    } catch (error) {
      if (signal.aborted && signal.reason === 'shutdown') return undefined;
      await handler.clean(params, id).catch((fault: unknown) => {
        this.logger.warn(`what job ${id} left could not be removed: ${String(fault)}`);
      });
      if (signal.aborted) return { state: 'cancelled' };
      const { code, message, hint } = serializeError(error, run.row.kind);
      this.logger.error(`job ${id} (${run.row.kind}) failed: ${message}`);
      return { state: 'failed', error: { code, message, ...(hint !== undefined && { hint }) } };
    }
  }

  private async save(row: JobRow): Promise<void> {
    await this.jobs.update({ ...row, updatedNs: nowNs().toString() });
    const { id, kind, state, progress } = row;
    this.bus.publish('job', { id, kind, state, progress });
  }
}
