// SPDX-License-Identifier: Apache-2.0

/**
 * The port between the control plane and the data plane (design 3): commands down, events up, plain
 * serialisable values only. Two implementations: `client.ts` speaks JSON-RPC over a unix socket to
 * the `everpoint-dataplane` process; `in-process.ts` calls the addon directly, for tests.
 *
 * LSNs, sizes and counts are numbers; times are decimal strings of nanoseconds since 1970 UTC,
 * because they do not fit a JSON number. Events are hints: whoever acts on one also looks by itself,
 * at start and every few seconds.
 */
export interface DataPlanePort {
  info(): Promise<DataPlaneInfo>;
  listGroups(): Promise<GroupStatus[]>;
  /** NOT_FOUND when the data plane has no such group. */
  groupStatus(group: string): Promise<GroupStatus>;
  /**
   * Stores the definition, creates what is marked `create`, opens the group and its exports; answers
   * when I/O is served. On failure nothing of it is left. ALREADY_EXISTS, NOT_FOUND, BUSY (locked).
   */
  createGroup(definition: GroupDefinition): Promise<GroupStatus>;
  /** Changes what can change while the group runs, durably. */
  updateGroup(group: string, change: GroupChange): Promise<GroupStatus>;
  /**
   * Stops protection until `resumeGroup`, over restarts too: a gap is open, durably, and everything
   * that was in flight has passed to the primary alone, when it answers. A group that is in a gap or
   * in its resync is paused too: its gap goes on, with the reason of the pause. Paused already: no change.
   */
  pauseGroup(group: string): Promise<GroupStatus>;
  /**
   * Ends a pause: answers when the group logs again, `resyncing` or `protected` already. CONFLICT
   * when it is not paused.
   */
  resumeGroup(group: string): Promise<GroupStatus>;
  /** Tries to open a group that failed to open. */
  reopenGroup(group: string): Promise<GroupStatus>;
  /**
   * Closes the group and forgets its definition, log buffer, DRL and group record. Primaries and
   * what lies on the devices stay. BUSY while a front-end is connected, unless `force`.
   */
  deleteGroup(group: string, options: { force?: boolean }): Promise<void>;
  /**
   * Answers when the marker is durable on the secondary. CONFLICT with `hint` unless protected: a
   * marker inside a gap or its resync would name a point that is never offered.
   */
  addMarker(group: string, marker: MarkerRequest): Promise<MarkerResult>;
  /** Makes the log durable through every LSN taken before the call. CONFLICT while nothing is logged. */
  syncLog(group: string): Promise<{ durableLsn: number }>;
  /** syncLog, then seals the active segment; `sealedLsn` is then the last LSN in sealed segments. */
  seal(group: string): Promise<{ sealedLsn: number }>;
  /** Segments with a number above `after`, in order; the active one last, with sealed: false. */
  listSegments(group: string, after: number): Promise<SegmentInfo[]>;
  /** Closes every group cleanly and ends the data plane. */
  shutdown(): Promise<void>;
  /** Returns the function that ends the subscription. */
  onEvent(listener: (event: DataPlaneEvent) => void): () => void;
}

export interface DataPlaneInfo {
  version: string;
  pid: number;
  /** Seconds since the data plane's start. */
  uptimeSeconds: number;
  reactors: number;
  build: { uring: boolean; pmem: boolean; spdk: boolean; sanitizer: string };
  /** What the system did not allow, in words (no registered buffers, no O_DIRECT, …). */
  notes: string[];
}

export type AckMode = 'primary' | 'both';
export type FlushMode = 'primary' | 'both';
export type LogPressureMode = 'throttle' | 'gap';
/**
 * States that the data plane itself knows; the control plane adds the rest of api.md's list.
 * - `gap`: nothing is logged, the guest is served on the primary alone; heals by itself.
 * - `resyncing`: everything is logged again, and what the gap missed is compared and logged.
 * - `paused`: a gap that somebody asked for; it stays until `resumeGroup`.
 */
export type GroupState = 'protected' | 'gap' | 'resyncing' | 'paused' | 'failed';

export interface GroupDefinition {
  /** UUID. */
  id: string;
  name: string;
  ack: AckMode;
  flush: FlushMode;
  onLogPressure: LogPressureMode;
  /** How long a guest's request waits for the log at most, in both modes of onLogPressure. */
  throttleMaxMs: number;
  /** Where segments may go, first is preferred: UUID and root folder of each device. */
  devices: { id: string; path: string }[];
  logBuffer: LogBufferDefinition;
  /** Size of a segment file; default 256 MiB. */
  segmentBytes?: number;
  /** An active segment older than this is sealed; default 60,000. */
  sealAfterMs?: number;
  volumes: VolumeDefinition[];
}

/**
 * `tmpfs` places itself, named by the group's UUID, and survives a crash of the process; `file` (on
 * a fast SSD) and `pmem` survive a power cut and name their file, which is made when it is missing.
 */
export type LogBufferDefinition =
  { kind: 'tmpfs'; bytes?: number } | { kind: 'file' | 'pmem'; path: string; bytes?: number };

export interface VolumeDefinition {
  /** 0 … 63, never used again within a group. */
  number: number;
  name: string;
  blockSize: 512 | 4096;
  primary: {
    kind: 'file' | 'device';
    path: string;
    sizeBytes?: number;
    /** Only at createGroup: make the file, which must not exist, with sizeBytes. */
    create?: boolean;
  };
  exports: ExportDefinition[];
}

