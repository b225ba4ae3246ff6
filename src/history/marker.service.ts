// SPDX-License-Identifier: Apache-2.0
import { Inject, Injectable } from '@nestjs/common';
import { HistoryRepository } from '../catalog/history.repository.js';
import type { MarkerTable } from '../catalog/schema.js';
import { parseDuration } from '../common/durations.js';
import { EverpointError } from '../common/errors.js';
import { notFound } from '../common/rest/problem.js';
import { formatTime, nowNs } from '../common/time.js';
import type { DataPlanePort } from '../data-plane/port.js';
import { DATA_PLANE } from '../events/data-plane-events.js';
import { EventBus } from '../events/event-bus.js';
import { ManifestStore } from '../groups/manifest-store.js';
import { Serial } from '../groups/serial.js';
import type { Group } from '../groups/stored-group.js';
import type { MarkerAnswer } from './history.dto.js';

/** Makes markers, lists and unpins them. */
@Injectable()
export class MarkerService {
  private readonly serial = new Serial();

  constructor(
    @Inject(DATA_PLANE) private readonly port: DataPlanePort,
    @Inject(ManifestStore) private readonly manifests: ManifestStore,
    @Inject(HistoryRepository) private readonly history: HistoryRepository,
    @Inject(EventBus) private readonly bus: EventBus,
  ) {}

  /** Answers when the marker is durable in the log and stands in the manifest. */
  add(group: Group, label: string, keep: string | undefined): Promise<MarkerAnswer> {
    return this.serial.run(group.id, async () => {
      const state = await this.manifests.state(group.definition);
      if (state.markers.has(label)) {
        throw new EverpointError(
          'ALREADY_EXISTS',
          `The group ${group.name} has a marker ${JSON.stringify(label)} already.`,
          { operation: 'add marker', hint: 'Choose another label.' },
        );
      }
      const keepUntilNs =
        keep === undefined || keep === 'forever'
          ? keep
          : (nowNs() + parseDuration(keep)).toString();
      const { lsn, timeNs } = await this.port.addMarker(group.id, {
        label,
        ...(keepUntilNs !== undefined && { keepUntilNs }),
      });
      const answer: MarkerAnswer = {
        lsn,
        time: formatTime(BigInt(timeNs)),
        label,
        keepUntil: answerKeep(keepUntilNs ?? null),
        pinned: true,
      };
      const { time, keepUntil } = answer;
      await this.manifests.commit(group.definition, [
        { kind: 'marker', label, lsn, time, keepUntil },
      ]);
      this.bus.publish('marker', { group: group.id, label, lsn, pinned: true });
      return answer;
    });
  }

  /** In the order of their LSNs. */
  async list(group: Group): Promise<MarkerAnswer[]> {
    return (await this.history.markers(group.id)).map(markerAnswer);
  }

  /** The marker is kept no longer for its own sake; until it fades it can still be named. */
  unpin(group: Group, label: string): Promise<MarkerAnswer> {
    return this.serial.run(group.id, async () => {
      const find = async () => {
        const rows = await this.history.markers(group.id);
        const row = rows.find((one) => one.label === label);
        if (row === undefined) throw notFound('marker', label);
        return row;
      };
      const row = await find();
      if (row.pinned === 1) {
        await this.manifests.commit(group.definition, [{ kind: 'unpin', label }]);
        this.bus.publish('marker', { group: group.id, label, lsn: row.lsn, pinned: false });
      }
      return markerAnswer(await find());
    });
  }
}

function markerAnswer(row: MarkerTable): MarkerAnswer {
  return {
    lsn: row.lsn,
    time: formatTime(BigInt(row.time_ns)),
    label: row.label,
    keepUntil: answerKeep(row.keep_until),
    pinned: row.pinned === 1,
  };
}

function answerKeep(stored: string | null): string | null {
  return stored === null || stored === 'forever' ? stored : formatTime(BigInt(stored));
}
