// SPDX-License-Identifier: Apache-2.0

import type {
  DataPlaneEvent,
  GroupChange,
  GroupDefinition,
  GroupStatus,
  MarkerRequest,
  MarkerResult,
  SegmentInfo,
} from './port.js';

/**
 * What `everpoint.node` exports. `native.ts` is the one file that loads it; a test checks this
 * declaration against what is really there. Every promise rejects with an Error whose `code` is one
 * of the codes of src/common/errors. All calls are made from one JavaScript thread.
 */
export interface NativeAddon {
  version(): string;
  build(): { uring: boolean; pmem: boolean; spdk: boolean; sanitizer: string };
  DataPlane: new (options: NativeDataPlaneOptions) => NativeDataPlane;
}

export interface NativeDataPlaneOptions {
  /** Folder for DRLs and group records: one folder per group UUID below it. */
  stateDir: string;
  /** Threads; groups are spread over them. */
  reactors: number;
  /** Called on the JavaScript thread. */
  onEvent: (event: DataPlaneEvent) => void;
  /** Test seams; absent in production. */
  faults?: NativeFaults;
}

/** Decorators between splitter and primary, and switches that tests use to prove that they bite. */
export interface NativeFaults {
  /** Completions of the primary are delayed at random within these bounds, so out of order. */
  primaryDelayUs?: { min: number; max: number; seed: number };
  /** false: what a front-end had in flight is not resubmitted. */
  resubmitInFlight?: boolean;
}

export interface NativeDataPlane {
  /**
   * Opens (design 4, "Opening a group") and starts the exports. With `create`, primaries marked
   * `create` are made and a geometry entry is logged for each volume; without, everything must be there.
   */
  openGroup(definition: GroupDefinition, options: { create: boolean }): Promise<GroupStatus>;
  /**
   * Stops exports, drains, seals, closes cleanly. `forget` also removes buffer, DRL and record, and
   * does so for a group that is not open too.
   */
  closeGroup(group: string, options: { forget: boolean }): Promise<void>;
  /** All fields of the change are always given. */
  updateGroup(group: string, change: GroupChange): Promise<void>;
  /** DataPlanePort.pauseGroup: resolves when the gap is durably open and what was in flight is done. */
  pause(group: string): Promise<void>;
  /** DataPlanePort.resumeGroup: resolves when the group logs again. CONFLICT when it is not paused. */
  resume(group: string): Promise<void>;
  status(group: string): Promise<GroupStatus>;
  addMarker(group: string, marker: MarkerRequest): Promise<MarkerResult>;
  syncLog(group: string): Promise<{ durableLsn: number }>;
  seal(group: string): Promise<{ sealedLsn: number }>;
  listSegments(group: string, after: number): Promise<SegmentInfo[]>;
  notes(): string[];
  /** Closes all groups cleanly, stops the reactors. */
  close(): Promise<void>;
}