export interface ExportDefinition {
  kind: 'vhost-user-blk';
  queues: number;
  /** The socket; its folder is made, 0700. */
  path: string;
  /** Owner of folder and socket; left to the process when absent. */
  uid?: number;
  gid?: number;
}

export interface GroupChange {
  name?: string;
  ack?: AckMode;
  flush?: FlushMode;
  onLogPressure?: LogPressureMode;
  throttleMaxMs?: number;
}

export interface MarkerRequest {
  /** 1 … 255 bytes of UTF-8. */
  label: string;
  /** Nanoseconds since 1970 until which it is kept, 'forever', or absent: as policy has it. */
  keepUntilNs?: string;
}

export interface MarkerResult {
  lsn: number;
  timeNs: string;
}

/** History is good up to `fromLsn` and again after `toLsn`: no point in (fromLsn, toLsn] is offered. */
export interface GapInfo {
  /** Last contiguous durable LSN before the gap: the newest point that is still good. */
  fromLsn: number;
  /** LSN at which its resync ended, 0 while it is open. */
  toLsn: number;
  /** Times of `fromLsn` and `toLsn`; toNs '0' while it is open. */
  fromNs: string;
  toNs: string;
  reason: string;
  healed: boolean;
}

export interface GroupStatus {
  id: string;
  name: string;
  state: GroupState;
  /** Why, in words, unless protected. */
  reason: string;
  definition: GroupDefinition;
  /** Last LSN taken. 0 before the first entry. */
  lsn: number;
  /**
   * Every entry up to this one is durable on the secondary, but for those that a gap covers. It never
   * falls: in a gap it stays, and while resyncing it grows again, inside the gap.
   */
  durableLsn: number;
  /** Last LSN that stands in a sealed segment. */
  sealedLsn: number;
  epoch: number;
  /** Time of entry `lsn`; '0' before the first. */
  lastTimeNs: string;
  /**
   * How much would be lost if the primary were lost now, seconds: the age of the oldest entry that is
   * not durable yet, 0 when all are. From a gap's opening to its healing: the time since `fromNs`.
   */
  rpoSeconds: number;
  /** Bytes of segments written and not freed, preallocation left out. */
  logBytes: number;
  buffer: LogBufferStatus;
  /** Used share of what the log buffer may hold, 0 … 1; waiting begins at 1. */
  logPressure: number;
  /** Why the log cannot be written right now, '' when it can. In a state `protected` too: a buffer
   *  that still has room hides it from the guest. */
  logTrouble: string;
  /** In the order of the definition. */
  devices: DeviceStatus[];
  /** The open gap (toLsn 0, healed false), and those healed since the process started. */
  gaps: GapInfo[];
  /** While resyncing: what of the dirty regions is to be compared, and of how much; else null. */
  resync: { leftBytes: number; totalBytes: number } | null;
  volumes: VolumeStatus[];
  counters: GroupCounters;
}

export interface LogBufferStatus {
  kind: string;
  /** '' when there is none. */
  path: string;
  bytes: number;
  usedBytes: number;
  /** Survives a power cut. */
  durable: boolean;
}

/** One device as the log of one group sees it. */
export interface DeviceStatus {
  /** UUID. */
  id: string;
  /** `failed`: writing or syncing failed, or hangs; `missing`: not there, or another disk is. */
  state: DeviceState;
  /** In words, '' when ok. */
  reason: string;
}

export type DeviceState = 'ok' | 'failed' | 'full' | 'missing';

export interface VolumeStatus {
  number: number;
  name: string;
  sizeBytes: number;
  dirtyRegions: number;
  exports: ExportStatus[];
}

export interface ExportStatus {
  kind: 'vhost-user-blk';
  path: string;
  connected: boolean;
  connections: number;
  requests: number;
  readBytes: number;
  writeBytes: number;
  errors: number;
  malformed: number;
  resubmitted: number;
  inFlight: number;
}

export interface GroupCounters {
  writes: number;
  writeBytes: number;
  reads: number;
  flushes: number;
  discards: number;
  writeZeroes: number;
  markers: number;
  batches: number;
  overlapWaits: number;
  bufferWaits: number;
  primaryErrors: number;
  /** Batches and syncs of the log that failed. */
  logErrors: number;
  /** Times that the log went on in a new segment, on another device or not, after such an error. */
  logMoves: number;
  /** Gaps opened since the process started. */
  gaps: number;
  /** Bytes that a resync has read and found different, so logged. */
  resyncBytes: number;
  /** Milliseconds that guest requests waited for the log, summed over requests. */
  throttledMs: number;
}

export interface SegmentInfo {
  segment: number;
  /** UUID of the device and the file's path below its root. */
  device: string;
  path: string;
  epoch: number;
  firstLsn: number;
  /** For the active segment: the last durable one, firstLsn - 1 when there is none. */
  lastLsn: number;
  firstTimeNs: string;
  lastTimeNs: string;
  entries: number;
  dataBytes: number;
  fileBytes: number;
  sealed: boolean;
}

export type DataPlaneEvent =
  | { kind: 'sealed'; group: string; segment: SegmentInfo }
  | { kind: 'state'; group: string; state: GroupState; reason: string }
  /** Once when it opens (healed false, toLsn 0), and again when it is healed. */
  | { kind: 'gap'; group: string; gap: GapInfo }
  | { kind: 'connected'; group: string; volume: string; connected: boolean }
  /** Only from the client: the data plane went away or came (back). */
  | { kind: 'link'; up: boolean };
