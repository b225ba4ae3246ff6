// SPDX-License-Identifier: Apache-2.0
import { lstat, readdir } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Inject, Injectable } from '@nestjs/common';
import { errnoOf, EverpointError } from '../common/errors.js';
import {
  isTemporary,
  publishFileSync,
  removeFileDurable,
  temporaryPrefix,
} from '../common/files.js';
import { GroupService } from '../groups/group.service.js';
import { PathGuard } from '../groups/path-guard.js';
import type { Group } from '../groups/stored-group.js';
import type { JobContext, JobHandler } from '../jobs/job-handler.js';
import type { VolumeGeometry } from '../maps/geometry.js';
import { WorkerPool } from '../workers/pool.js';
import { type RestorePlan, RestorePlanner } from './restore-plan.js';

export const RESTORE_JOB = 'restore';

/** Ten minutes in all. */
const PLAN_RETRY_MS = 1_000;
const PLAN_TRIES = 600;

export interface RestoreTarget {
  volume: string;
  path: string;
  overwrite: boolean;
  /** The file that a run is about to publish, or has: stored before, so that a run after an
   *  interruption knows it for its own. */
  own?: FileIdentity | undefined;
}

interface FileIdentity {
  inode: string;
  bornNs: string;
}

/** What the catalog keeps of a restore: which point was taken is decided when it is asked for. */
export interface RestoreParams {
  groupId: string;
  lsn: number;
  time: string;
  targets: RestoreTarget[];
}

/** Writes the files of a restore, one after the other. */
@Injectable()
export class RestoreJob implements JobHandler {
  readonly kind = RESTORE_JOB;

  constructor(
    @Inject(GroupService) private readonly groups: GroupService,
    @Inject(PathGuard) private readonly paths: PathGuard,
    @Inject(RestorePlanner) private readonly planner: RestorePlanner,
    @Inject(WorkerPool) private readonly pool: WorkerPool,
  ) {}

  async run(params: unknown, context: JobContext): Promise<unknown> {
    const { signal } = context;
    const { groupId, lsn, time, targets } = params as RestoreParams;
    const group = await this.groups.get(groupId);
    const plan = await this.planWhenReady(group, lsn, signal);
    const volumes = targets.map((target) => volumeOf(plan.volumes, target.volume));
    const total = volumes.reduce((sum, volume) => sum + volume.sizeBytes, 0);
    context.report({ done: 0, total, unit: 'bytes' });
    const results = [];
    let before = 0;
    for (const [index, target] of targets.entries()) {
      const volume = volumes[index] ?? volumeOf(plan.volumes, target.volume);
      // The request was checked when it was made; a restart may lie between then and now.
      await refusePrimary(this.paths, target.path);
      const offset = before;
      const ours = target.own !== undefined && sameFile(await identityOf(target.path), target.own);
      const overwrite = target.overwrite || ours;
      const restored = await this.pool.run(
        'restoreVolume',
        {
          group: group.id,
          volume: volume.volume,
          sizeBytes: volume.sizeBytes,
          lsn,
          sources: plan.sources,
          segments: plan.segments,
          target: target.path,
          overwrite,
          publish: false,
        },
        {
          signal,
          onProgress: ({ done }) => {
            context.report({ done: offset + done, total, unit: 'bytes' });
          },
        },
      );
      target.own = await identityOf(restored.file);
      await context.keep(params);
      publishFileSync(restored.file, target.path, overwrite);
      before += volume.sizeBytes;
      context.report({ done: before, total, unit: 'bytes' });
      const { sizeBytes, dataBytes, zeroBytes } = restored;
      results.push({
        volume: target.volume,
        path: target.path,
        format: 'raw',
        sizeBytes,
        dataBytes,
        zeroBytes,
      });
    }
    return { lsn, time, bytes: total, targets: results };
  }

  /** After a restart the data plane may still be opening the group: that is no reason to fail. */
  private async planWhenReady(
    group: Group,
    lsn: number,
    signal: AbortSignal,
  ): Promise<RestorePlan> {
    for (let tries = 1; ; tries += 1) {
      signal.throwIfAborted();
      try {
        return await this.planner.plan(group, lsn);
      } catch (error) {
        const again = error instanceof EverpointError && error.retryable && tries < PLAN_TRIES;
        if (!again) throw error;
      }
      await sleep(PLAN_RETRY_MS, undefined, { signal });
    }
  }

  async clean(params: unknown): Promise<void> {
    for (const target of (params as RestoreParams).targets) {
      await removeTemporaries(target.path);
    }
  }
}

async function identityOf(file: string): Promise<FileIdentity | undefined> {
  try {
    const { ino, birthtimeNs } = await lstat(file, { bigint: true });
    return { inode: ino.toString(), bornNs: birthtimeNs.toString() };
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}

function sameFile(a: FileIdentity | undefined, b: FileIdentity): boolean {
  return a !== undefined && a.inode === b.inode && a.bornNs === b.bornNs;
}

/** @throws CONFLICT when the file is a disk that somebody protects */
export async function refusePrimary(paths: PathGuard, file: string): Promise<void> {
  const owner = await paths.primaryOf(file);
  if (owner === undefined) return;
  throw new EverpointError('CONFLICT', `${file} is a primary of the group ${owner}.`, {
    operation: 'restore',
    file,
    hint: 'Restore to a file of its own.',
  });
}

export function volumeOf(volumes: readonly VolumeGeometry[], name: string): VolumeGeometry {
  const volume = volumes.find((one) => one.name === name);
  if (volume !== undefined) return volume;
  const names = volumes.map((one) => one.name).join(', ');
  throw new EverpointError(
    'NOT_FOUND',
    `There is no volume ${JSON.stringify(name)} at this point.`,
    {
      operation: 'restore',
      hint: names === '' ? 'There were no volumes yet.' : `There are: ${names}.`,
    },
  );
}

/** Unfinished files that runs of a restore to `target` have left beside it. */
async function removeTemporaries(target: string): Promise<void> {
  const folder = path.dirname(target);
  const names = await readdir(folder).catch((error: unknown) => {
    if (errnoOf(error) === 'ENOENT') return [];
    throw error;
  });
  for (const name of names) {
    if (!isTemporary(name) || !name.startsWith(temporaryPrefix(target))) continue;
    await removeFileDurable(path.join(folder, name));
  }
}
