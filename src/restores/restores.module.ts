// SPDX-License-Identifier: Apache-2.0
import { Module } from '@nestjs/common';
import { GroupsModule } from '../groups/groups.module.js';
import { HistoryModule } from '../history/history.module.js';
import { RestoreJob } from './restore-job.js';
import { RestorePlanner } from './restore-plan.js';
import { RestoreService } from './restore.service.js';
import { RestoresController } from './restores.controller.js';

@Module({
  imports: [GroupsModule, HistoryModule],
  controllers: [RestoresController],
  providers: [RestoreJob, RestorePlanner, RestoreService],
})
export class RestoresModule {}
