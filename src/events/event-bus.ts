// SPDX-License-Identifier: Apache-2.0
import { Injectable } from '@nestjs/common';
import { Observable, Subject } from 'rxjs';

/** What `GET /v1/events` tells, by type. Every event is a hint: its reader looks for itself. */
export interface ServiceEvents {
  /** A group's state changed. */
  group: { group: string; state: string; reason: string };
  /** A gap opened, or what is known of one changed. */
  gap: {
    group: string;
    fromLsn: number;
    toLsn: number;
    from: string;
    to: string | null;
    reason: string;
    healed: boolean;
  };
  /** A segment of the log was sealed. */
  sealed: { group: string; segment: number; firstLsn: number; lastLsn: number };
  /** A map came into its place. */
  mapped: { group: string; firstLsn: number; lastLsn: number };
  /** A marker was made or unpinned. */
  marker: { group: string; label: string; lsn: number; pinned: boolean };
  /** A job began, went on or ended. */
  job: { id: string; kind: string; state: string; progress: object };
  /** A front-end came to an export or went. */
  connected: { group: string; volume: string; connected: boolean };
  /** The data plane went away or came. */
  'data-plane': { up: boolean };
  /** A group was created, changed or deleted. */
  groups: { group: string; change: 'created' | 'changed' | 'deleted' };
}

export type ServiceEvent = {
  [Type in keyof ServiceEvents]: { type: Type; data: ServiceEvents[Type] };
}[keyof ServiceEvents];

/** Carries events between modules and to callers of `GET /v1/events`. */
@Injectable()
export class EventBus {
  private readonly subject = new Subject<ServiceEvent>();

  get all(): Observable<ServiceEvent> {
    return this.subject.asObservable();
  }

  publish<Type extends keyof ServiceEvents>(type: Type, data: ServiceEvents[Type]): void {
    this.subject.next({ type, data } as ServiceEvent);
  }

  /** Returns the function that ends the subscription. */
  on<Type extends keyof ServiceEvents>(
    type: Type,
    listener: (data: ServiceEvents[Type]) => void,
  ): () => void {
    const subscription = this.subject.subscribe((event) => {
      if (event.type === type) listener(event.data as ServiceEvents[Type]);
    });
    return () => {
      subscription.unsubscribe();
    };
  }

  /** Ends every stream, so that callers of `GET /v1/events` do not hold the service open. */
  close(): void {
    this.subject.complete();
  }
}
