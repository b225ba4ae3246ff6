// SPDX-License-Identifier: Apache-2.0
import type { Generated } from 'kysely';

/**
 * The tables of the catalog. It is a cache: devices and policies are also in the registry file,
 * groups, markers, gaps, segments and maps in the manifests on the devices. Times are nanoseconds
 * since 1970 as text (they pass 2^53) of equal length, so that they sort; JSON columns are text.
 */
export interface CatalogSchema {
  device: DeviceTable;
  policy: PolicyTable;
  protection_group: GroupTable;
  marker: MarkerTable;
  gap: GapTable;
  segment: SegmentTable;
  map: MapTable;
  job: JobTable;
}

export interface DeviceTable {
  /** The UUID in the device's identity file. */
  id: string;
  name: string;
  path: string;
  created_ns: string;
}

export interface PolicyTable {
  id: string;
  name: string;
  /** JSON of {@link PolicySpec}. */
  spec: string;
  created_ns: string;
}

export interface GroupTable {
  id: string;
  name: string;
  policy_id: string;
  /** JSON: the definition as the data plane has it, with what only the control plane knows. */
  definition: string;
  created_ns: string;
}

export interface MarkerTable {
  group_id: string;
  label: string;
  lsn: number;
  time_ns: string;
  /** Nanoseconds, `forever`, or null: as policy has it. */
  keep_until: string | null;
  /** 0 or 1; unpinned markers stay in the log and in the list until they fade. */
  pinned: number;
}

export interface GapTable {
  group_id: string;
  from_lsn: number;
  /** Null while the gap is open, like to_ns. */
  to_lsn: number | null;
  from_ns: string;
  to_ns: string | null;
  reason: string;
  healed: number;
}

export interface SegmentTable {
  group_id: string;
  segment: number;
  device_id: string;
  path: string;
  epoch: number;
  first_lsn: number;
  last_lsn: number;
  first_ns: string;
  last_ns: string;
  entries: number;
  data_bytes: number;
  file_bytes: number;
  sealed_ns: string;
  reason: number;
}

export interface MapTable {
  group_id: string;
  /** Number of the map in its group. */
  id: number;
  level: number;
  expiry_class: number;
  first_lsn: number;
  last_lsn: number;
  first_ns: string;
  last_ns: string;
  device_id: string;
  path: string;
  /** Ids of maps; 0 is none. */
  previous: number;
  first_child: number;
  extents: number;
  data_sectors: number;
  file_bytes: number;
}

export interface JobTable {
  /** Rises; the order of paging. */
  seq: Generated<number>;
  id: string;
  kind: string;
  group_id: string | null;
  state: string;
  /** JSON. */
  params: string;
  progress: string;
  error: string | null;
  result: string | null;
  created_ns: string;
  updated_ns: string;
}

/** A policy as its owner wrote it; stored, and applied once there is a life cycle. */
export interface PolicySpec {
  keepAll: string;
  grid: { every: string; for: string }[];
  snapshotEvery?: string;
  mergeFanIn?: number;
  pinLimit?: number;
}
