// SPDX-License-Identifier: Apache-2.0
import { Body, Controller, HttpCode, Inject, Param, Post } from '@nestjs/common';
import {
  ApiAcceptedResponse,
  ApiBadRequestResponse,
  ApiBearerAuth,
  ApiConflictResponse,
  ApiOperation,
  ApiTags,
} from '@nestjs/swagger';
import { RequireRole } from '../auth/roles.js';
import { Problem } from '../common/rest/problem.js';
import { GroupService } from '../groups/group.service.js';
import { JobAnswer, jobAnswer } from '../jobs/job.dto.js';
import { RestoreBody } from './restore.dto.js';
import { RestoreService } from './restore.service.js';

@ApiTags('restores')
@ApiBearerAuth()
@Controller('v1/groups/:group/restores')
export class RestoresController {
  constructor(
    @Inject(GroupService) private readonly groups: GroupService,
    @Inject(RestoreService) private readonly restores: RestoreService,
  ) {}

  @Post()
  @HttpCode(202)
  @RequireRole('operator')
  @ApiOperation({
    summary: 'Writes volumes as they were at a moment to new raw files',
    description:
      'A job. A file appears under its name when it is whole and synced; unused parts are holes. ' +
      'Its result has lsn, time, bytes, and for each target path, sizeBytes, dataBytes, zeroBytes.',
  })
  @ApiAcceptedResponse({ type: JobAnswer })
  @ApiBadRequestResponse({ type: Problem })
  @ApiConflictResponse({
    type: Problem,
    description: 'The moment is not reachable (with the members of resolve), or a file exists.',
  })
  async create(@Param('group') group: string, @Body() body: RestoreBody): Promise<JobAnswer> {
    return jobAnswer(await this.restores.request(await this.groups.get(group), body));
  }
}
