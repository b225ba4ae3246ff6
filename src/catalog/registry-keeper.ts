// SPDX-License-Identifier: Apache-2.0
import type { DeviceRepository } from './device.repository.js';
import type { PolicyRepository } from './policy.repository.js';
import type { Registry } from './registry.js';

/** Keeps the registry file in step with the catalog's devices and policies. */
export class RegistryKeeper {
  private last: Promise<void> = Promise.resolve();

  constructor(
    private readonly registry: Registry,
    private readonly devices: DeviceRepository,
    private readonly policies: PolicyRepository,
  ) {}

  /** Writes the registry as the catalog is now; answers when it is durable. One at a time. */
  save(): Promise<void> {
    const next = this.last.then(async () => {
      await this.registry.write({
        devices: await this.devices.list(),
        policies: await this.policies.list(),
      });
    });
    this.last = next.catch(() => undefined);
    return next;
  }

  /** Fills a new catalog from the registry file. */
  async load(): Promise<void> {
    const content = await this.registry.read();
    if (content === undefined) return;
    for (const device of content.devices) await this.devices.insert(device);
    for (const policy of content.policies) await this.policies.insert(policy);
  }
}
