// SPDX-License-Identifier: Apache-2.0

import type { Command } from 'commander';

import { type ConnectionOptions, resolveConnection } from './connection.js';
import { type Io, Output } from './output.js';
import { RestClient } from './rest-client.js';

/** What every verb has at hand. */
export interface Context {
  readonly io: Io;
  readonly output: Output;
  /** Made when it is first needed: not every verb needs a service. */
  readonly client: RestClient;
  readonly globals: GlobalOptions;
}

export interface GlobalOptions extends ConnectionOptions {
  readonly json?: boolean;
}

export function contextOf(program: Command, io: Io): Context {
  const globals = program.opts<GlobalOptions>();
  let client: RestClient | undefined;
  return {
    io,
    globals,
    output: new Output(io, globals.json === true),
    get client() {
      client ??= new RestClient(resolveConnection(globals, io.environment, io.cwd));
      return client;
    },
  };
}

/** Gives a verb's action its context, whatever its arguments are. */
export type Act = <A extends unknown[]>(
  run: (context: Context, ...values: A) => Promise<void>,
) => (...values: A) => Promise<void>;

/** Adds verbs to the program. */
export type AddVerbs = (program: Command, act: Act) => void;
