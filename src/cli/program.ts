// SPDX-License-Identifier: Apache-2.0

import * as fs from 'node:fs';

import { Command, CommanderError } from 'commander';

import { addCatalogVerbs } from './commands/catalog.js';
import { addHistoryVerbs } from './commands/history.js';
import { addServiceVerbs } from './commands/service.js';
import { type Act, type AddVerbs, contextOf } from './context.js';
import {
  CliError,
  describeError,
  EXIT_FAILED,
  EXIT_OK,
  EXIT_USAGE,
  ProblemError,
} from './errors.js';
import { clean, type Io } from './output.js';

const VERBS: AddVerbs[] = [addServiceVerbs, addCatalogVerbs, addHistoryVerbs];

const EXIT_CODES = `
Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 service not reachable.`;

/**
 * Runs one command. Everything it says goes through `io`.
 * @param args what stands behind the program's name
 * @returns the exit code
 */
export async function runCli(args: string[], io: Io): Promise<number> {
  const program = buildProgram(io);
  try {
    await program.parseAsync(args, { from: 'user' });
    return EXIT_OK;
  } catch (error) {
    return report(error, io, args.includes('--json'));
  }
}

function buildProgram(io: Io): Command {
  const program = new Command('everpoint')
    .description('Continuous data protection for the disks of virtual machines')
    .version(packageVersion(), '-V, --version')
    .option('--json', 'machines read the output: JSON on standard output, nothing else there')
    .option('--url <url>', 'http://host:port or unix:/path (EVERPOINT_URL)')
    .option(
      '--token-file <file>',
      'EVERPOINT_TOKEN_FILE, EVERPOINT_TOKEN; else <state>/admin.token',
    )
    .option('--state <folder>', "the service's state folder (EVERPOINT_STATE, else ./var)")
    .addHelpText('after', EXIT_CODES);
  const act: Act =
    (run) =>
    (...values) =>
      run(contextOf(program, io), ...values);
  for (const add of VERBS) add(program, act);
  configure(program, io);
  return program;
}

/** Every verb, also one below another, throws rather than exits, and writes where we say. */
function configure(command: Command, io: Io): void {
  command.exitOverride().configureOutput({
    writeOut: (text) => io.stdout.write(text),
    writeErr: (text) => io.stderr.write(text),
  });
  command.commands.forEach((one) => {
    configure(one, io);
  });
}

function report(error: unknown, io: Io, json: boolean): number {
  // commander has said it already.
  if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT_OK : EXIT_USAGE;
  const known =
    error instanceof CliError
      ? error
      : new CliError(EXIT_FAILED, error instanceof Error ? error.message : String(error));
  if (json) {
    const problem = known instanceof ProblemError ? known.problem : {};
    const shown = { ...problem, message: known.message, hint: known.hint };
    io.stderr.write(`${JSON.stringify({ ...shown, exitCode: known.exitCode })}\n`);
  } else {
    for (const line of describeError(known)) io.stderr.write(`${clean(line)}\n`);
  }
  return known.exitCode;
}

function packageVersion(): string {
  const text = fs.readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}
