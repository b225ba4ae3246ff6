// SPDX-License-Identifier: Apache-2.0

import * as fs from 'node:fs';

import { Command, CommanderError } from 'commander';

import { addCatalogVerbs } from './commands/catalog.js';
import { addHistoryVerbs } from './commands/history.js';
import { addProtectionVerbs } from './commands/protection.js';
import { addServiceVerbs } from './commands/service.js';
import { type Act, type AddVerbs, contextOf } from './context.js';
import {
  AnsweredError,
  CliError,
  describeError,
  EXIT_FAILED,
  EXIT_OK,
  EXIT_USAGE,
  ProblemError,
  usageError,
} from './errors.js';
import { clean, type Io } from './output.js';

const VERBS: AddVerbs[] = [addServiceVerbs, addCatalogVerbs, addHistoryVerbs, addProtectionVerbs];

const EXIT_CODES = `
Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 service not reachable.`;

/**
 * Runs one command. Everything it says goes through `io`.
 * @param args what stands behind the program's name
 * @returns the exit code
 */
export async function runCli(args: string[], io: Io): Promise<number> {
  const json = args.includes('--json');
  const program = buildProgram(io, json);
  try {
    await program.parseAsync(args, { from: 'user' });
    return EXIT_OK;
  } catch (error) {
    return report(error, io, json);
  }
}

function buildProgram(io: Io, json: boolean): Command {
  const program = new Command('everpoint')
    .description('Continuous data protection for the disks of virtual machines')
    .version(packageVersion(), '-V, --version')
    .option('--json', 'machines read the output: JSON on standard output, nothing else there')
    .option('--url <url>', 'http://host:port or unix:/path (EVERPOINT_URL)')
    .option(
      '--token-file <file>',
      'EVERPOINT_TOKEN_FILE, EVERPOINT_TOKEN; else <state>/admin.token',
    )
    .option(
      '--state <folder>',
      "the service's state folder (EVERPOINT_STATE; else ./var, or var where everpoint lies)",
    )
    .addHelpText('after', EXIT_CODES);
  const act: Act =
    (run) =>
    (...values) =>
      run(contextOf(program, io), ...values);
  for (const add of VERBS) add(program, act);
  addHelp(program);
  configure(program, io, json);
  return program;
}

/** Every verb, also one below another, throws rather than exits, and writes where we say. */
function configure(command: Command, io: Io, json: boolean): void {
  command.exitOverride().configureOutput({
    writeOut: (text) => io.stdout.write(text),
    // Machines get it as an object, made from what is thrown.
    writeErr: (text) => json || io.stderr.write(text),
    outputError: (text, write) => {
      write(text.replace(/^error:/, 'everpoint:'));
    },
  });
  command.commands.forEach((one) => {
    configure(one, io, json);
  });
}

/** `help group create`: commander's own goes one level deep, and is silent about what is not there. */
function addHelp(command: Command): void {
  const below = [...command.commands];
  if (below.length === 0) return;
  below.forEach(addHelp);
  command.helpCommand(false);
  command
    .command('help')
    .description('how a command is used')
    .argument('[command...]')
    .action((names: string[]) => {
      let found = command;
      for (const name of names) {
        const next = found.commands.find((one) => one.name() === name);
        if (next === undefined) {
          command.error(`error: unknown command '${names.join(' ')}'`);
        }
        found = next;
      }
      found.help();
    });
}

function report(error: unknown, io: Io, json: boolean): number {
  if (error instanceof AnsweredError) return error.exitCode;
  if (error instanceof CommanderError) {
    if (error.exitCode === 0) return EXIT_OK;
    // Commander has said it to people already.
    if (!json) return EXIT_USAGE;
  }
  const known =
    error instanceof CliError
      ? error
      : error instanceof CommanderError
        ? usageFault(error)
        : new CliError(EXIT_FAILED, error instanceof Error ? error.message : String(error));
  if (json) {
    const problem = known instanceof ProblemError ? known.problem : {};
    const details = known.details.length > 0 ? { details: known.details } : {};
    const shown = { ...problem, message: known.message, ...details, hint: known.hint };
    io.stderr.write(`${JSON.stringify({ ...shown, exitCode: known.exitCode })}\n`);
  } else {
    for (const line of describeError(known)) io.stderr.write(`${clean(line)}\n`);
  }
  return known.exitCode;
}

function usageFault({ code, message }: CommanderError): CliError {
  return code === 'commander.help'
    ? usageError('a command is missing', 'everpoint help lists them')
    : usageError(message.replace(/^error: /, '').replaceAll('\n', ' '));
}

function packageVersion(): string {
  const text = fs.readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}
