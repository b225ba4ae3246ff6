// SPDX-License-Identifier: Apache-2.0
import { type DynamicModule, Global, Inject, Module, type OnModuleDestroy } from '@nestjs/common';
import type { DataPlanePort } from '../data-plane/port.js';
import { DATA_PLANE, DataPlaneEvents } from './data-plane-events.js';
import { EventBus } from './event-bus.js';
import { EventsController } from './events.controller.js';

/** The bus, and the port to the data plane whose events it carries. */
@Global()
@Module({})
export class EventsModule implements OnModuleDestroy {
  constructor(@Inject(EventBus) private readonly bus: EventBus) {}

  static forRoot(port: DataPlanePort): DynamicModule {
    return {
      module: EventsModule,
      controllers: [EventsController],
      providers: [EventBus, DataPlaneEvents, { provide: DATA_PLANE, useValue: port }],
      exports: [EventBus, DATA_PLANE],
    };
  }

  onModuleDestroy(): void {
    this.bus.close();
  }
}
