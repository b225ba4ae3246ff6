// SPDX-License-Identifier: Apache-2.0
import { lstat } from 'node:fs/promises';
import { Inject, Injectable, type OnModuleInit } from '@nestjs/common';
import type { JobRow } from '../catalog/job.repository.js';
import { errnoOf, EverpointError } from '../common/errors.js';
import { InvalidFieldsError, ProblemError } from '../common/rest/problem.js';
import { PathGuard } from '../groups/path-guard.js';
import type { Group } from '../groups/stored-group.js';
import { Resolver } from '../history/resolver.js';
import { JobService } from '../jobs/job.service.js';
import type { RestoreBody, RestoreTargetBody } from './restore.dto.js';
import {
  refusePrimary,
  RESTORE_JOB,
  RestoreJob,
  type RestoreParams,
  type RestoreTarget,
  volumeOf,
} from './restore-job.js';
import { RestorePlanner } from './restore-plan.js';

const OPERATION = 'restore';

/** Checks what a restore asks for and makes a job of it. */
@Injectable()
export class RestoreService implements OnModuleInit {
  constructor(
    @Inject(Resolver) private readonly resolver: Resolver,
    @Inject(PathGuard) private readonly paths: PathGuard,
    @Inject(RestorePlanner) private readonly planner: RestorePlanner,
    @Inject(JobService) private readonly jobs: JobService,
    @Inject(RestoreJob) private readonly handler: RestoreJob,
  ) {}

  onModuleInit(): void {
    this.jobs.register(this.handler);
  }

  /**
   * The point is taken now, so that `latest` means the moment of the request.
   * @throws CONFLICT with the members of `resolve` when it is not reachable
   */
  async request(group: Group, body: RestoreBody): Promise<JobRow> {
    refuseLater(body.targets);
    const targets: RestoreTarget[] = [];
    for (const [index, target] of body.targets.entries()) {
      targets.push(await this.checkTarget(`targets.${index}`, target));
    }
    await this.refuseBusyTargets(targets);
    const point = await this.resolver.resolve(group, body.at);
    const { lsn, time } = point;
    if (!point.reachable || lsn === null || time === null) {
      throw new ProblemError(
        'CONFLICT',
        `${body.at} is not reachable: ${point.reason ?? 'unknown'}`,
        { operation: OPERATION, hint: 'Take one of the points in "nearest".' },
        { ...point },
      );
    }
    const named = await this.resolver.lsnNamed(group, body.at);
    if (named !== undefined && named !== lsn) {
      throw new EverpointError(
        'CORRUPTION',
        `${body.at} is LSN ${named}, and LSN ${lsn} was found for it.`,
        { operation: OPERATION, hint: 'Nothing was written. Ask for its point with resolve.' },
      );
    }
    const { volumes } = await this.planner.plan(group, lsn);
    for (const target of targets) volumeOf(volumes, target.volume);
    const params: RestoreParams = { groupId: group.id, lsn, time, targets };
    return this.jobs.enqueue(RESTORE_JOB, group.id, params);
  }

  private async checkTarget(field: string, target: RestoreTargetBody): Promise<RestoreTarget> {
    const real = await this.paths.resolve(`${field}.path`, target.path);
    await refusePrimary(this.paths, real);
    const there = await lstat(real).catch((error: unknown) => {
      if (errnoOf(error) === 'ENOENT') return undefined;
      throw error;
    });
    if (there !== undefined && !there.isFile()) {
      throw new InvalidFieldsError(OPERATION, [
        { field: `${field}.path`, message: `${real} is not a regular file` },
      ]);
    }
    if (there !== undefined && !target.overwrite) {
      throw new EverpointError('ALREADY_EXISTS', `${real} exists already.`, {
        operation: OPERATION,
        hint: 'Choose another path, or set "overwrite": true.',
      });
    }
    return { volume: target.volume, path: real, overwrite: target.overwrite };
  }

  /** Two restores to one file would take each other's unfinished file away. */
  private async refuseBusyTargets(targets: RestoreTarget[]): Promise<void> {
    const paths = new Set(targets.map((target) => target.path));
    if (paths.size < targets.length) {
      throw new InvalidFieldsError(OPERATION, [
        { field: 'targets', message: 'two targets are the same file' },
      ]);
    }
    for (const job of await this.jobs.unfinished(RESTORE_JOB)) {
      const busy = (job.params as RestoreParams).targets.find((target) => paths.has(target.path));
      if (busy === undefined) continue;
      throw new EverpointError('CONFLICT', `The job ${job.id} restores to ${busy.path}.`, {
        operation: OPERATION,
        hint: 'Wait for it, or cancel it.',
      });
    }
  }
}

function refuseLater(targets: RestoreTargetBody[]): void {
  const faults = targets.flatMap((target, index) =>
    target.format === 'raw'
      ? []
      : [
          {
            field: `targets.${index}.format`,
            message: `"${target.format}" is not supported yet; use "raw"`,
          },
        ],
  );
  if (faults.length > 0) throw new InvalidFieldsError(OPERATION, faults);
}
