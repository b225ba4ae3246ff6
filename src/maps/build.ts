// SPDX-License-Identifier: Apache-2.0

/** Map files from segments and from other maps. Synchronous: for worker threads. */

import { nowNs } from '../common/time.js';
import { MapsError } from './errors.js';
import { geometryAfter, type VolumeGeometry } from './geometry.js';
import { LevelZeroSource } from './level-zero.js';
import type { MapHeader } from './map-format.js';
import { MapFile } from './map-reader.js';
import { writeMap } from './map-writer.js';
import { MergedSource } from './merge.js';
import { SegmentFile, type SegmentLabel } from './segment/reader.js';

export interface BuildLevelZeroRequest {
  readonly segmentPath: string;
  /** false: one that was given up, which has no end of its own; then `lastLsn` says where it ends. */
  readonly sealed?: boolean | undefined;
  /** A part of the segment's entries; all of them without. */
  readonly firstLsn?: number | undefined;
  readonly lastLsn?: number | undefined;
  readonly outPath: string;
  readonly group: string;
  /** The device that the map will lie on. */
  readonly device: string;
  readonly mapId: number;
  readonly previousMap: number;
  readonly expiryClass: number;
  /** The volumes before the first of the entries. */
  readonly geometryBefore: readonly VolumeGeometry[];
}

/** A sealed segment as the manifest records it. */
export interface SegmentSummary {
  readonly group: string;
  readonly device: string;
  readonly segment: number;
  readonly epoch: number;
  readonly sealed: boolean;
  readonly firstLsn: number;
  /** One below firstLsn without entries. */
  readonly lastLsn: number;
  readonly firstTimeNs: bigint;
  readonly lastTimeNs: bigint;
  readonly entries: number;
  readonly dataBytes: number;
  readonly fileBytes: number;
  readonly createdNs: bigint;
  readonly sealedNs: bigint;
  /** A SealReason; 0 while active. */
  readonly reason: number;
}

export interface BuildLevelZeroResult {
  readonly path: string;
  readonly map: MapHeader;
  readonly geometry: readonly VolumeGeometry[];
  readonly labels: readonly SegmentLabel[];
  readonly segment: SegmentSummary;
}

/**
 * Builds the level-0 map of a segment that is written no more, from its tables and labels alone: no guest data is
 * read. @throws CORRUPTION, ALREADY_EXISTS, …
 */
export function buildLevelZeroMap(request: BuildLevelZeroRequest): BuildLevelZeroResult {
  const { sealed = true, lastLsn } = request;
  const durable = sealed || lastLsn === undefined ? {} : { durableLsn: lastLsn };
  const file = SegmentFile.open(request.segmentPath, { expectSealed: sealed, ...durable });
  try {
    if (file.header.group !== request.group) {
      throw new MapsError('INVALID_ARGUMENT', `a segment of group ${file.header.group}`, {
        operation: 'build map',
        file: request.segmentPath,
      });
    }
    const entries = file.readEntries(request.firstLsn, request.lastLsn);
    if (entries.count === 0) {
      throw new MapsError('INVALID_ARGUMENT', 'a map needs at least one entry', {
        operation: 'build map',
        file: request.segmentPath,
      });
    }
    const labels = file.readLabels(entries);
    const geometry = geometryAfter(request.geometryBefore, labels);
    const map = writeMap(
      request.outPath,
      {
        group: request.group,
        device: request.device,
        id: request.mapId,
        level: 0,
        expiryClass: request.expiryClass,
        firstLsn: entries.firstLsn,
        lastLsn: entries.lastLsn,
        firstTimeNs: entries.timeNs[0]!,
        lastTimeNs: entries.timeNs[entries.count - 1]!,
        previous: request.previousMap,
        firstChild: 0,
        createdNs: nowNs(),
      },
      new LevelZeroSource(entries),
      geometry,
    );
    return { path: request.outPath, map, geometry, labels, segment: summarizeSegment(file) };
  } finally {
    file.close();
  }
}

export function summarizeSegment(file: SegmentFile): SegmentSummary {
  const { header, trailer } = file;
  const common = {
    group: header.group,
    device: header.device,
    segment: header.segment,
    epoch: header.epoch,
    sealed: file.sealed,
    firstLsn: file.firstLsn,
    lastLsn: file.lastLsn,
    entries: file.entryCount,
    fileBytes: file.fileBytes,
    createdNs: header.createdNs,
  };
  if (trailer) {
    const { firstTimeNs, lastTimeNs, dataBytes, sealedNs, reason } = trailer;
    return { ...common, firstTimeNs, lastTimeNs, dataBytes, sealedNs, reason };
  }
  const first = file.entryCount > 0 ? file.readEntries(file.firstLsn, file.firstLsn) : undefined;
  const last = file.entryCount > 0 ? file.readEntries(file.lastLsn, file.lastLsn) : undefined;
  return {
    ...common,
    firstTimeNs: first?.timeNs[0] ?? header.createdNs,
    lastTimeNs: last?.timeNs[0] ?? header.createdNs,
    dataBytes: file.payloadBytes,
    sealedNs: 0n,
    reason: 0,
  };
}

export interface MergeMapsRequest {
  /** Oldest first; each starts behind the end of the one before it. */
  readonly inputs: readonly string[];
  readonly outPath: string;
  readonly device: string;
  readonly mapId: number;
}

/**
 * One map with what the inputs add up to, the newest winning [0042]. It points to the map before
 * the first input and to the first input as its first child [0039]. The inputs stay as they are.
 */
export function mergeMaps(request: MergeMapsRequest): MapHeader {
  const maps: MapFile[] = [];
  try {
    for (const input of request.inputs) maps.push(MapFile.open(input));
    const first = maps[0]?.header;
    const last = maps.at(-1);
    if (!first || !last) {
      throw new MapsError('INVALID_ARGUMENT', 'a merge needs at least one map', {
        operation: 'merge maps',
      });
    }
    checkMergeable(maps);
    return writeMap(
      request.outPath,
      {
        group: first.group,
        device: request.device,
        id: request.mapId,
        level: Math.max(...maps.map((map) => map.header.level)) + 1,
        expiryClass: first.expiryClass,
        firstLsn: first.firstLsn,
        lastLsn: last.header.lastLsn,
        firstTimeNs: first.firstTimeNs,
        lastTimeNs: last.header.lastTimeNs,
        previous: first.previous,
        firstChild: first.id,
        createdNs: nowNs(),
      },
      new MergedSource(maps),
      last.geometry,
    );
  } finally {
    for (const map of maps) map.close();
  }
}

function checkMergeable(maps: readonly MapFile[]): void {
  maps.forEach((map, i) => {
    const before = maps[i - 1]?.header;
    if (!before) return;
    const { header } = map;
    const problem =
      header.group !== before.group
        ? 'they belong to different groups'
        : header.expiryClass !== before.expiryClass
          ? 'they expire at different times'
          : header.firstLsn <= before.lastLsn
            ? 'they are not in the order of their LSNs'
            : undefined;
    if (problem === undefined) return;
    throw new MapsError('INVALID_ARGUMENT', `maps cannot be merged: ${problem}`, {
      operation: 'merge maps',
      file: map.path,
    });
  });
}
