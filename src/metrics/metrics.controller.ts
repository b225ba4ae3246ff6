// SPDX-License-Identifier: Apache-2.0
import { Controller, Get, Header, Inject } from '@nestjs/common';
import { ApiOperation, ApiProduces, ApiTags } from '@nestjs/swagger';
import { OpenOnLoopback, RequireRole } from '../auth/roles.js';
import { MetricsService } from './metrics.service.js';

@ApiTags('service')
@Controller()
export class MetricsController {
  constructor(@Inject(MetricsService) private readonly metrics: MetricsService) {}

  @Get('metrics')
  @OpenOnLoopback()
  @RequireRole('viewer')
  @Header('Content-Type', 'text/plain; version=0.0.4; charset=utf-8')
  @Header('Cache-Control', 'no-store')
  @ApiProduces('text/plain')
  @ApiOperation({ summary: 'Figures in the text format of Prometheus; open on loopback' })
  show(): Promise<string> {
    return this.metrics.render();
  }
}
