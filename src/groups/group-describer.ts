// SPDX-License-Identifier: Apache-2.0
import { Inject, Injectable } from '@nestjs/common';
import { HistoryRepository } from '../catalog/history.repository.js';
import { DeviceRepository } from '../catalog/device.repository.js';
import { PolicyRepository } from '../catalog/policy.repository.js';
import { formatTime } from '../common/time.js';
import type {
  DataPlanePort,
  ExportDefinition,
  GroupStatus,
  VolumeDefinition,
} from '../data-plane/port.js';
import { DATA_PLANE } from '../events/data-plane-events.js';
import { libvirtXml, qemuArgs } from './connect-texts.js';
import type { ExportAnswer, GroupAnswer, OpenGapAnswer, VolumeAnswer } from './group-answer.js';
import { ManifestStore } from './manifest-store.js';
import { describeOwner } from './owner.js';
import { rpoSecondsOf } from './rpo.js';
import type { Group } from './stored-group.js';

/** What is known of a group's run: the data plane's status, or why there is none. */
export type LiveStatus = { status: GroupStatus } | { fault: string };

/** Writes the answers about groups. */
@Injectable()
export class GroupDescriber {
  private readonly troubles: ((groupId: string) => string | undefined)[] = [];

  constructor(
    @Inject(DATA_PLANE) private readonly port: DataPlanePort,
    @Inject(HistoryRepository) private readonly history: HistoryRepository,
    @Inject(PolicyRepository) private readonly policies: PolicyRepository,
    @Inject(DeviceRepository) private readonly devices: DeviceRepository,
    @Inject(ManifestStore) private readonly manifests: ManifestStore,
  ) {}

  /** Names somebody who knows of troubles that the data plane does not: its answers are shown. */
  addTroubles(source: (groupId: string) => string | undefined): void {
    this.troubles.push(source);
  }

  async describe(group: Group): Promise<GroupAnswer> {
    const live = await this.live(group.id);
    const status = 'status' in live ? live.status : undefined;
    const { ack, flush, onLogPressure, throttleMaxMs, logBuffer } = group.definition;
    const policy = await this.policies.find(group.policyId);
    const devices = await this.deviceNames(group);
    return {
      id: group.id,
      name: group.name,
      policy: policy?.name ?? group.policyId,
      ack,
      flush,
      onLogPressure,
      throttleMaxMs,
      logBuffer: { ...logBuffer },
      devices: devices.map(({ name }) => name),
      state: status?.state ?? 'failed',
      reason: [
        'fault' in live ? live.fault : live.status.reason,
        status?.logTrouble ?? '',
        ...deviceTroubles(status, devices),
        this.manifests.troubleOf(group.id) ?? '',
        ...this.troubles.map((source) => source(group.id) ?? ''),
      ]
        .filter((text) => text !== '')
        .join('; '),
      lsn: status?.lsn ?? 0,
      durableLsn: status?.durableLsn ?? 0,
      rpoSeconds: status === undefined ? 0 : rpoSecondsOf(status),
      historyFrom: await this.historyFrom(group.id, status),
      logBytes: status?.logBytes ?? 0,
      logPressure: status?.logPressure ?? 0,
      bufferDurable: status?.buffer.durable ?? logBuffer.kind !== 'tmpfs',
      gap: openGapAnswer(status),
      resync: status?.resync ?? null,
      deviceStates: devices.map(({ id, name }) => ({ name, ...deviceState(status, id) })),
      volumes: await Promise.all(
        group.definition.volumes.map((volume) => describeVolume(group, volume, status)),
      ),
    };
  }

  /** The group's status now. Never throws: a data plane that is down is an answer too. */
  async live(groupId: string): Promise<LiveStatus> {
    try {
      return { status: await this.port.groupStatus(groupId) };
    } catch (error) {
      return { fault: (error as Error).message };
    }
  }

