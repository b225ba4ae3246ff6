// SPDX-License-Identifier: Apache-2.0

import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';

import { describe, expect, it } from 'vitest';

import { formatBytes } from './bytes.js';
import { crc32, crc32WithoutField } from './crc.js';
import { formatDuration, parseDuration, tryParseDuration } from './durations.js';
import { deserializeError, EverpointError, serializeError, toEverpointError } from './errors.js';
import {
  appendDurable,
  ensureFolder,
  isTemporary,
  publishFileSync,
  temporaryPath,
  temporaryPrefix,
  writeFileAtomic,
} from './files.js';
import { parseMoment } from './moments.js';
import { formatTime, nowNs, parseTime, tryParseTime } from './time.js';
import { isUuid, uuidFromBytes, uuidToBytes } from './uuid.js';

describe('time', () => {
  it('keeps nanoseconds through text and back', () => {
    for (const ns of [0n, 1n, 1_700_000_000_123_456_789n, -1n, 253_402_300_799_999_999_999n]) {
      expect(parseTime(formatTime(ns))).toBe(ns);
    }
    expect(formatTime(1_700_000_000_000_000_001n)).toBe('2023-11-14T22:13:20.000000001Z');
    expect(formatTime(-1n)).toBe('1969-12-31T23:59:59.999999999Z');
  });

  it('reads offsets and short fractions', () => {
    expect(parseTime('1970-01-01T01:00:00+01:00')).toBe(0n);
    expect(parseTime('1969-12-31t19:30:00.5-04:30')).toBe(500_000_000n);
  });

  it('refuses what is no time', () => {
    for (const text of [
      '2026-02-29T00:00:00Z',
      '2026-13-01T00:00:00Z',
      '2026-01-01T24:00:00Z',
      '2026-01-01T00:00:00',
      '2026-01-01',
      '2026-01-01T00:00:00.1234567890Z',
      '',
    ]) {
      expect(tryParseTime(text), text).toBeUndefined();
    }
    expect(() => parseTime('noon')).toThrow(EverpointError);
  });

  it('has a clock close to the system’s', () => {
    const before = BigInt(Date.now() - 3) * 1_000_000n;
    expect(nowNs()).toBeGreaterThan(before);
    expect(nowNs()).toBeLessThan(before + 10_000_000_000n);
  });
});

describe('durations', () => {
  it('has m for minutes', () => {
    expect(parseDuration('5m')).toBe(300_000_000_000n);
    expect(parseDuration('1h30m')).toBe(parseDuration('90m'));
    expect(parseDuration('1y')).toBe(parseDuration('365d'));
    expect(formatDuration(parseDuration('12w'))).toBe('12w');
    expect(formatDuration(parseDuration('48h'))).toBe('2d');
  });

  it('refuses others', () => {
    for (const text of ['', '5', 'm', '-5m', '5 m', '1.5h', '5M', '9999999y']) {
      expect(tryParseDuration(text), text).toBeUndefined();
    }
  });
});

describe('moments', () => {
  it('reads every form', () => {
    expect(parseMoment('latest')).toEqual({ kind: 'latest' });
    expect(parseMoment('lsn:1234')).toEqual({ kind: 'lsn', lsn: 1234 });
    expect(parseMoment('marker:before: update')).toEqual({
      kind: 'marker',
      label: 'before: update',
    });
    expect(parseMoment('-5m')).toEqual({ kind: 'ago', durationNs: 300_000_000_000n });
    expect(parseMoment('1970-01-01T00:00:00.000000007Z')).toEqual({ kind: 'time', timeNs: 7n });
  });

  it('refuses others', () => {
    for (const text of [
      '',
      'now',
      'lsn:',
      'lsn:-1',
      'lsn:1e3',
      'lsn:9007199254740993',
      'marker:',
      '5m',
      '-',
    ]) {
      expect(() => parseMoment(text), text).toThrow(EverpointError);
    }
  });
});

