// SPDX-License-Identifier: Apache-2.0
import { Controller, Delete, Get, Inject, Param, Query } from '@nestjs/common';
import { ApiBearerAuth, ApiOkResponse, ApiOperation, ApiTags } from '@nestjs/swagger';
import { RequireRole } from '../auth/roles.js';
import { PageQuery } from '../common/rest/fields.js';
import { JobAnswer, jobAnswer } from './job.dto.js';
import { JobService } from './job.service.js';

@ApiTags('jobs')
@ApiBearerAuth()
@Controller('v1/jobs')
export class JobsController {
  constructor(@Inject(JobService) private readonly jobs: JobService) {}

  @Get()
  @RequireRole('viewer')
  @ApiOperation({ summary: 'Jobs, newest first' })
  @ApiOkResponse({ type: [JobAnswer] })
  async list(@Query() page: PageQuery): Promise<JobAnswer[]> {
    return (await this.jobs.list(page)).map(jobAnswer);
  }

  @Get(':id')
  @RequireRole('viewer')
  @ApiOperation({ summary: 'One job' })
  @ApiOkResponse({ type: JobAnswer })
  async show(@Param('id') id: string): Promise<JobAnswer> {
    return jobAnswer(await this.jobs.get(id));
  }

  @Delete(':id')
  @RequireRole('operator')
  @ApiOperation({ summary: 'Cancels a job and answers when it has ended; 409 when it had before' })
  @ApiOkResponse({ type: JobAnswer })
  async cancel(@Param('id') id: string): Promise<JobAnswer> {
    return jobAnswer(await this.jobs.cancel(id));
  }
}
