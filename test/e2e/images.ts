// SPDX-License-Identifier: Apache-2.0
import { open, stat } from 'node:fs/promises';

const CHUNK_BYTES = 4 << 20;

/** How two disks compare, byte for byte. */
export interface ImageDifference {
  equal: boolean;
  /** Of the longer one. */
  sizeBytes: number;
  /** Null where they are equal; the shorter one's size where one is the beginning of the other. */
  firstDifference: number | null;
}

/** Reads both files to their end, or to the first byte in which they differ. */
export async function compareImages(one: string, other: string): Promise<ImageDifference> {
  await using a = await open(one);
  await using b = await open(other);
  const [sizeA, sizeB] = [(await a.stat()).size, (await b.stat()).size];
  const sizeBytes = Math.max(sizeA, sizeB);
  const common = Math.min(sizeA, sizeB);
  const [bufferA, bufferB] = [Buffer.alloc(CHUNK_BYTES), Buffer.alloc(CHUNK_BYTES)];
  for (let offset = 0; offset < common; offset += CHUNK_BYTES) {
    const length = Math.min(CHUNK_BYTES, common - offset);
    const [readA, readB] = await Promise.all([
      a.read(bufferA, 0, length, offset),
      b.read(bufferB, 0, length, offset),
    ]);
    if (readA.bytesRead !== length || readB.bytesRead !== length) {
      throw new Error(`short read at ${offset} of ${one} or ${other}`);
    }
    const [partA, partB] = [bufferA.subarray(0, length), bufferB.subarray(0, length)];
    if (partA.equals(partB)) continue;
    const at = partA.findIndex((byte, n) => byte !== partB[n]);
    return { equal: false, sizeBytes, firstDifference: offset + at };
  }
  const equal = sizeA === sizeB;
  return { equal, sizeBytes, firstDifference: equal ? null : common };
}

/** Bytes that a sparse file really occupies. */
export async function allocatedBytes(file: string): Promise<number> {
  return (await stat(file)).blocks * 512;
}
