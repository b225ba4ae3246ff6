// SPDX-License-Identifier: Apache-2.0

import type { GroupDefinition, GroupStatus } from './port.js';

/** `reason` of a group (state `failed`) whose opening has not ended yet. */
export const OPENING_REASON = 'it is being opened';

/** The status of a group that the addon does not have open: what is not known is zero. */
export function failedStatus(definition: GroupDefinition, reason: string): GroupStatus {
  return {
    id: definition.id,
    name: definition.name,
    state: 'failed',
    reason,
    definition,
    lsn: 0,
    durableLsn: 0,
    sealedLsn: 0,
    epoch: 0,
    lastTimeNs: '0',
    rpoSeconds: 0,
    logBytes: 0,
    buffer: {
      kind: definition.logBuffer.kind,
      path: '',
      bytes: 0,
      usedBytes: 0,
      durable: definition.logBuffer.kind !== 'tmpfs',
    },
    logPressure: 0,
    logTrouble: '',
    // Nobody has looked: a group that is not open says nothing about its devices.
    devices: definition.devices.map(({ id }) => ({ id, state: 'ok', reason: '' })),
    gaps: [],
    resync: null,
    volumes: definition.volumes.map((volume) => ({
      number: volume.number,
      name: volume.name,
      sizeBytes: volume.primary.sizeBytes ?? 0,
      dirtyRegions: 0,
      exports: volume.exports.map((one) => ({
        kind: one.kind,
        path: one.path,
        connected: false,
        connections: 0,
        requests: 0,
        readBytes: 0,
        writeBytes: 0,
        errors: 0,
        malformed: 0,
        resubmitted: 0,
        inFlight: 0,
      })),
    })),
    counters: {
      writes: 0,
      writeBytes: 0,
      reads: 0,
      flushes: 0,
      discards: 0,
      writeZeroes: 0,
      markers: 0,
      batches: 0,
      overlapWaits: 0,
      bufferWaits: 0,
      primaryErrors: 0,
      logErrors: 0,
      logMoves: 0,
      gaps: 0,
      resyncBytes: 0,
      throttledMs: 0,
    },
  };
}

/** Stands for the definition of a group whose file is damaged: it has no devices and no volumes. */
export function unknownDefinition(id: string): GroupDefinition {
  return {
    id,
    name: id,
    ack: 'primary',
    flush: 'both',
    onLogPressure: 'throttle',
    throttleMaxMs: 0,
    devices: [],
    logBuffer: { kind: 'tmpfs' },
    volumes: [],
  };
}
