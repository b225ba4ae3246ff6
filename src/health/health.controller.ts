// SPDX-License-Identifier: Apache-2.0
import { Controller, Get, Header, Inject } from '@nestjs/common';
import {
  ApiOkResponse,
  ApiOperation,
  ApiProperty,
  ApiServiceUnavailableResponse,
  ApiTags,
} from '@nestjs/swagger';
import { OpenOnLoopback, RequireRole } from '../auth/roles.js';
import { Problem } from '../common/rest/problem.js';
import { NotReadyError } from './not-ready-error.js';
import { Readiness } from './readiness.js';

export class HealthAnswer {
  @ApiProperty({ example: 'ok' })
  status!: string;
}

@ApiTags('service')
@Controller()
export class HealthController {
  constructor(@Inject(Readiness) private readonly readiness: Readiness) {}

  @Get('healthz')
  @OpenOnLoopback()
  @RequireRole('viewer')
  @Header('Cache-Control', 'no-store')
  @ApiOperation({ summary: 'The process answers; open on loopback' })
  @ApiOkResponse({ type: HealthAnswer })
  health(): HealthAnswer {
    return { status: 'ok' };
  }

  @Get('readyz')
  @OpenOnLoopback()
  @RequireRole('viewer')
  @Header('Cache-Control', 'no-store')
  @ApiOperation({
    summary: 'Token, default device and policy exist, every group is open or failed',
  })
  @ApiOkResponse({ type: HealthAnswer })
  @ApiServiceUnavailableResponse({ type: Problem })
  async ready(): Promise<HealthAnswer> {
    const missing = await this.readiness.missing();
    if (missing.length > 0) throw new NotReadyError(missing);
    return { status: 'ready' };
  }
}
