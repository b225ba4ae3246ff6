// SPDX-License-Identifier: Apache-2.0

/** Segments that the data plane wrote are read here and written again, byte for byte. */

import * as fs from 'node:fs';
import { fileURLToPath } from 'node:url';

import { describe, expect, it } from 'vitest';

import { SegmentFile } from '../../src/maps/segment/reader.js';
import { decodeSegment, encodeSegment } from '../support/segment-writer.js';

const folder = fileURLToPath(new URL('.', import.meta.url));
const names = fs.readdirSync(folder).filter((name) => /^(segment|gap)-.*\.eplog$/.test(name));

describe.runIf(names.length > 0)('golden segments', () => {
  it.each(names)('%s is read and written again as it is', (name) => {
    const path = `${folder}${name}`;
    const bytes = fs.readFileSync(path);
    const file = SegmentFile.open(path);
    const content = decodeSegment(file);
    file.readLabels(file.readEntries());
    file.close();
    const again = encodeSegment(content);
    // An active segment ends in what was allocated ahead.
    const whole = content.seal ? bytes : bytes.subarray(0, again.length);
    expect(again.equals(whole)).toBe(true);
    expect(content.batches.length).toBeGreaterThan(0);
  });
});
