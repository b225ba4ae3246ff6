// SPDX-License-Identifier: Apache-2.0

/**
 * From overlapping pieces of one region, oldest first, to the extents that are left when the newest
 * wins: a radix sort by start (stable, so that equal starts stay in order of age), then one sweep.
 *
 *   pieces   0: [----)            sweep    [-0-)[--2--)[-1-)
 *            1:    [--------)     pieces that a newer one hides for now wait in a heap, newest on
 *            2:     [-----)       top; with few overlaps it stays empty
 *
 * Comparators, objects and BigInt are kept out of the loops: they cost ten times the work itself.
 */

import { SOURCE_UNKNOWN, type RegionExtents } from './extents.js';

/** Columns of pieces, many regions one behind the other. */
export class Pieces {
  readonly start: Uint32Array;
  readonly end: Uint32Array;
  readonly source: Uint32Array;
  readonly address: Uint32Array;

  constructor(readonly capacity: number) {
    this.start = new Uint32Array(capacity);
    this.end = new Uint32Array(capacity);
    this.source = new Uint32Array(capacity);
    this.address = new Uint32Array(capacity);
  }
}

/** Below this many pieces an insertion sort beats the clearing of counters. */
const INSERTION_MAX = 40;
const LOW_BITS = 10;
const LOW_MASK = (1 << LOW_BITS) - 1;
const HIGH_SIZE = 1 << 10;

/** Scratch memory of sorting and sweeping; one per thread of work, grows to the largest region. */
export class Sweeper {
  private order = new Uint32Array(256);
  private other = new Uint32Array(256);
  private heap = new Uint32Array(256);
  private readonly low = new Uint32Array(1 << LOW_BITS);
  private readonly high = new Uint32Array(HIGH_SIZE);

  /** Pieces [base, base + count) of one region into `out`, which was cleared. */
  run(pieces: Pieces, base: number, count: number, out: RegionExtents): void {
    if (this.order.length < count) {
      const capacity = Math.max(count, this.order.length * 2);
      this.order = new Uint32Array(capacity);
      this.other = new Uint32Array(capacity);
      this.heap = new Uint32Array(capacity);
    }
    if (count <= INSERTION_MAX) this.insertionSort(pieces.start, base, count);
    else this.radixSort(pieces.start, base, count);
    out.reserve(2 * count);
    this.sweep(pieces, count, out);
  }

  private insertionSort(start: Uint32Array, base: number, count: number): void {
    const order = this.order;
    for (let i = 0; i < count; i += 1) {
      const key = start[base + i]!;
      let at = i;
      while (at > 0 && start[order[at - 1]!]! > key) {
        order[at] = order[at - 1]!;
        at -= 1;
      }
      order[at] = base + i;
    }
  }

  private radixSort(start: Uint32Array, base: number, count: number): void {
    const { low, high, other, order } = this;
    low.fill(0);
    high.fill(0);
    for (let i = base; i < base + count; i += 1) {
      const key = start[i]!;
      low[key & LOW_MASK]! += 1;
      high[key >>> LOW_BITS]! += 1;
    }
    toOffsets(low);
    toOffsets(high);
    for (let i = base; i < base + count; i += 1) {
      const digit = start[i]! & LOW_MASK;
      other[low[digit]!] = i;
      low[digit]! += 1;
    }
    for (let k = 0; k < count; k += 1) {
      const i = other[k]!;
      const digit = start[i]! >>> LOW_BITS;
      order[high[digit]!] = i;
      high[digit]! += 1;
    }
  }

  private sweep(pieces: Pieces, count: number, out: RegionExtents): void {
    const { start, end } = pieces;
    const order = this.order;
    const heap = this.heap;
    let waiting = 0;
    let current = -1;
    let currentEnd = 0;
    let position = 0;
    for (let k = 0; k < count; k += 1) {
      const next = order[k]!;
      const from = start[next]!;
      const to = end[next]!;
      while (current >= 0 && currentEnd <= from) {
        emit(pieces, current, position, currentEnd, out);
        position = currentEnd;
        current = -1;
        while (waiting > 0) {
          const top = heap[0]!;
          waiting = heapPop(heap, waiting);
          if (end[top]! > position) {
            current = top;
            currentEnd = end[top]!;
            break;
          }
        }
      }
      if (current < 0) {
        current = next;
        currentEnd = to;
        position = from;
      } else if (next > current) {
        if (position < from) emit(pieces, current, position, from, out);
        if (currentEnd > to) waiting = heapPush(heap, waiting, current);
        current = next;
        currentEnd = to;
        position = from;
      } else if (to > currentEnd) {
        waiting = heapPush(heap, waiting, next);
      }
    }
    while (current >= 0) {
      emit(pieces, current, position, currentEnd, out);
      position = currentEnd;
      current = -1;
      while (waiting > 0) {
        const top = heap[0]!;
        waiting = heapPop(heap, waiting);
        if (end[top]! > position) {
          current = top;
          currentEnd = end[top]!;
          break;
        }
      }
    }
  }
}

function toOffsets(counts: Uint32Array): void {
  let sum = 0;
  for (let i = 0; i < counts.length; i += 1) {
    const here = counts[i]!;
    counts[i] = sum;
    sum += here;
  }
}

function emit(pieces: Pieces, index: number, from: number, to: number, out: RegionExtents): void {
  const source = pieces.source[index]!;
  const shift = source >= SOURCE_UNKNOWN ? 0 : from - pieces.start[index]!;
  out.push(from, to, source, pieces.address[index]! + shift);
}

/** The largest number, which is the newest piece, on top. @returns the new size */
function heapPush(heap: Uint32Array, size: number, value: number): number {
  let at = size;
  while (at > 0) {
    const parent = (at - 1) >> 1;
    if (heap[parent]! >= value) break;
    heap[at] = heap[parent]!;
    at = parent;
  }
  heap[at] = value;
  return size + 1;
}

function heapPop(heap: Uint32Array, size: number): number {
  const last = size - 1;
  const value = heap[last]!;
  let at = 0;
  for (;;) {
    let child = 2 * at + 1;
    if (child >= last) break;
    if (child + 1 < last && heap[child + 1]! > heap[child]!) child += 1;
    if (heap[child]! <= value) break;
    heap[at] = heap[child]!;
    at = child;
  }
  heap[at] = value;
  return last;
}
