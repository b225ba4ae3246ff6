// SPDX-License-Identifier: Apache-2.0
import { Controller, Inject, type MessageEvent, Sse } from '@nestjs/common';
import { ApiBearerAuth, ApiOperation, ApiProduces, ApiTags } from '@nestjs/swagger';
import { interval, map, merge, type Observable, takeUntil, last } from 'rxjs';
import { RequireRole } from '../auth/roles.js';
import { EventBus } from './event-bus.js';

const PING_INTERVAL_MS = 15_000;

@ApiTags('service')
@ApiBearerAuth()
@Controller('v1/events')
export class EventsController {
  constructor(@Inject(EventBus) private readonly bus: EventBus) {}

  @Sse()
  @RequireRole('viewer')
  @ApiProduces('text/event-stream')
  @ApiOperation({
    summary: 'Server-sent events: state changes, gaps, jobs, seals',
    description:
      'Types: group, groups, gap, sealed, mapped, marker, job, connected, data-plane, and a ping ' +
      'every 15 s. Data is JSON. Events are hints: what counts is what the other calls answer.',
  })
  stream(): Observable<MessageEvent> {
    const events = this.bus.all;
    const ended = events.pipe(last(null, null));
    const pings = interval(PING_INTERVAL_MS).pipe(
      map(() => ({ type: 'ping', data: {} })),
      takeUntil(ended),
    );
    return merge(events, pings);
  }
}
