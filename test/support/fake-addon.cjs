// SPDX-License-Identifier: Apache-2.0
'use strict';

// Stands in for everpoint.node where the processes around it are tested, not the disks: it keeps a
// record per group, makes and "locks" primaries, and misbehaves on request by the group's name:
//   fail-…   opening fails after the primaries were made
//   slow-…   opening takes a second
//   crash-…  a marker ends the process with an error that nobody catches
//   stuck-…  sync never answers
//   gap-…    protection is interrupted: markers, sync and seal are refused as the addon does
//   full-…   sync is BUSY for another reason
// EVERPOINT_FAKE_ADDON=refuse makes the constructor throw.

const fs = require('node:fs');
const path = require('node:path');
const process = require('node:process');
const { setTimeout } = require('node:timers');

function failure(code, message) {
  return Object.assign(new Error(message), { code });
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

class DataPlane {
  #groups = new Map();
  #options;
  #closed = false;

  constructor(options) {
    if (process.env.EVERPOINT_FAKE_ADDON === 'refuse') {
      throw failure('NO_SPACE', 'the fake addon was told to refuse');
    }
    this.#options = options;
  }

  async openGroup(definition, { create }) {
    const folder = path.join(this.#options.stateDir, definition.id);
    const file = path.join(folder, 'record.json');
    if (this.#groups.has(definition.id)) throw failure('ALREADY_EXISTS', 'open already');
    if (definition.name.startsWith('slow-')) await sleep(1000);
    if (!create && !fs.existsSync(file)) {
      throw failure('NOT_FOUND', `no record of group ${definition.id}`);
    }
    for (const { primary } of definition.volumes) {
      if (create && primary.create) {
        const fd = fs.openSync(primary.path, 'wx');
        fs.ftruncateSync(fd, primary.sizeBytes);
        fs.closeSync(fd);
      } else if (!fs.existsSync(primary.path)) {
        throw failure('NOT_FOUND', `primary ${primary.path} is not there`);
      }
    }
    if (definition.name.startsWith('fail-')) throw failure('IO_ERROR', 'told to fail');
    const record = create
      ? { epoch: 1, lsn: definition.volumes.length, clean: true }
      : JSON.parse(fs.readFileSync(file, 'utf8'));
    if (!create) record.epoch += 1;
    fs.mkdirSync(folder, { recursive: true });
    const group = { definition: JSON.parse(JSON.stringify(definition)), record, file };
    this.#groups.set(definition.id, group);
    this.#save(group, false);
    return this.#status(group);
  }

  async closeGroup(id, { forget }) {
    const group = this.#find(id);
    this.#groups.delete(id);
    if (forget) fs.rmSync(path.dirname(group.file), { recursive: true });
    else this.#save(group, true);
  }

  async updateGroup(id, change) {
    const group = this.#find(id);
    // As the addon: what is absent takes its default.
    Object.assign(group.definition, { ack: 'primary', flush: 'both' });
    if (change.throttleMaxMs === 666) throw failure('INVALID_ARGUMENT', 'not this number');
    Object.assign(group.definition, change);
  }

  async pause(id) {
    const group = this.#find(id);
    if (group.definition.name.startsWith('full-'))
      throw failure('NO_SPACE', 'no room for a record');
    group.record.paused = true;
    this.#save(group, false);
    const { lsn } = group.record;
    const times = { fromNs: '1', toNs: '0' };
    this.#options.onEvent({
      kind: 'gap',
      group: id,
      gap: { fromLsn: lsn, toLsn: 0, ...times, reason: 'paused by request', healed: false },
    });
  }

  async resume(id) {
    const group = this.#find(id);
    if (!group.record.paused) throw failure('CONFLICT', 'it is not paused');
    group.record.paused = false;
    this.#save(group, false);
  }

  async status(id) {
    return this.#status(this.#find(id));
  }

  async addMarker(id, marker) {
    const group = this.#find(id);
    this.#refuseInGap(id);
    if (group.definition.name.startsWith('crash-')) {
      setTimeout(() => {
        throw new Error('the fake addon was told to crash');
      }, 1);
      await sleep(60_000);
    }
    group.record.lsn += 1;
    this.#save(group, false);
    this.#options.onEvent({ kind: 'connected', group: id, volume: marker.label, connected: false });
    return { lsn: group.record.lsn, timeNs: `${group.record.lsn}000000000` };
  }

  async syncLog(id) {
    const group = this.#find(id);
    if (group.definition.name.startsWith('stuck-')) await new Promise(() => undefined);
    this.#refuseInGap(id);
    if (group.definition.name.startsWith('full-')) throw failure('BUSY', 'told to be busy');
    return { durableLsn: group.record.lsn };
  }

  async seal(id) {
    this.#refuseInGap(id);
    return { sealedLsn: this.#find(id).record.lsn };
  }

  async listSegments(id) {
    this.#find(id);
    return [];
  }

  notes() {
    return ['fake addon', JSON.stringify(this.#options.faults ?? null)];
  }

  async close() {
    if (this.#closed) throw failure('BUSY', 'closed twice');
    this.#closed = true;
    for (const group of this.#groups.values()) this.#save(group, true);
    this.#groups.clear();
  }

  #find(id) {
    const group = this.#groups.get(id);
    if (group === undefined) throw failure('NOT_FOUND', `group ${id} is not open`);
    return group;
  }

  #refuseInGap(id) {
    const { definition, record } = this.#find(id);
    if (!record.paused && !definition.name.startsWith('gap-')) return;
    throw failure('BUSY', `protection is interrupted after LSN ${record.lsn}: told to`);
  }

  #save(group, clean) {
    group.record.clean = clean;
    fs.writeFileSync(group.file, JSON.stringify(group.record));
  }

  #status({ definition, record }) {
    const counters = [
      ...['writes', 'writeBytes', 'reads', 'flushes', 'discards', 'writeZeroes', 'markers'],
      ...['batches', 'overlapWaits', 'bufferWaits', 'primaryErrors', 'logErrors'],
      ...['logMoves', 'gaps', 'resyncBytes', 'throttledMs'],
    ];
    const zeroes = [
      ...['connections', 'requests', 'readBytes', 'writeBytes', 'errors', 'malformed'],
      ...['resubmitted', 'inFlight'],
    ];
    const inGap = definition.name.startsWith('gap-') ? 'gap' : 'protected';
    const state = record.paused ? 'paused' : inGap;
    return {
      id: definition.id,
      name: definition.name,
      state,
      reason: state === 'protected' ? '' : 'told to',
      definition,
      lsn: record.lsn,
      durableLsn: record.lsn,
      sealedLsn: 0,
      epoch: record.epoch,
      lastTimeNs: '0',
      rpoSeconds: 0,
      logBytes: 0,
      buffer: { kind: 'tmpfs', path: '', bytes: 0, usedBytes: 0, durable: false },
      logPressure: 0,
      logTrouble: '',
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
          connected: definition.name.startsWith('busy-'),
          ...Object.fromEntries(zeroes.map((key) => [key, 0])),
        })),
      })),
      counters: Object.fromEntries(counters.map((key) => [key, 0])),
    };
  }
}

module.exports = {
  version: () => '0.0.0-fake',
  build: () => ({ uring: false, pmem: false, spdk: false, sanitizer: '' }),
  DataPlane,
};
