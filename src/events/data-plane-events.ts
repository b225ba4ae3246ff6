// SPDX-License-Identifier: Apache-2.0
import { Inject, Injectable, type OnModuleDestroy, type OnModuleInit } from '@nestjs/common';
import { formatTime } from '../common/time.js';
import type { DataPlaneEvent, DataPlanePort } from '../data-plane/port.js';
import { EventBus } from './event-bus.js';

/** The injection token of the port to the data plane. */
export const DATA_PLANE = Symbol('DataPlanePort');

/** Brings the data plane's events onto the bus. */
@Injectable()
export class DataPlaneEvents implements OnModuleInit, OnModuleDestroy {
  private unsubscribe: (() => void) | undefined;

  constructor(
    @Inject(DATA_PLANE) private readonly port: DataPlanePort,
    @Inject(EventBus) private readonly bus: EventBus,
  ) {}

  onModuleInit(): void {
    this.unsubscribe = this.port.onEvent((event) => {
      this.forward(event);
    });
  }

  onModuleDestroy(): void {
    this.unsubscribe?.();
  }

  private forward(event: DataPlaneEvent): void {
    switch (event.kind) {
      case 'sealed': {
        const { segment, firstLsn, lastLsn } = event.segment;
        this.bus.publish('sealed', { group: event.group, segment, firstLsn, lastLsn });
        break;
      }
      case 'state':
        this.bus.publish('group', {
          group: event.group,
          state: event.state,
          reason: event.reason,
        });
        break;
      case 'gap': {
        const { fromNs, toNs, ...gap } = event.gap;
        const from = formatTime(BigInt(fromNs));
        const to = gap.toLsn === 0 ? null : formatTime(BigInt(toNs));
        this.bus.publish('gap', { group: event.group, ...gap, from, to });
        break;
      }
      case 'connected':
        this.bus.publish('connected', {
          group: event.group,
          volume: event.volume,
          connected: event.connected,
        });
        break;
      case 'link':
        this.bus.publish('data-plane', { up: event.up });
        break;
    }
  }
}
