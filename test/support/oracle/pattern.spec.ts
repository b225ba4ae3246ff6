// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';

import { fillRequest, readStamp, SECTOR_BYTES, sectorMatches } from './pattern.js';

function sectorOf(seed: number, id: number, sector: number): Uint8Array {
  const out = new Uint8Array(SECTOR_BYTES);
  fillRequest(out, seed, id, sector);
  return out;
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}

describe('the pattern of the random workload', () => {
  // The same vectors are in front-end/pattern_test.cc: both sides must agree on them.
  it('equals the golden vectors', () => {
    const data = sectorOf(7, 42, 3);
    expect(hex(data.subarray(0, 64))).toBe(
      '2a0000000300d1e507000000cf0f120afe52b0ed3e698bc6179acb4067c5bde3' +
        'f0d6b8064fdd21a4ea4eca3dd1c70ff90e23c6ad66c3279abc987cd4f1f50c35',
    );
    expect(hex(data.subarray(480))).toBe(
      '5120906b507ab99ceba594ac49ecc6cc9bb081be86922cfdde49e6efeb9e7467',
    );
    expect(hex(sectorOf(4294967295, 4000000000, 2047).subarray(480))).toBe(
      'b73f9ebc0e797a8a0ddd2b8d49759c0fee05ade91b1f3342f490168adfb157db',
    );
  });

  it('says in each sector which request wrote it', () => {
    const data = new Uint8Array(4 * SECTOR_BYTES);
    fillRequest(data, 9, 4000000000);
    const view = new DataView(data.buffer);
    expect(readStamp(view, 2 * SECTOR_BYTES)).toEqual({ id: 4000000000, sector: 2, seed: 9 });
    expect(sectorMatches(view, 2 * SECTOR_BYTES, 9, 4000000000, 2)).toBe(true);
    expect(sectorMatches(view, 2 * SECTOR_BYTES, 9, 4000000000, 1)).toBe(false);
    expect(sectorMatches(view, 2 * SECTOR_BYTES, 8, 4000000000, 2)).toBe(false);
    data[3 * SECTOR_BYTES - 1]! ^= 1;
    expect(sectorMatches(view, 2 * SECTOR_BYTES, 9, 4000000000, 2)).toBe(false);
    expect(readStamp(new DataView(new ArrayBuffer(SECTOR_BYTES)), 0)).toBeUndefined();
  });
});
