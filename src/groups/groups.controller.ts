// SPDX-License-Identifier: Apache-2.0
import {
  Body,
  Controller,
  Delete,
  Get,
  HttpCode,
  Inject,
  Param,
  Patch,
  Post,
  Query,
} from '@nestjs/common';
import {
  ApiBadRequestResponse,
  ApiBearerAuth,
  ApiBody,
  ApiConflictResponse,
  ApiCreatedResponse,
  ApiNoContentResponse,
  ApiOkResponse,
  ApiOperation,
  ApiServiceUnavailableResponse,
  ApiTags,
} from '@nestjs/swagger';
import { RequireRole } from '../auth/roles.js';
import { PageQuery, pageOf } from '../common/rest/fields.js';
import { Problem } from '../common/rest/problem.js';
import { GroupAnswer } from './group-answer.js';
import { GroupDescriber } from './group-describer.js';
import { ConfirmBody, DeleteGroupQuery, GroupBody, GroupPatch } from './group.dto.js';
import { GroupService } from './group.service.js';

const EXAMPLE = {
  name: 'web-1',
  policy: 'default',
  ack: 'primary',
  flush: 'both',
  onLogPressure: 'throttle',
  devices: ['default'],
  volumes: [
    {
      name: 'vda',
      primary: {
        kind: 'file',
        path: '/var/lib/libvirt/images/web-1.raw',
        sizeBytes: 10_737_418_240,
        create: true,
      },
      baseline: 'none',
      blockSize: 512,
      exports: [{ kind: 'vhost-user-blk', queues: 2, owner: 'libvirt-qemu:kvm' }],
    },
  ],
};

@ApiTags('groups')
@ApiBearerAuth()
@Controller('v1/groups')
export class GroupsController {
  constructor(
    @Inject(GroupService) private readonly groups: GroupService,
    @Inject(GroupDescriber) private readonly describer: GroupDescriber,
  ) {}

  @Get()
  @RequireRole('viewer')
  @ApiOperation({ summary: 'The protected groups' })
  @ApiOkResponse({ type: [GroupAnswer] })
  async list(@Query() page: PageQuery): Promise<GroupAnswer[]> {
    const groups = pageOf(await this.groups.list(), page, (group) => group.id);
    return Promise.all(groups.map((group) => this.describer.describe(group)));
  }

  @Post()
  @RequireRole('operator')
  @ApiOperation({
    summary: 'Protects the disks of one VM; answers when the sockets listen and I/O is served',
  })
  @ApiBody({ type: GroupBody, examples: { oneDisk: { value: EXAMPLE } } })
  @ApiCreatedResponse({ type: GroupAnswer })
  @ApiBadRequestResponse({ type: Problem })
  @ApiConflictResponse({ type: Problem })
  @ApiServiceUnavailableResponse({ type: Problem })
  async create(@Body() body: GroupBody): Promise<GroupAnswer> {
    return this.describer.describe(await this.groups.create(body));
  }

  @Get(':group')
  @RequireRole('viewer')
  @ApiOperation({ summary: 'One group: its state, its exports and how to connect to them' })
  @ApiOkResponse({ type: GroupAnswer })
  async show(@Param('group') group: string): Promise<GroupAnswer> {
    return this.describer.describe(await this.groups.get(group));
  }

  @Patch(':group')
  @RequireRole('operator')
  @ApiOperation({ summary: 'Changes policy, ack, flush, onLogPressure, throttleMaxMs' })
  @ApiOkResponse({ type: GroupAnswer })
  async patch(@Param('group') group: string, @Body() body: GroupPatch): Promise<GroupAnswer> {
    return this.describer.describe(await this.groups.patch(group, body));
  }

  @Post(':group/pause')
  @HttpCode(200)
  @RequireRole('operator')
  @ApiOperation({
    summary: 'Stops protection: opens a gap that lasts until resume, over restarts too',
    description: 'Answers when the gap is recorded. No moment of it is ever a recovery point.',
  })
  @ApiOkResponse({ type: GroupAnswer })
  @ApiBadRequestResponse({ type: Problem })
  @ApiConflictResponse({ type: Problem })
  async pause(@Param('group') group: string, @Body() body: ConfirmBody): Promise<GroupAnswer> {
    return this.describer.describe(await this.groups.pause(group, body.confirm));
  }

  @Post(':group/resume')
  @HttpCode(200)
  @RequireRole('operator')
  @ApiOperation({
    summary: 'Ends a pause; answers when writes are logged again, while the gap is resynced',
  })
  @ApiOkResponse({ type: GroupAnswer })
  @ApiBadRequestResponse({ type: Problem })
  @ApiConflictResponse({ type: Problem, description: 'It is not paused.' })
  async resume(@Param('group') group: string, @Body() body: ConfirmBody): Promise<GroupAnswer> {
    return this.describer.describe(await this.groups.resume(group, body.confirm));
  }

  @Delete(':group')
  @HttpCode(204)
  @RequireRole('operator')
  @ApiOperation({
    summary: 'Ends protection; the primaries stay as they are',
    description: 'Log and maps stay on the devices too, unless deleteHistory is true.',
  })
  @ApiNoContentResponse()
  @ApiConflictResponse({ type: Problem, description: 'A front-end is connected, or a job works.' })
  async remove(@Param('group') group: string, @Query() query: DeleteGroupQuery): Promise<void> {
    await this.groups.remove(group, {
      force: query.force === 'true',
      deleteHistory: query.deleteHistory === 'true',
    });
  }
}
