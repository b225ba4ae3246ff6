// SPDX-License-Identifier: Apache-2.0
import { formatTime } from '../common/time.js';
import type { GapRecord, ManifestRecord, ManifestState } from '../maps/manifest-records.js';
import { type GapPayload, GeometryAction, KEEP_FOREVER } from '../maps/segment/format.js';
import type { SegmentLabel } from '../maps/segment/reader.js';
import { recordOfEntry } from './gaps.js';

/**
 * Markers, geometry and gaps of a stretch of log as records for the manifest. Markers that it knows
 * are left out: they came in when they were made, and may have been unpinned since.
 */
export function recordsOfLabels(
  state: ManifestState,
  labels: readonly SegmentLabel[],
): ManifestRecord[] {
  const records: ManifestRecord[] = [];
  for (const label of labels) {
    if (label.kind === 'marker') {
      if (state.markers.has(label.marker.label)) continue;
      records.push({
        kind: 'marker',
        label: label.marker.label,
        lsn: label.lsn,
        time: formatTime(label.timeNs),
        keepUntil: keepUntil(label.marker.keepUntilNs),
      });
    } else if (label.kind === 'gap') {
      // Later ones of the same gap stand later: the manifest takes the last.
      if (!state.gaps.some((gap) => tellsMore(gap, label.gap)))
        records.push(recordOfEntry(label.gap));
    } else {
      const { action, name, sizeBytes, blockBytes } = label.geometry;
      records.push({
        kind: 'volume',
        lsn: label.lsn,
        volume: label.volume,
        name,
        sizeBytes,
        blockBytes,
        removed: action === GeometryAction.remove,
      });
    }
  }
  return records;
}

/** Whether the manifest has as much of a gap as an entry of the log says, or more. */
function tellsMore(known: GapRecord, gap: GapPayload): boolean {
  return known.fromLsn === gap.fromLsn && (known.healed || gap.toLsn === 0);
}

/** As manifests write it. */
export function keepUntil(ns: bigint): string | null {
  if (ns === 0n) return null;
  return ns === KEEP_FOREVER ? 'forever' : formatTime(ns);
}
