// SPDX-License-Identifier: Apache-2.0
import { Module } from '@nestjs/common';
import { PoliciesController } from './policies.controller.js';
import { PolicyService } from './policy.service.js';

@Module({
  controllers: [PoliciesController],
  providers: [PolicyService],
  exports: [PolicyService],
})
export class PoliciesModule {}
