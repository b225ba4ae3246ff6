// SPDX-License-Identifier: Apache-2.0
import type { JobProgress } from '../catalog/job.repository.js';

/** What a running job may use. */
export interface JobContext {
  id: string;
  /** Aborted when the job is cancelled, and when the service ends. */
  signal: AbortSignal;
  /** Says how far the job is; may be called often. */
  report(progress: Pick<JobProgress, 'done' | 'total' | 'unit'>): void;
  /** Stores other parameters for a run after an interruption; durable when it resolves. */
  keep(params: unknown): Promise<void>;
}

/** Does the jobs of one kind. */
export interface JobHandler {
  readonly kind: string;
  /** Answers the job's result, plain JSON. Runs from the start again after an interruption. */
  run(params: unknown, context: JobContext): Promise<unknown>;
  /** Removes what an interrupted run of the job has left. */
  clean(params: unknown, id: string): Promise<void>;
}
