// SPDX-License-Identifier: Apache-2.0

import { GeometryAction } from './segment/format.js';
import type { SegmentLabel } from './segment/reader.js';

/** A volume as it is at one LSN. */
export interface VolumeGeometry {
  readonly volume: number;
  readonly name: string;
  readonly sizeBytes: number;
  readonly blockBytes: number;
}

/**
 * The volumes after the geometry entries among `labels`, which are in LSN order. Adding a volume
 * that is there already states it anew (an epoch may repeat what it starts with).
 */
export function geometryAfter(
  before: readonly VolumeGeometry[],
  labels: readonly SegmentLabel[],
): VolumeGeometry[] {
  const volumes = new Map(before.map((volume) => [volume.volume, volume]));
  for (const label of labels) {
    if (label.kind !== 'geometry') continue;
    const { action, name, sizeBytes, blockBytes } = label.geometry;
    if (action === GeometryAction.remove) volumes.delete(label.volume);
    else volumes.set(label.volume, { volume: label.volume, name, sizeBytes, blockBytes });
  }
  return [...volumes.values()].sort((a, b) => a.volume - b.volume);
}
