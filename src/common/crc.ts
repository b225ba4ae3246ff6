// SPDX-License-Identifier: Apache-2.0

import { crc32 as zlibCrc32 } from 'node:zlib';

/**
 * The checksum of every file of ours: CRC-32 as gzip has it. `seed` is the sum of what came
 * before, so that a long range can be summed in parts.
 */
export function crc32(data: Uint8Array | string, seed = 0): number {
  return zlibCrc32(data, seed);
}

const FOUR_ZEROES = new Uint8Array(4);

/** The sum of a structure whose own checksum field, 4 bytes at `at`, counts as zero. */
export function crc32WithoutField(data: Uint8Array, at: number): number {
  const before = crc32(data.subarray(0, at));
  return crc32(data.subarray(at + 4), crc32(FOUR_ZEROES, before));
}
