// SPDX-License-Identifier: Apache-2.0
import { Module } from '@nestjs/common';
import { DevicesModule } from '../devices/devices.module.js';
import { PoliciesModule } from '../policies/policies.module.js';
import { DefinitionBuilder } from './definition-builder.js';
import { GroupDescriber } from './group-describer.js';
import { GroupMetrics } from './group-metrics.js';
import { GroupRecovery } from './group-recovery.js';
import { GroupService } from './group.service.js';
import { GroupsController } from './groups.controller.js';
import { ManifestStore } from './manifest-store.js';
import { PathGuard } from './path-guard.js';
import { GroupLock } from './serial.js';
import { PolicyFollower } from './policy-follower.js';

@Module({
  imports: [DevicesModule, PoliciesModule],
  controllers: [GroupsController],
  providers: [
    DefinitionBuilder,
    GroupDescriber,
    GroupLock,
    GroupMetrics,
    GroupRecovery,
    GroupService,
    ManifestStore,
    PathGuard,
    PolicyFollower,
  ],
  exports: [GroupDescriber, GroupRecovery, GroupService, ManifestStore, PathGuard, PolicyFollower],
})
export class GroupsModule {}
