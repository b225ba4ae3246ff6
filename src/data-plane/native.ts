// SPDX-License-Identifier: Apache-2.0

import { createRequire } from 'node:module';
import * as path from 'node:path';

import { EverpointError } from '../common/errors.js';
import { AddonError, fromNative } from './errors.js';
import type { NativeAddon, NativeDataPlane, NativeDataPlaneOptions } from './native-types.js';
import { packageRoot } from './paths.js';

/** The methods of a `NativeDataPlane`; a test compares them with what the addon has. */
export const NATIVE_METHODS = [
  'openGroup',
  'closeGroup',
  'updateGroup',
  'pause',
  'resume',
  'status',
  'addMarker',
  'syncLog',
  'seal',
  'listSegments',
  'notes',
  'close',
] as const satisfies readonly (keyof NativeDataPlane)[];

/** Fails to compile when `NativeDataPlane` has a method that the list above has not. */
type Missing = Exclude<keyof NativeDataPlane, (typeof NATIVE_METHODS)[number]>;
const NOTHING_MISSING: [Missing] extends [never] ? true : never = true;

export const REACTORS_MAX = 64;

/** Where the addon is: the release build, or what EVERPOINT_ADDON says (a sanitizer build). */
export function addonPath(environment: NodeJS.ProcessEnv = process.env): string {
  const given = environment['EVERPOINT_ADDON'];
  return given === undefined || given === ''
    ? path.join(packageRoot(), 'build', 'release', 'everpoint.node')
    : path.resolve(given);
}

/** Loads the addon and checks its shape. @throws AddonError with what to do about it */
export function loadAddon(file: string = addonPath()): NativeAddon {
  const require = createRequire(import.meta.url);
  let loaded: unknown;
  try {
    loaded = require(file);
  } catch (error) {
    throw new AddonError('IO_ERROR', `cannot load the addon: ${(error as Error).message}`, {
      operation: 'load addon',
      file,
      cause: error,
      hint: 'run deploy/setup, which builds it',
    });
  }
  const missing = missingExports(loaded);
  if (missing.length > 0) {
    throw new AddonError('UNSUPPORTED', `${file} lacks ${missing.join(', ')}`, {
      operation: 'load addon',
      file,
      hint: 'it was built from other sources: run deploy/setup',
    });
  }
  return loaded as NativeAddon;
}

function missingExports(loaded: unknown): string[] {
  const addon = (loaded ?? {}) as Record<string, unknown>;
  const missing = ['version', 'build', 'DataPlane'].filter((name) => !isFunction(addon[name]));
  if (missing.length > 0) return missing;
  const prototype = (addon['DataPlane'] as { prototype: Record<string, unknown> }).prototype;
  return NATIVE_METHODS.filter((name) => NOTHING_MISSING && !isFunction(prototype[name])).map(
    (name) => `DataPlane.${name}`,
  );
}

function isFunction(value: unknown): boolean {
  return typeof value === 'function';
}

/** Makes a data plane; every error that leaves it is one of ours. */
export function openNative(addon: NativeAddon, options: NativeDataPlaneOptions): NativeDataPlane {
  if (!path.isAbsolute(options.stateDir)) {
    throw invalid(`the state folder ${options.stateDir} is not absolute`);
  }
  if (
    !Number.isInteger(options.reactors) ||
    options.reactors < 1 ||
    options.reactors > REACTORS_MAX
  ) {
    throw invalid(`reactors must be 1 to ${REACTORS_MAX}, not ${options.reactors}`);
  }
  let native: NativeDataPlane;
  try {
    native = new addon.DataPlane(options);
  } catch (error) {
    throw fromNative(error, 'start data plane');
  }
  return guarded(native);
}

function invalid(message: string): EverpointError {
  return new EverpointError('INVALID_ARGUMENT', message, { operation: 'start data plane' });
}

/** Calls may also throw at once (bad arguments): both ways end in a rejection of our kind. */
async function call<T>(operation: string, run: () => T | Promise<T>): Promise<T> {
  try {
    return await run();
  } catch (error) {
    throw fromNative(error, operation);
  }
}

function guarded(native: NativeDataPlane): NativeDataPlane {
  return {
    openGroup: (definition, options) =>
      call('open group', () => native.openGroup(definition, options)),
    closeGroup: (group, options) => call('close group', () => native.closeGroup(group, options)),
    updateGroup: (group, change) => call('change group', () => native.updateGroup(group, change)),
    pause: (group) => call('pause group', () => native.pause(group)),
    resume: (group) => call('resume group', () => native.resume(group)),
    status: (group) => call('read group state', () => native.status(group)),
    addMarker: (group, marker) => call('add marker', () => native.addMarker(group, marker)),
    syncLog: (group) => call('sync log', () => native.syncLog(group)),
    seal: (group) => call('seal segment', () => native.seal(group)),
    listSegments: (group, after) => call('list segments', () => native.listSegments(group, after)),
    notes: () => native.notes(),
    close: () => call('close data plane', () => native.close()),
  };
}
