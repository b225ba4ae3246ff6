// SPDX-License-Identifier: Apache-2.0

/** What the service answers, as far as the CLI shows it. `--json` passes answers on as they are. */

export interface Info {
  version: string;
  uptimeSeconds: number;
  reactors: number;
  pid: number;
  build: { uring: boolean; pmem: boolean; spdk: boolean; sanitizer: string } | null;
  dataPlane: { state: string; reason?: string; pid: number | null; notes: string[] };
}

export interface Device {
  id: string;
  name: string;
  path: string;
  sizeBytes: number;
  freeBytes: number;
  usedBytes: number;
  state: string;
  reason?: string;
}

export interface Policy {
  id: string;
  name: string;
  keepAll: string;
  grid: { every: string; for: string }[];
  snapshotEvery?: string;
  mergeFanIn?: number;
  pinLimit?: number;
}

export interface Export {
  kind: string;
  queues: number;
  uri: string;
  connected: boolean;
  qemuArgs: string[];
}

export interface Group {
  id: string;
  name: string;
  policy: string;
  ack: string;
  flush: string;
  onLogPressure: string;
  throttleMaxMs: number;
  logBuffer: { kind: string; path?: string; bytes?: number };
  devices: string[];
  state: string;
  reason: string;
  lsn: number;
  durableLsn: number;
  rpoSeconds: number;
  historyFrom: string | null;
  logBytes: number;
  logPressure: number;
  bufferDurable: boolean;
  gap: { fromLsn: number; from: string; reason: string } | null;
  resync: { leftBytes: number; totalBytes: number } | null;
  deviceStates: { name: string; state: string; reason?: string }[];
  volumes: {
    name: string;
    sizeBytes: number;
    primary: { kind: string; path: string };
    exports: Export[];
  }[];
}

export interface Gap {
  fromLsn: number;
  toLsn: number | null;
  from: string;
  to: string | null;
  reason: string;
  healed: boolean;
}

export interface Marker {
  lsn: number;
  time: string;
  label: string;
  keepUntil: string | null;
  pinned: boolean;
}

export interface RecoveryPoint {
  lsn: number;
  time: string;
  kind: string;
  label?: string;
  expiry: string | null;
}

export interface Resolved {
  lsn: number | null;
  time: string | null;
  label?: string;
  reachable: boolean;
  reason?: string;
  nearest?: {
    before: { lsn: number; time: string } | null;
    after: { lsn: number; time: string } | null;
  };
}

export interface Job {
  id: string;
  kind: string;
  state: string;
  group?: string;
  createdAt: string;
  progress: {
    done: number;
    total: number;
    unit: string;
    perSecond: number;
    etaSeconds: number | null;
  };
  error?: { code: string; message: string; hint?: string };
  result?: unknown;
}