describe('errors', () => {
  it('survive the way through a port', () => {
    const error = new EverpointError('NO_SPACE', 'full', {
      operation: 'write map',
      file: '/x',
      lsnRange: { first: 1, last: 2 },
      hint: 'make room',
      cause: new Error('ENOSPC'),
    });
    const back = deserializeError(structuredClone(serializeError(error, 'other')));
    expect(back).toBeInstanceOf(EverpointError);
    expect(back).toMatchObject({
      code: 'NO_SPACE',
      file: '/x',
      hint: 'make room',
      retryable: false,
    });
    expect(back.lsnRange).toEqual({ first: 1, last: 2 });
  });

  it('have the code of their errno', () => {
    const code = (errno: string) =>
      toEverpointError(Object.assign(new Error(), { code: errno }), 'x').code;
    expect(['ENOENT', 'EEXIST', 'ENOSPC', 'EIO'].map(code)).toEqual([
      'NOT_FOUND',
      'ALREADY_EXISTS',
      'NO_SPACE',
      'IO_ERROR',
    ]);
  });
});

describe('files', () => {
  it('are written whole, appended to, and never replaced by accident', async () => {
    const root = fs.mkdtempSync(path.join(os.tmpdir(), 'everpoint-files-'));
    try {
      const file = path.join(root, 'a', 'b', 'file');
      await ensureFolder(path.dirname(file));
      await writeFileAtomic(file, 'one');
      await writeFileAtomic(file, 'two');
      await appendDurable(file, ' three');
      expect(fs.readFileSync(file, 'utf8')).toBe('two three');
      const temporary = temporaryPath(file);
      expect(isTemporary(temporary)).toBe(true);
      expect(isTemporary(file)).toBe(false);
      // Broke: of a name that the file system takes, a temporary one was made that it does not.
      const long = ['a'.repeat(230), `${'a'.repeat(251)}.raw`, 'ü'.repeat(127)];
      const names = long.map((name) => path.basename(temporaryPath(path.join(root, name))));
      for (const [index, name] of names.entries()) {
        expect(Buffer.byteLength(name)).toBeLessThanOrEqual(255);
        expect(isTemporary(name)).toBe(true);
        fs.writeFileSync(path.join(root, name), '');
        expect(long.filter((one) => name.startsWith(temporaryPrefix(one)))).toEqual([long[index]]);
        fs.rmSync(path.join(root, name));
      }
      fs.writeFileSync(temporary, 'new');
      expect(() => publishFileSync(temporary, file, false)).toThrow(EverpointError);
      expect(fs.readFileSync(file, 'utf8')).toBe('two three');
      publishFileSync(temporary, file, true);
      expect(fs.readdirSync(path.dirname(file))).toEqual(['file']);
      await expect(appendDurable(path.join(root, 'none'), 'x')).rejects.toMatchObject({
        code: 'NOT_FOUND',
      });
    } finally {
      fs.rmSync(root, { recursive: true });
    }
  });
});

describe('small things', () => {
  it('sums, UUIDs and sizes', () => {
    expect(crc32('123456789')).toBe(0xcbf43926);
    const data = Buffer.from('abcd\0\0\0\0efgh');
    expect(crc32WithoutField(Buffer.from('abcdXXXXefgh'), 4)).toBe(crc32(data));
    const uuid = '11111111-2222-4333-8444-5555555555ff';
    expect(uuidFromBytes(uuidToBytes(uuid))).toBe(uuid);
    expect(isUuid(uuid.toUpperCase())).toBe(false);
    expect(() => uuidToBytes('x')).toThrow(EverpointError);
    expect([0, 1536, 1024 ** 3, 10 * 1024 ** 2].map(formatBytes)).toEqual([
      '0 B',
      '1.50 KiB',
      '1 GiB',
      '10 MiB',
    ]);
  });
});
