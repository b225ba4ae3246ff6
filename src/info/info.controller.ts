// SPDX-License-Identifier: Apache-2.0
import { Controller, Get, Inject } from '@nestjs/common';
import { ApiBearerAuth, ApiOkResponse, ApiOperation, ApiTags } from '@nestjs/swagger';
import { RequireRole } from '../auth/roles.js';
import { InfoAnswer, InfoService } from './info.service.js';

@ApiTags('service')
@ApiBearerAuth()
@Controller('v1/info')
export class InfoController {
  constructor(@Inject(InfoService) private readonly service: InfoService) {}

  @Get()
  @RequireRole('viewer')
  @ApiOperation({ summary: 'Version, build, reactors, uptime, data plane' })
  @ApiOkResponse({ type: InfoAnswer })
  show(): Promise<InfoAnswer> {
    return this.service.info();
  }
}
