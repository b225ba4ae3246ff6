// SPDX-License-Identifier: Apache-2.0

/**
 * Every bound of the TypeScript side in one place, with the relations between them checked below.
 * What the data plane also bounds (`native/base/limits.h`) has the same value here.
 */

export const SECTOR_BYTES = 512;
export const PAGE_BYTES = 4096;

/** A region is the unit in which maps are built, merged and read: 256 MiB, or 2^19 sectors. */
export const REGION_SECTORS_SHIFT = 19;
export const REGION_SECTORS = 1 << REGION_SECTORS_SHIFT;
export const REGION_BYTES = REGION_SECTORS * SECTOR_BYTES;

/** 1 PiB. Larger ranges in a file are damage, larger volumes are refused. */
export const VOLUME_BYTES_MAX = 2 ** 50;
export const VOLUME_SECTORS_MAX = VOLUME_BYTES_MAX / SECTOR_BYTES;
export const REGIONS_PER_VOLUME_MAX = VOLUME_SECTORS_MAX / REGION_SECTORS;
export const VOLUMES_PER_GROUP_MAX = 64;
export const VOLUME_NUMBER_MAX = 0xffff;
export const DEVICES_PER_GROUP_MAX = 16;

/**
 * How long a guest's request may wait for the log before a gap opens. Linux gives a request up after
 * 30 s: what waits longer is a disk that failed, so the default stays far below and the bound is what
 * an operator may ask for at most.
 */
export const THROTTLE_MS_DEFAULT = 5_000;
export const THROTTLE_MS_MAX = 60_000;
const GUEST_TIMEOUT_MS = 30_000;

export const LOG_BUFFER_BYTES_MIN = 16 * 1024 * 1024;
export const LOG_BUFFER_BYTES_MAX = 16 * 1024 * 1024 * 1024;

export const MARKER_LABEL_BYTES_MAX = 255;
export const VOLUME_NAME_BYTES_MAX = 64;

export const SEGMENT_BYTES_MAX = 1024 * 1024 * 1024;
export const SEGMENT_ENTRIES_MAX = 1 << 22;
export const BATCH_ENTRIES_MAX = 4096;
/** A batch of the largest table and the largest payloads stays far below this. */
export const BATCH_BYTES_MAX = 64 * 1024 * 1024;
export const ENTRY_DATA_BYTES_MAX = 4 * 1024 * 1024;
/** Small neighbouring batch tables are read together up to this many bytes. */
export const TABLE_READ_BYTES_MAX = 256 * 1024;

/** A map block is closed when it has reached this size. */
export const MAP_BLOCK_BYTES_TARGET = 32 * 1024;
/** No block of a good file is larger. */
export const MAP_BLOCK_BYTES_MAX = 64 * 1024;
/** Sections of a map (segment table, index, bitmap, geometry) are read whole, so they are bounded. */
export const MAP_SECTION_BYTES_MAX = 512 * 1024 * 1024;
export const MAP_SEGMENTS_MAX = 1 << 24;
/** Secondary addresses are sectors in a segment file, kept below 2^31 so that deltas fit 32 bits. */
export const ADDRESS_MAX = 2 ** 31 - 1;

/** Pieces (16 bytes each) that building a map holds at once; more are taken in several rounds. */
export const BUILD_PIECES_MAX = 1 << 23;
/** Up to this many sources are merged two by two; more are put together and built anew. */
export const MERGE_PAIRWISE_SOURCES_MAX = 4;

/** Output that a restore gathers before it reads, sorted by place in the log. */
export const RESTORE_WINDOW_BYTES = 32 * 1024 * 1024;
/** Extents in one window: their number is packed beside a sector address below 2^53. */
export const RESTORE_WINDOW_EXTENTS_MAX = 1 << 16;
/** One read of neighbouring log entries. */
export const RESTORE_READ_BYTES_MAX = 4 * 1024 * 1024;
/** Unneeded bytes between two wanted entries that are read along rather than seeked over. */
export const RESTORE_READ_HOLE_BYTES_MAX = 16 * 1024;
/** Verified entries that were not used up, kept for their neighbours. */
export const PAYLOAD_CACHE_BYTES = 64 * 1024 * 1024;
/** Batch tables kept while payloads are looked up. */
export const TABLE_CACHE_BYTES = 64 * 1024 * 1024;
/** Segment files held open while payloads are read. */
export const OPEN_SEGMENTS_MAX = 64;

export const MANIFEST_LINE_BYTES_MAX = 16 * 1024 * 1024;
export const MANIFEST_BYTES_MAX = 1024 * 1024 * 1024;

export const WORKER_THREADS_DEFAULT = 2;
export const WORKER_QUEUE_MAX = 10_000;

function check(relation: boolean, text: string): void {
  if (!relation) throw new Error(`limits.ts: ${text}`);
}
check(2 * THROTTLE_MS_DEFAULT < GUEST_TIMEOUT_MS, 'a flush that waits twice does not time out');
check(MAP_BLOCK_BYTES_TARGET * 2 <= MAP_BLOCK_BYTES_MAX, 'a block may pass its target');
check(BUILD_PIECES_MAX >= SEGMENT_ENTRIES_MAX, 'one region of one segment fits one round');
check(ENTRY_DATA_BYTES_MAX <= RESTORE_READ_BYTES_MAX, 'one entry fits one read');
check(RESTORE_READ_BYTES_MAX <= RESTORE_WINDOW_BYTES, 'one read fits a window');
check((ADDRESS_MAX + 1) * RESTORE_WINDOW_EXTENTS_MAX <= 2 ** 53, 'packed sort keys are exact');
