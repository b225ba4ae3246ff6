// SPDX-License-Identifier: Apache-2.0

import { afterAll, describe, expect, it } from 'vitest';

import { sampleGroup, temporaryFolder } from '../../test/support/data-plane/sample.js';
import { checkChange, checkDefinition, checkMarker } from './validate.js';

const temporary = temporaryFolder();
afterAll(() => {
  temporary.remove();
});

type Change = (group: ReturnType<typeof sampleGroup>) => unknown;

describe('checkDefinition', () => {
  it('lets a good one pass unchanged', () => {
    const group = sampleGroup(temporary.folder, 'good');
    expect(checkDefinition(group)).toBe(group);
    for (const kind of ['file', 'pmem'] as const) {
      group.logBuffer = { kind, path: '/srv/buffers/a', bytes: 1 << 24 };
      expect(checkDefinition(group)).toBe(group);
    }
  });

  const volume = (group: ReturnType<typeof sampleGroup>) => group.volumes[0]!;
  const faults: [string, Change][] = [
    ['UUID', (group) => (group.id = '../../etc/passwd')],
    ['name must be', (group) => (group.name = '')],
    ['ack must be one of', (group) => (group.ack = 'never' as 'both')],
    ['throttleMaxMs', (group) => (group.throttleMaxMs = -1)],
    ['segmentBytes', (group) => (group.segmentBytes = 4096)],
    ['devices must be a list', (group) => (group.devices = [])],
    [
      'the devices must differ',
      (group) => group.devices.push({ ...group.devices[0]!, path: '/b' }),
    ],
    ['absolute path', (group) => (group.devices[0]!.path = 'secondary')],
    ['volumes must be a list', (group) => (group.volumes = [])],
    ['numbers of the volumes', (group) => group.volumes.push({ ...volume(group), name: 'b' })],
    ['blockSize', (group) => (volume(group).blockSize = 1024 as 512)],
    ['multiple of 512', (group) => (volume(group).primary.sizeBytes = 1000)],
    ['create needs sizeBytes', (group) => delete volume(group).primary.sizeBytes],
    ['only a file', (group) => (volume(group).primary.kind = 'device')],
    ['NUL', (group) => (volume(group).primary.path = '/a\0b')],
    ['longer than 107', (group) => (volume(group).exports[0]!.path = `/${'a'.repeat(107)}`)],
    ['queues', (group) => (volume(group).exports[0]!.queues = 65)],
    ['throttleMaxMs', (group) => (group.throttleMaxMs = 60_001)],
    ['logBuffer.kind', (group) => (group.logBuffer = { kind: 'disk' as 'tmpfs' })],
    [
      'a buffer of kind file names its file',
      (group) => (group.logBuffer = { kind: 'file' } as unknown as typeof group.logBuffer),
    ],
    [
      'logBuffer.path must be an absolute',
      (group) => (group.logBuffer = { kind: 'pmem', path: 'x' }),
    ],
    [
      'of kind tmpfs places itself',
      (group) => (group.logBuffer = { kind: 'tmpfs', path: '/x' } as typeof group.logBuffer),
    ],
    ['logBuffer.bytes', (group) => (group.logBuffer = { kind: 'tmpfs', bytes: 4096 })],
    ['unknown field "oops"', (group) => Object.assign(volume(group).primary, { oops: 1 })],
  ];
  it.each(faults)('refuses: %s', (text, change) => {
    const group = sampleGroup(temporary.folder, 'bad');
    change(group);
    expect(() => checkDefinition(group)).toThrow(text);
  });

  it.each([undefined, null, 1, 'x', [], {}])('refuses %j', (value) => {
    expect(() => checkDefinition(value)).toThrow();
  });
});

describe('checkChange and checkMarker', () => {
  it('take what may change and nothing else', () => {
    expect(checkChange({ ack: 'both', name: 'b' })).toEqual({ ack: 'both', name: 'b' });
    expect(() => checkChange({ volumes: [] })).toThrow('unknown field');
    expect(() => checkChange({ flush: 'x' })).toThrow('flush');
  });

  it('bound labels by bytes, not characters', () => {
    expect(checkMarker({ label: 'a'.repeat(255) })).toBeTruthy();
    expect(() => checkMarker({ label: 'ä'.repeat(128) })).toThrow('255');
    expect(() => checkMarker({ label: '' })).toThrow('label');
    expect(() => checkMarker({ label: 'a', keepUntilNs: '12x' })).toThrow('keepUntilNs');
    expect(checkMarker({ label: 'a', keepUntilNs: 'forever' })).toBeTruthy();
  });
});
