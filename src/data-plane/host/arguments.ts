// SPDX-License-Identifier: Apache-2.0

import * as path from 'node:path';
import { parseArgs } from 'node:util';

import { REACTORS_MAX } from '../native.js';
import type { NativeFaults } from '../native-types.js';

export interface HostArguments {
  readonly state: string;
  readonly reactors: number;
  readonly logLevel: string;
  readonly log: 'stderr' | 'file';
  /** Test seams; nothing in production. */
  readonly faults: NativeFaults | undefined;
}

/** What was given on the command line cannot be used. */
export class UsageError extends Error {}

export const USAGE = `usage: everpoint-dataplane [--state FOLDER] [--reactors N]
                           [--log stderr|file] [--log-level LEVEL]

Runs the data plane of a state folder (EVERPOINT_STATE, else ./var) until SIGTERM or SIGINT.
--reactors   threads that groups are spread over (EVERPOINT_REACTORS, else 1)
--log        file: <state>/dataplane.log
--log-level  trace, debug, info, warn, error or fatal (EVERPOINT_LOG_LEVEL, else info)
`;

const LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'];

/** @throws UsageError */
export function readArguments(args: string[], environment: NodeJS.ProcessEnv): HostArguments {
  let values: Partial<Record<'state' | 'reactors' | 'log' | 'log-level', string>>;
  try {
    const text = { type: 'string' } as const;
    const options = { state: text, reactors: text, log: text, 'log-level': text };
    values = parseArgs({ args, options, strict: true, allowPositionals: false }).values;
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
  const log = values.log ?? 'stderr';
  if (log !== 'stderr' && log !== 'file') throw new UsageError('--log is stderr or file');
  const logLevel = values['log-level'] ?? (environment['EVERPOINT_LOG_LEVEL'] || 'info');
  if (!LEVELS.includes(logLevel)) throw new UsageError(`log level: one of ${LEVELS.join(', ')}`);
  const reactors = values.reactors ?? (environment['EVERPOINT_REACTORS'] || '1');
  if (!/^\d{1,2}$/.test(reactors) || Number(reactors) < 1 || Number(reactors) > REACTORS_MAX) {
    throw new UsageError(`reactors: 1 to ${REACTORS_MAX}`);
  }
  return {
    state: path.resolve(values.state ?? (environment['EVERPOINT_STATE'] || './var')),
    reactors: Number(reactors),
    logLevel,
    log,
    faults: readFaults(environment),
  };
}

/**
 * EVERPOINT_TEST_PRIMARY_DELAY_US=min,max,seed and EVERPOINT_TEST_RESUBMIT=off, for tests alone;
 * a value that is not understood is refused, or a test would pass that tests nothing.
 */
function readFaults(environment: NodeJS.ProcessEnv): NativeFaults | undefined {
  const faults: NativeFaults = {};
  const delay = environment['EVERPOINT_TEST_PRIMARY_DELAY_US'];
  if (delay !== undefined && delay !== '') {
    const match = /^(\d{1,8}),(\d{1,8}),(\d{1,10})$/.exec(delay);
    const [min, max, seed] = (match ?? []).slice(1).map(Number);
    if (min === undefined || max === undefined || seed === undefined || min > max) {
      throw new UsageError('EVERPOINT_TEST_PRIMARY_DELAY_US is min,max,seed');
    }
    faults.primaryDelayUs = { min, max, seed };
  }
  const resubmit = environment['EVERPOINT_TEST_RESUBMIT'];
  if (resubmit !== undefined && resubmit !== '') {
    if (resubmit !== 'off' && resubmit !== 'on') {
      throw new UsageError('EVERPOINT_TEST_RESUBMIT is on or off');
    }
    faults.resubmitInFlight = resubmit === 'on';
  }
  return Object.keys(faults).length === 0 ? undefined : faults;
}
