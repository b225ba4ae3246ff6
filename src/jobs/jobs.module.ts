// SPDX-License-Identifier: Apache-2.0
import { Global, Module } from '@nestjs/common';
import { JobService } from './job.service.js';
import { JobsController } from './jobs.controller.js';

@Global()
@Module({ controllers: [JobsController], providers: [JobService], exports: [JobService] })
export class JobsModule {}
