// SPDX-License-Identifier: Apache-2.0

import * as fs from 'node:fs/promises';
import * as path from 'node:path';

import { errnoOf, toEverpointError } from '../../common/errors.js';
import { formatTime } from '../../common/time.js';

/** A segment file as it lies in a group's folder; nothing was read but its name and size. */
export interface SegmentListing {
  readonly segment: number;
  readonly path: string;
  /** Relative to the group's folder: `log/2026-03-01/0000000000000001.eplog`. */
  readonly relativePath: string;
  readonly fileBytes: number;
}

const SEGMENT_NAME = /^([0-9a-f]{16})\.eplog$/;
const DAY_NAME = /^\d{4}-\d{2}-\d{2}$/;

/** The number in a segment's file name; nothing when the name is not one. */
export function parseSegmentName(name: string): number | undefined {
  const match = SEGMENT_NAME.exec(name);
  if (!match?.[1]) return undefined;
  const segment = Number.parseInt(match[1], 16);
  return Number.isSafeInteger(segment) && segment > 0 ? segment : undefined;
}

export function formatNumber16(value: number): string {
  return value.toString(16).padStart(16, '0');
}

/** `log/YYYY-MM-DD/<segment, 16 hex digits>.eplog`, the day in UTC. */
export function segmentRelativePath(segment: number, createdNs: bigint): string {
  return path.join('log', formatTime(createdNs).slice(0, 10), `${formatNumber16(segment)}.eplog`);
}

/** `<device>/groups/<group uuid>` */
export function groupFolder(deviceRoot: string, group: string): string {
  return path.join(deviceRoot, 'groups', group);
}

/** Every segment file in a group's folder on one device, in order of their numbers. */
export async function listSegments(groupFolderPath: string): Promise<SegmentListing[]> {
  const found: SegmentListing[] = [];
  const log = path.join(groupFolderPath, 'log');
  for (const day of await namesIn(log)) {
    if (!DAY_NAME.test(day)) continue;
    for (const name of await namesIn(path.join(log, day))) {
      const segment = parseSegmentName(name);
      if (segment === undefined) continue;
      const file = path.join(log, day, name);
      // A segment may be freed between the listing and this look.
      const stat = await fs.stat(file).catch((error: unknown) => {
        if (errnoOf(error) === 'ENOENT') return undefined;
        throw toEverpointError(error, 'list segments', file);
      });
      if (!stat?.isFile()) continue;
      const relativePath = path.join('log', day, name);
      found.push({ segment, path: file, relativePath, fileBytes: stat.size });
    }
  }
  return found.sort((a, b) => a.segment - b.segment);
}

async function namesIn(folder: string): Promise<string[]> {
  try {
    return await fs.readdir(folder);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return [];
    throw toEverpointError(error, 'list segments', folder);
  }
}
