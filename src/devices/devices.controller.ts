// SPDX-License-Identifier: Apache-2.0
import {
  Body,
  Controller,
  Delete,
  Get,
  HttpCode,
  Inject,
  Param,
  Post,
  Query,
} from '@nestjs/common';
import {
  ApiBearerAuth,
  ApiConflictResponse,
  ApiCreatedResponse,
  ApiNoContentResponse,
  ApiOkResponse,
  ApiOperation,
  ApiTags,
} from '@nestjs/swagger';
import { RequireRole } from '../auth/roles.js';
import { PageQuery, pageOf } from '../common/rest/fields.js';
import { Problem } from '../common/rest/problem.js';
import { DeviceAnswer, DeviceBody } from './device.dto.js';
import { DeviceService } from './device.service.js';

@ApiTags('devices')
@ApiBearerAuth()
@Controller('v1/devices')
export class DevicesController {
  constructor(@Inject(DeviceService) private readonly devices: DeviceService) {}

  @Get()
  @RequireRole('viewer')
  @ApiOperation({ summary: 'The folders that logs and maps may lie on' })
  @ApiOkResponse({ type: [DeviceAnswer] })
  async list(@Query() page: PageQuery): Promise<DeviceAnswer[]> {
    const rows = pageOf(await this.devices.list(), page, (row) => row.id);
    return Promise.all(rows.map((row) => this.devices.examine(row)));
  }

  @Post()
  @RequireRole('admin')
  @ApiOperation({ summary: 'Takes a folder as a device' })
  @ApiCreatedResponse({ type: DeviceAnswer })
  @ApiConflictResponse({ type: Problem })
  async add(@Body() body: DeviceBody): Promise<DeviceAnswer> {
    return this.devices.examine(await this.devices.add(body.path, body.name));
  }

  @Get(':id')
  @RequireRole('viewer')
  @ApiOperation({ summary: 'One device' })
  @ApiOkResponse({ type: DeviceAnswer })
  async show(@Param('id') id: string): Promise<DeviceAnswer> {
    return this.devices.examine(await this.devices.get(id));
  }

  @Delete(':id')
  @HttpCode(204)
  @RequireRole('admin')
  @ApiOperation({
    summary: 'Forgets a device and leaves what lies on it; 409 while a group uses it',
  })
  @ApiNoContentResponse()
  @ApiConflictResponse({ type: Problem })
  remove(@Param('id') id: string): Promise<void> {
    return this.devices.remove(id);
  }
}
