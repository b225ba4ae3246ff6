// SPDX-License-Identifier: Apache-2.0

import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { MessageChannel } from 'node:worker_threads';

import { Piscina } from 'piscina';

import { deserializeError, EverpointError } from '../common/errors.js';
import { WORKER_QUEUE_MAX, WORKER_THREADS_DEFAULT } from '../common/limits.js';
import type { Progress } from '../maps/restore.js';
import type { TaskMap, TaskName, WorkerInput, WorkerMessage, WorkerOutput } from './tasks.js';

/** Errors of the pool itself; errors of tasks keep their own class name and code. */
export class WorkerPoolError extends EverpointError {}

export interface WorkerPoolOptions {
  /** Tasks that run at once. */
  readonly threads?: number;
  /** The built worker; found beside this file (or in dist/, from sources) without it. */
  readonly filename?: string;
}

export interface RunTaskOptions {
  readonly onProgress?: (progress: Progress) => void;
  /** Cancels: a running task ends at its next step and leaves nothing half done. */
  readonly signal?: AbortSignal;
}

/** A bounded number of worker threads for the tasks of `TaskMap`; more tasks wait in a queue. */
export class WorkerPool {
  private readonly threads: number;
  private readonly filename: string;
  private pool: Piscina<WorkerInput, WorkerOutput> | undefined;

  constructor(options: WorkerPoolOptions = {}) {
    this.threads = options.threads ?? WORKER_THREADS_DEFAULT;
    this.filename = options.filename ?? defaultWorkerFile();
  }

  /** @throws NOT_FOUND when the worker has not been built */
  start(): void {
    if (this.pool) return;
    if (!existsSync(this.filename)) {
      throw new WorkerPoolError('NOT_FOUND', `${this.filename} is missing`, {
        operation: 'start workers',
        file: this.filename,
        hint: 'build the project first',
      });
    }
    this.pool = new Piscina<WorkerInput, WorkerOutput>({
      filename: this.filename,
      minThreads: 0,
      maxThreads: this.threads,
      maxQueue: WORKER_QUEUE_MAX,
      idleTimeout: 10_000,
      // Tasks are few and long; waiting on a futex would block cancel messages.
      atomics: 'disabled',
    });
    // A thread that dies outside of a task is replaced; without a listener it would end us.
    this.pool.on('error', () => undefined);
  }

  /** Waits for no task: what runs is ended, its caller gets a retryable error. */
  async stop(): Promise<void> {
    const pool = this.pool;
    this.pool = undefined;
    await pool?.destroy();
  }

  /** Tasks that wait for a thread. */
  get queued(): number {
    return this.pool?.queueSize ?? 0;
  }

  async run<K extends TaskName>(
    task: K,
    input: TaskMap[K]['input'],
    options: RunTaskOptions = {},
  ): Promise<TaskMap[K]['output']> {
    const pool = this.pool;
    if (!pool) {
      throw new WorkerPoolError('BUSY', 'the workers are not running', { operation: task });
    }
    if (options.signal?.aborted) throw cancelled(task);
    const { port1, port2 } = new MessageChannel();
    const cancel = () => port1.postMessage('cancel');
    options.signal?.addEventListener('abort', cancel, { once: true });
    port1.on('message', (message: WorkerMessage) => options.onProgress?.(message.progress));
    let answer: WorkerOutput;
    try {
      answer = await pool.run({ task, input, port: port2 }, { transferList: [port2] });
    } catch (cause) {
      throw new WorkerPoolError('BUSY', `the worker of task ${task} ended before the task did`, {
        operation: task,
        retryable: true,
        cause,
      });
    } finally {
      options.signal?.removeEventListener('abort', cancel);
      port1.close();
    }
    if (!answer.ok) throw deserializeError(answer.error);
    return answer.output as TaskMap[K]['output'];
  }
}

function cancelled(task: TaskName): WorkerPoolError {
  return new WorkerPoolError('CANCELLED', `${task} was cancelled`, { operation: task });
}

/** Piscina cannot run TypeScript: sources under test use what was built from them. */
function defaultWorkerFile(): string {
  const here = import.meta.url;
  const built = here.endsWith('.ts') ? '../../dist/workers/worker.js' : './worker.js';
  return fileURLToPath(new URL(built, here));
}
