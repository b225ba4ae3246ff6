// SPDX-License-Identifier: Apache-2.0
import { Module } from '@nestjs/common';
import { GroupsModule } from '../groups/groups.module.js';
import { HistoryController } from './history.controller.js';
import { HistoryService } from './history.service.js';
import { LogView } from './log-view.js';
import { MapKeeper } from './map-keeper.js';
import { MarkerService } from './marker.service.js';
import { Resolver } from './resolver.js';

@Module({
  imports: [GroupsModule],
  controllers: [HistoryController],
  providers: [HistoryService, LogView, MapKeeper, MarkerService, Resolver],
  exports: [LogView, MapKeeper, Resolver],
})
export class HistoryModule {}
