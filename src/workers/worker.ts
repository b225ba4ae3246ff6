// SPDX-License-Identifier: Apache-2.0

/** The entry of a piscina worker thread; runs built, as dist/workers/worker.js. */

import { serializeError } from '../common/errors.js';
import { TASKS, type TaskContext, type WorkerInput, type WorkerOutput } from './tasks.js';

/** A progress message at most so often. */
const PROGRESS_INTERVAL_MS = 100;

export default async function work({ task, input, port }: WorkerInput): Promise<WorkerOutput> {
  const cancel = new AbortController();
  port.on('message', () => cancel.abort());
  let reported = 0;
  const context: TaskContext = {
    signal: cancel.signal,
    onProgress: (progress) => {
      const now = Date.now();
      if (now - reported < PROGRESS_INTERVAL_MS && progress.done !== progress.total) return;
      reported = now;
      port.postMessage({ progress });
    },
  };
  try {
    // The table's types tie input and output together; over the thread's edge that tie is ours.
    const run = TASKS[task] as (input: unknown, context: TaskContext) => unknown;
    return { ok: true, output: await run(input, context) };
  } catch (error) {
    return { ok: false, error: serializeError(error, task) };
  } finally {
    port.close();
  }
}
