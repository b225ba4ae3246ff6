// SPDX-License-Identifier: Apache-2.0

import type { DataPlanePort } from '../port.js';

/**
 * How the port travels: JSON-RPC 2.0 with one method per method of the port, its arguments as one
 * object, and the notification `event` for what goes up. An error's `data` is a SerializedError.
 */

/** Both sides name it in `hello`; they do not talk when it differs. */
export const PROTOCOL_VERSION = 2;

export interface HelloAnswer {
  protocol: number;
  version: string;
  pid: number;
}

export const HELLO = 'hello';
export const EVENT = 'event';
/** The code of every error of ours; what it means is in its data. */
export const EVERPOINT_ERROR = 1;

export type PortMethod = Exclude<keyof DataPlanePort, 'onEvent'>;

/** Seconds that a caller waits at most: opening may wait for locks and read a whole log. */
export const TIMEOUT_SECONDS: Record<PortMethod, number> = {
  info: 10,
  listGroups: 20,
  groupStatus: 10,
  createGroup: 120,
  updateGroup: 30,
  // A pause lets what is in flight end, and a resume opens the log as at a start.
  pauseGroup: 120,
  resumeGroup: 120,
  reopenGroup: 120,
  deleteGroup: 120,
  addMarker: 60,
  syncLog: 60,
  seal: 60,
  listSegments: 30,
  shutdown: 300,
};
