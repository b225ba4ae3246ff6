// SPDX-License-Identifier: Apache-2.0
import { Injectable, Logger } from '@nestjs/common';
import { collectDefaultMetrics, Counter, Gauge, Registry } from 'prom-client';

/** Sets gauges from what is true at this moment. */
export type Collector = () => Promise<void> | void;

/**
 * The service's figures. A registry of its own, not prom-client's global one, so that two services
 * in one process (tests) do not meet.
 */
@Injectable()
export class MetricsService {
  readonly registry = new Registry();
  private readonly logger = new Logger(MetricsService.name);
  private readonly collectors: Collector[] = [];

  constructor() {
    collectDefaultMetrics({ register: this.registry, prefix: 'everpoint_' });
  }

  /** A figure that goes up and down; `everpoint_` is put before the name. */
  gauge<Label extends string>(name: string, help: string, labels: Label[] = []): Gauge<Label> {
    return new Gauge({
      name: `everpoint_${name}`,
      help,
      labelNames: labels,
      registers: [this.registry],
    });
  }

  /** A figure that only rises. */
  counter<Label extends string>(name: string, help: string, labels: Label[] = []): Counter<Label> {
    return new Counter({
      name: `everpoint_${name}`,
      help,
      labelNames: labels,
      registers: [this.registry],
    });
  }

  /** Has gauges set right before each answer. One collector that fails hides only its own. */
  addCollector(collector: Collector): void {
    this.collectors.push(collector);
  }

  /** The text format of Prometheus. */
  async render(): Promise<string> {
    const results = await Promise.allSettled(
      this.collectors.map(async (collector) => {
        await collector();
      }),
    );
    for (const result of results) {
      if (result.status === 'rejected') {
        this.logger.warn(`a collector failed: ${(result.reason as Error).message}`);
      }
    }
    return this.registry.metrics();
  }
}
