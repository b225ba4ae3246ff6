// SPDX-License-Identifier: Apache-2.0

import { setTimeout as sleep } from 'node:timers/promises';

import { Presets, SingleBar } from 'cli-progress';

import { formatBytes } from '../common/bytes.js';
import { CliError, EXIT_FAILED, EXIT_NOT_REACHABLE } from './errors.js';
import { clean, type Output } from './output.js';
import { part, type RestClient } from './rest-client.js';
import type { Job } from './types.js';
import { formatSeconds } from './wording.js';

const POLL_MS_MIN = 100;
const POLL_MS_MAX = 1000;
/** A service that is started again takes its jobs up: so long it is waited for. */
const AWAY_MS_MAX = 30_000;
const ENDED = ['done', 'failed', 'cancelled'];

/** Waits for a job's end, with a bar on a terminal. @throws CliError when it did not succeed */
export async function followJob(client: RestClient, job: Job, output: Output): Promise<Job> {
  const bar = output.interactive ? new ProgressBar(output) : undefined;
  let now = job;
  let awaySince: number | undefined;
  try {
    for (let delayMs = POLL_MS_MIN; ; delayMs = Math.min(delayMs * 1.5, POLL_MS_MAX)) {
      bar?.show(now);
      if (ENDED.includes(now.state)) break;
      await sleep(delayMs);
      try {
        now = await client.get<Job>(`/v1/jobs/${part(job.id)}`);
        awaySince = undefined;
      } catch (error) {
        if (!(error instanceof CliError) || error.exitCode !== EXIT_NOT_REACHABLE) throw error;
        awaySince ??= Date.now();
        if (Date.now() - awaySince > AWAY_MS_MAX) throw error;
      }
    }
  } finally {
    bar?.stop();
  }
  if (now.state !== 'done') throw jobError(now);
  return now;
}

export function jobError(job: Job): CliError {
  const why =
    job.error === undefined ? job.state : `${job.state}: ${job.error.message} (${job.error.code})`;
  return new CliError(EXIT_FAILED, `${job.kind} job ${job.id} ${why}`, { hint: job.error?.hint });
}

/** `12.5 of 30 GiB, 41 %` or `12 of 30 files`. */
export function describeProgress(job: Job): string {
  const { done, total, unit, perSecond, etaSeconds } = job.progress;
  const show = (count: number): string => (unit === 'bytes' ? formatBytes(count) : String(count));
  const percent = total > 0 ? `, ${Math.floor((100 * done) / total)} %` : '';
  const counted = `${show(done)} of ${show(total)}${unit === 'bytes' ? '' : ` ${unit}`}${percent}`;
  if (ENDED.includes(job.state) || perSecond <= 0) return counted;
  const eta = etaSeconds === null ? '' : `, ${formatSeconds(Math.ceil(etaSeconds))} left`;
  return `${counted}, ${show(Math.round(perSecond))}/s${eta}`;
}

class ProgressBar {
  private readonly bar: SingleBar;
  private started = false;

  constructor(output: Output) {
    const format = '{kind} [{bar}] {text}';
    const stream = output.errors;
    this.bar = new SingleBar({ format, stream, hideCursor: true }, Presets.shades_classic);
  }

  show(job: Job): void {
    const { done, total } = job.progress;
    const payload = { kind: job.kind, text: clean(describeProgress(job)) };
    if (!this.started) {
      this.started = true;
      this.bar.start(Math.max(total, 1), done, payload);
    } else {
      this.bar.setTotal(Math.max(total, 1));
      this.bar.update(done, payload);
    }
  }

  stop(): void {
    if (this.started) this.bar.stop();
  }
}