  private async deviceNames(group: Group): Promise<{ id: string; name: string }[]> {
    const rows = await this.devices.list();
    return group.definition.devices.map(({ id }) => ({
      id,
      name: rows.find((row) => row.id === id)?.name ?? id,
    }));
  }

  private async historyFrom(
    groupId: string,
    status: GroupStatus | undefined,
  ): Promise<string | null> {
    const mapped = await this.history.historyFrom(groupId);
    if (mapped !== undefined) return formatTime(BigInt(mapped));
    if (status === undefined || status.durableLsn === 0) return null;
    const segments = await this.port.listSegments(groupId, 0).catch(() => []);
    const oldest = segments.find((segment) => segment.lastLsn >= segment.firstLsn);
    return oldest === undefined ? null : formatTime(BigInt(oldest.firstTimeNs));
  }
}

function openGapAnswer(status: GroupStatus | undefined): OpenGapAnswer | null {
  const gap = status?.gaps.find((one) => one.toLsn === 0);
  if (gap === undefined) return null;
  return { fromLsn: gap.fromLsn, from: formatTime(BigInt(gap.fromNs)), reason: gap.reason };
}

/** How the group's log finds a device; what nobody asked is `unknown`. */
function deviceState(
  status: GroupStatus | undefined,
  id: string,
): { state: string; reason?: string } {
  const found = status?.devices.find((one) => one.id === id);
  if (found === undefined) return { state: 'unknown' };
  const { state, reason } = found;
  return { state, ...(reason !== '' && { reason }) };
}

function deviceTroubles(
  status: GroupStatus | undefined,
  devices: readonly { id: string; name: string }[],
): string[] {
  return devices.flatMap(({ id, name }) => {
    const found = status?.devices.find((one) => one.id === id);
    if (found === undefined || found.state === 'ok') return [];
    return [`the device ${name} is ${found.state}${found.reason && ` (${found.reason})`}`];
  });
}

async function describeVolume(
  group: Group,
  volume: VolumeDefinition,
  status: GroupStatus | undefined,
): Promise<VolumeAnswer> {
  const live = status?.volumes.find((one) => one.number === volume.number);
  const sizeBytes = live?.sizeBytes ?? volume.primary.sizeBytes ?? 0;
  const { kind, path } = volume.primary;
  return {
    name: volume.name,
    number: volume.number,
    sizeBytes,
    primary: { kind, path, sizeBytes },
    baseline: 'none',
    blockSize: volume.blockSize,
    exports: await Promise.all(
      volume.exports.map((one, index) => {
        const connected =
          live?.exports.find((known) => known.path === one.path)?.connected ?? false;
        return describeExport(group, volume, one, index, connected);
      }),
    ),
  };
}

async function describeExport(
  group: Group,
  volume: VolumeDefinition,
  one: ExportDefinition,
  index: number,
  connected: boolean,
): Promise<ExportAnswer> {
  const tail = index === 0 ? '' : `-${index + 1}`;
  const target = {
    id: `ep-${group.id.slice(0, 8)}-${volume.number}${tail}`,
    socket: one.path,
    queues: one.queues,
    targetDev: /^vd[a-z]{1,2}$/.test(volume.name) ? volume.name : diskName(volume.number),
  };
  const { uid, gid } = one;
  return {
    kind: one.kind,
    queues: one.queues,
    path: one.path,
    ...(uid !== undefined && gid !== undefined && { owner: await describeOwner({ uid, gid }) }),
    uri: `unix:${one.path}`,
    connected,
    qemuArgs: qemuArgs(target),
    libvirtXml: libvirtXml(target),
  };
}

/** vda … vdz, then vdaa …: as libvirt counts. */
function diskName(number: number): string {
  const letter = (value: number): string => String.fromCharCode(97 + value);
  return number < 26
    ? `vd${letter(number)}`
    : `vd${letter(Math.floor(number / 26) - 1)}${letter(number % 26)}`;
}
