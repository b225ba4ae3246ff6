// SPDX-License-Identifier: Apache-2.0
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Catalog } from '../catalog/catalog.js';
import { JobRepository } from '../catalog/job.repository.js';
import { EverpointError } from '../common/errors.js';
import { EventBus } from '../events/event-bus.js';
import { MetricsService } from '../metrics/metrics.service.js';
import type { JobContext, JobHandler } from './job-handler.js';
import { JobService, JOBS_RUNNING_MAX } from './job.service.js';
import { ProgressMeter } from './progress-meter.js';

/** As expect.poll, with a bound that a busy machine keeps too. */
const eventually = <T>(look: () => T) => expect.poll(look, { timeout: 15_000 });

/** Runs until it is told to end, or aborted. */
class HeldHandler implements JobHandler {
  readonly kind = 'held';
  readonly running = new Map<string, { context: JobContext; end: (error?: Error) => void }>();
  readonly cleaned: string[] = [];

  run(_params: unknown, context: JobContext): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const end = (error?: Error): void => {
        this.running.delete(context.id);
        if (error) reject(error);
        else resolve({ made: context.id });
      };
      this.running.set(context.id, { context, end });
      context.signal.addEventListener('abort', () => {
        end(new EverpointError('CANCELLED', 'aborted', { operation: 'held' }));
      });
    });
  }

  clean(_params: unknown, id: string): Promise<void> {
    this.cleaned.push(id);
    return Promise.resolve();
  }
}

describe('JobService', () => {
  let folder = '';
  let catalog: Catalog;
  let handler: HeldHandler;
  let jobs: JobService;

  beforeEach(async () => {
    folder = mkdtempSync(path.join(tmpdir(), 'ep-jobs-'));
    catalog = await Catalog.open(path.join(folder, 'catalog.sqlite'));
    ({ handler, jobs } = make());
    await jobs.start();
  });
  afterEach(async () => {
    await jobs.beforeApplicationShutdown();
    await catalog.close();
    rmSync(folder, { recursive: true });
  });

  function make() {
    const made = new HeldHandler();
    const service = new JobService(
      new JobRepository(catalog.db),
      new EventBus(),
      new MetricsService(),
    );
    service.register(made);
    return { handler: made, jobs: service };
  }

  const stateOf = async (id: string) => (await jobs.get(id)).state;

  it('runs a few at once, in the order they were asked for', async () => {
    const ids: string[] = [];
    for (let i = 0; i < JOBS_RUNNING_MAX + 2; i += 1) {
      ids.push((await jobs.enqueue('held', null, {})).id);
    }
    await eventually(() => [...handler.running.keys()]).toEqual(ids.slice(0, JOBS_RUNNING_MAX));
    expect(await stateOf(ids[JOBS_RUNNING_MAX] ?? '')).toBe('queued');
    handler.running.get(ids[0] ?? '')?.end();
    await eventually(() => handler.running.has(ids[JOBS_RUNNING_MAX] ?? '')).toBe(true);
    const done = await jobs.get(ids[0] ?? '');
    expect(done).toMatchObject({ state: 'done', result: { made: ids[0] } });
  });

  it('shows progress while a job runs', async () => {
    const { id } = await jobs.enqueue('held', null, {});
    await eventually(() => handler.running.has(id)).toBe(true);
    handler.running.get(id)?.context.report({ done: 3, total: 10, unit: 'bytes' });
    expect((await jobs.get(id)).progress).toMatchObject({ done: 3, total: 10, unit: 'bytes' });
  });

  it('cancels what runs, what waits, and nothing that ended', async () => {
    const ids: string[] = [];
    for (let i = 0; i < JOBS_RUNNING_MAX + 1; i += 1) {
      ids.push((await jobs.enqueue('held', null, {})).id);
    }
    const [running = '', waiting = ''] = [ids[0], ids.at(-1)];
    await eventually(() => handler.running.has(running)).toBe(true);
    expect((await jobs.cancel(waiting)).state).toBe('cancelled');
    expect((await jobs.cancel(running)).state).toBe('cancelled');
    expect(handler.cleaned).toEqual([running]);
    await expect(jobs.cancel(running)).rejects.toMatchObject({ code: 'CONFLICT' });
    await expect(jobs.cancel('jnone')).rejects.toMatchObject({ code: 'NOT_FOUND' });
  });

  it('says why a job failed', async () => {
    const { id } = await jobs.enqueue('held', null, {});
    await eventually(() => handler.running.has(id)).toBe(true);
    const full = new EverpointError('NO_SPACE', 'the disk is full', {
      operation: 'x',
      hint: 'free',
    });
    handler.running.get(id)?.end(full);
    await eventually(() => stateOf(id)).toBe('failed');
    const error = { code: 'NO_SPACE', message: 'the disk is full', hint: 'free' };
    expect((await jobs.get(id)).error).toEqual(error);
  });

  it('takes interrupted jobs up again, after what they left was removed', async () => {
    const { id } = await jobs.enqueue('held', null, { a: 1 });
    await eventually(() => handler.running.has(id)).toBe(true);
    await jobs.beforeApplicationShutdown();
    expect(await stateOf(id)).toBe('running');
    ({ handler, jobs } = make());
    await jobs.start();
    expect(handler.cleaned).toEqual([id]);
    await eventually(() => handler.running.has(id)).toBe(true);
    handler.running.get(id)?.end();
    await eventually(() => stateOf(id)).toBe('done');
  });

  it('does not start with a job that it has no handler for', async () => {
    await jobs.enqueue('held', null, {});
    await jobs.beforeApplicationShutdown();
    const bare = new JobService(
      new JobRepository(catalog.db),
      new EventBus(),
      new MetricsService(),
    );
    await expect(bare.start()).rejects.toThrow(/kind "held"/);
    await expect(bare.enqueue('other', null, {})).rejects.toThrow(/kind "other"/);
  });
});

describe('ProgressMeter', () => {
  it('gives the speed and the time that is left', () => {
    let now = 0;
    const meter = new ProgressMeter(() => now);
    expect(meter.update(0, 1000, 'bytes')).toMatchObject({ perSecond: 0, etaSeconds: null });
    now = 1000;
    expect(meter.update(100, 1000, 'bytes')).toMatchObject({ perSecond: 100, etaSeconds: 9 });
    now = 2000;
    expect(meter.update(200, 1000, 'bytes')).toMatchObject({ perSecond: 100, etaSeconds: 8 });
  });
});
