// SPDX-License-Identifier: Apache-2.0
import { Inject, Injectable } from '@nestjs/common';
import type { DataPlanePort, DeviceState, GroupStatus } from '../data-plane/port.js';
import { DATA_PLANE } from '../events/data-plane-events.js';
import { MetricsService } from '../metrics/metrics.service.js';
import { GROUP_STATES } from './group-answer.js';
import { GroupService } from './group.service.js';
import { rpoSecondsOf, secondsSince } from './rpo.js';

const DEVICE_STATES: readonly DeviceState[] = ['ok', 'failed', 'full', 'missing'];

/** Figures of every group and export, read from the data plane at each scrape. */
@Injectable()
export class GroupMetrics {
  private readonly up;
  private readonly state;
  private readonly device;
  private readonly gauges;
  private readonly exportGauges;

  constructor(
    @Inject(DATA_PLANE) private readonly port: DataPlanePort,
    @Inject(GroupService) private readonly groups: GroupService,
    @Inject(MetricsService) metrics: MetricsService,
  ) {
    const group = (name: string, help: string) => metrics.gauge(`group_${name}`, help, ['group']);
    const one = (name: string, help: string) =>
      metrics.gauge(`export_${name}`, help, ['group', 'volume', 'path']);
    this.up = metrics.gauge('dataplane_up', '1 while the data plane answers');
    this.state = metrics.gauge('group_state', '1 for the state that the group is in', [
      'group',
      'state',
    ]);
    this.gauges = {
      lsn: group('lsn', 'Last LSN taken'),
      durableLsn: group('durable_lsn', 'Last LSN durable on the secondary'),
      rpoSeconds: group(
        'rpo_seconds',
        'Age of the oldest write that is not durable in the log; in a gap, of the newest protected moment',
      ),
      logBytes: group('log_bytes', 'Bytes of segments written and not freed'),
      gaps: group('gaps', 'Gaps that are not healed'),
      gapSeconds: group('gap_open_seconds', 'For how long a gap has been open; 0 without one'),
      resyncLeft: group('resync_left_bytes', 'Bytes that a resync has yet to compare'),
      logPressure: group('log_pressure_ratio', 'Used share of the log buffer, 0 to 1'),
      logTrouble: group('log_trouble', '1 while the log cannot be written'),
      bufferUsed: group('log_buffer_used_bytes', 'Bytes of the log buffer in use'),
      writes: group('writes', 'Guest writes since the data plane started'),
      writeBytes: group('write_bytes', 'Bytes of them'),
      flushes: group('flushes', 'Guest flushes since the data plane started'),
      bufferWaits: group('buffer_waits', 'Writes that waited for the log buffer'),
      primaryErrors: group('primary_errors', 'Failed requests of primaries'),
      logErrors: group('log_errors', 'Failed writes of the log'),
      logMoves: group('log_moves', 'Times that the log went on elsewhere after an error'),
      gapsOpened: group('gaps_opened', 'Gaps opened since the data plane started'),
      resynced: group('resync_bytes', 'Bytes that resyncs found different, so logged'),
      throttledMs: group('throttled_ms', 'Milliseconds that requests waited for the log'),
    };
    this.device = metrics.gauge(
      'group_device_state',
      "1 for the state in which the group's log finds the device",
      ['group', 'device', 'state'],
    );
    this.exportGauges = {
      connected: one('connected', '1 while a front-end is connected'),
      requests: one('requests', 'Requests since the data plane started'),
      readBytes: one('read_bytes', 'Bytes read'),
      writeBytes: one('write_bytes', 'Bytes written'),
      errors: one('errors', 'Requests that failed'),
      malformed: one('malformed', 'Requests that were refused as malformed'),
      inFlight: one('in_flight', 'Requests in flight'),
    };
    metrics.addCollector(() => this.collect());
  }

  private async collect(): Promise<void> {
    for (const gauge of [
      this.state,
      this.device,
      ...Object.values(this.gauges),
      ...Object.values(this.exportGauges),
    ]) {
      gauge.reset();
    }
    const served = await this.port.listGroups().then(
      (list) => {
        this.up.set(1);
        return list;
      },
      () => {
        this.up.set(0);
        return [];
      },
    );
    for (const { id, name } of await this.groups.list()) {
      const status = served.find((one) => one.id === id);
      const now = status?.state ?? 'failed';
      for (const state of GROUP_STATES) {
        this.state.set({ group: name, state }, state === now ? 1 : 0);
      }
      if (status !== undefined) this.setFigures(name, status);
    }
  }

  private setFigures(group: string, status: GroupStatus): void {
    const { counters } = status;
    const open = status.gaps.find((gap) => gap.toLsn === 0);
    const values: Record<keyof typeof this.gauges, number> = {
      lsn: status.lsn,
      durableLsn: status.durableLsn,
      rpoSeconds: rpoSecondsOf(status),
      logBytes: status.logBytes,
      gaps: status.gaps.filter((gap) => !gap.healed).length,
      gapSeconds: open === undefined ? 0 : secondsSince(open.fromNs),
      resyncLeft: status.resync?.leftBytes ?? 0,
      logPressure: status.logPressure,
      logTrouble: status.logTrouble === '' ? 0 : 1,
      bufferUsed: status.buffer.usedBytes,
      writes: counters.writes,
      writeBytes: counters.writeBytes,
      flushes: counters.flushes,
      bufferWaits: counters.bufferWaits,
      primaryErrors: counters.primaryErrors,
      logErrors: counters.logErrors,
      logMoves: counters.logMoves,
      gapsOpened: counters.gaps,
      resynced: counters.resyncBytes,
      throttledMs: counters.throttledMs,
    };
    for (const device of status.devices) {
      for (const state of DEVICE_STATES) {
        const labels = { group, device: device.id, state };
        this.device.set(labels, state === device.state ? 1 : 0);
      }
    }
    for (const [key, gauge] of Object.entries(this.gauges)) {
      gauge.set({ group }, values[key as keyof typeof values]);
    }
    for (const volume of status.volumes) {
      for (const one of volume.exports) {
        const labels = { group, volume: volume.name, path: one.path };
        for (const [key, gauge] of Object.entries(this.exportGauges)) {
          gauge.set(labels, Number(one[key as keyof typeof this.exportGauges]));
        }
      }
    }
  }
}
