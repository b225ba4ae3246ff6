// SPDX-License-Identifier: Apache-2.0
import { Inject, Injectable } from '@nestjs/common';
import { TokenService } from '../auth/token.service.js';
import { DeviceRepository } from '../catalog/device.repository.js';
import { PolicyRepository } from '../catalog/policy.repository.js';
import { OPENING_REASON } from '../data-plane/group-status.js';
import type { DataPlanePort } from '../data-plane/port.js';
import { DEFAULT_DEVICE } from '../devices/device.service.js';
import { DATA_PLANE } from '../events/data-plane-events.js';
import { DEFAULT_POLICY } from '../policies/policy.service.js';

/** Decides whether the service can be used. */
@Injectable()
export class Readiness {
  /** Set when everything that the last run left was taken up. */
  started = false;

  constructor(
    @Inject(TokenService) private readonly tokens: TokenService,
    @Inject(DeviceRepository) private readonly devices: DeviceRepository,
    @Inject(PolicyRepository) private readonly policies: PolicyRepository,
    @Inject(DATA_PLANE) private readonly port: DataPlanePort,
  ) {}

  /** What is missing; empty when the service is ready. */
  async missing(): Promise<string[]> {
    const missing: string[] = [];
    if (!this.started) missing.push('the service is starting');
    if (!this.tokens.ready) missing.push('there is no token');
    if ((await this.devices.find(DEFAULT_DEVICE)) === undefined) {
      missing.push('there is no device "default"');
    }
    if ((await this.policies.find(DEFAULT_POLICY)) === undefined) {
      missing.push('there is no policy "default"');
    }
    return [...missing, ...(await this.opening())];
  }

  /** Groups that the data plane has neither opened nor given up. */
  private async opening(): Promise<string[]> {
    try {
      const served = await this.port.listGroups();
      return served
        .filter(({ state, reason }) => state === 'failed' && reason === OPENING_REASON)
        .map(({ name }) => `the group ${name} is being opened`);
    } catch (error) {
      return [`the data plane does not answer: ${(error as Error).message}`];
    }
  }
}
