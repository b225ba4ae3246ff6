#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0

/**
 * `everpoint-dataplane`: the process that guests' disks live in. It is small on purpose: the addon,
 * the definitions it opens, a socket to be asked over. It ends on SIGTERM, SIGINT or a `shutdown`
 * call, cleanly; on a fault of its own it ends at once with a code other than 0, to be started
 * again: guests wait for it, and their requests in flight are taken up by the next one.
 */

import * as fs from 'node:fs';

import pino, { type Logger } from 'pino';

import { ensureFolder, writeFileAtomic } from '../../common/files.js';
import { InProcessDataPlane } from '../in-process.js';
import { openLogFile } from '../log-file.js';
import { addonPath, loadAddon } from '../native.js';
import { controlSocket, logFile, pidFile } from '../paths.js';
import { RpcServer } from '../rpc/server.js';
import { type HostArguments, readArguments, USAGE, UsageError } from './arguments.js';
import { EXIT_FAILED, EXIT_LOCKED, EXIT_OK, EXIT_USAGE } from './exit-codes.js';
import { StateLock, StateLockedError } from './lock.js';

/** How long one that is just ending is waited for. */
const LOCK_WAIT_MS = 1_500;
/** So that the answer to `shutdown` is on its way before its connection ends. */
const LAST_ANSWER_MS = 50;

function makeLogger(options: HostArguments): Logger {
  const fd = options.log === 'file' ? openLogFile(logFile(options.state)) : 2;
  // Written at once: the line that explains an end must be there after it.
  const destination = pino.destination({ fd, sync: true });
  return pino({ level: options.logLevel, base: { pid: process.pid } }, destination);
}

/** Whatever nobody caught is a fault of ours: the state of this process is not to be trusted. */
function dieOnFaults(log: Logger): void {
  const die = (what: string) => (error: unknown) => {
    log.fatal({ err: error }, `${what}: ${error instanceof Error ? error.message : String(error)}`);
    process.exit(EXIT_FAILED);
  };
  process.on('uncaughtException', die('uncaught error'));
  process.on('unhandledRejection', die('unhandled rejection'));
}

async function run(options: HostArguments, log: Logger): Promise<void> {
  const lock = await StateLock.take(options.state, LOCK_WAIT_MS);
  const addon = loadAddon();
  if (options.faults !== undefined) {
    log.warn({ faults: options.faults }, 'TEST SEAMS ARE ON: do not use this on real data');
  }
  const port = new InProcessDataPlane({
    state: options.state,
    addon,
    reactors: options.reactors,
    faults: options.faults,
    log,
  });

  let ending: Promise<void> | undefined;
  const closePort = (why: string): Promise<void> => {
    ending ??= (async () => {
      log.info({ why }, 'closing');
      await port.shutdown();
    })();
    return ending;
  };
  const server = new RpcServer({
    port,
    socketPath: controlSocket(options.state),
    version: addon.version(),
    log,
    onShutdown: async () => {
      await closePort('asked for');
      setTimeout(() => void leave(), LAST_ANSWER_MS);
    },
  });
  const leave = async (): Promise<void> => {
    await server.close();
    fs.rmSync(pidFile(options.state), { force: true });
    log.info({}, 'closed');
    lock.release();
    process.exit(EXIT_OK);
  };
  let signalled = false;
  const onSignal = (name: NodeJS.Signals): void => {
    // Deliveries after the first one change nothing.
    if (signalled) return;
    signalled = true;
    closePort(name).then(leave, (error: unknown) => {
      log.fatal({ err: error }, `closing failed: ${(error as Error).message}`);
      process.exit(EXIT_FAILED);
    });
  };
  process.on('SIGTERM', onSignal);
  process.on('SIGINT', onSignal);

  const { opened } = await port.start();
  await server.listen();
  await writeFileAtomic(pidFile(options.state), `${process.pid}\n`);
  log.info({ addon: addonPath(), ...(await port.info()) }, 'serving');
  await opened;
  log.info({ groups: (await port.listGroups()).length }, 'every group was opened or has failed');
}

async function main(): Promise<void> {
  let options: HostArguments;
  try {
    options = readArguments(process.argv.slice(2), process.env);
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    process.stderr.write(`everpoint-dataplane: ${error.message}\n${USAGE}`);
    process.exit(EXIT_USAGE);
  }
  // A terminal that is closed, or a session that ends, is no reason to leave the guests alone.
  process.on('SIGHUP', () => undefined);
  await ensureFolder(options.state, 0o711);
  const log = makeLogger(options);
  dieOnFaults(log);
  try {
    await run(options, log);
  } catch (error) {
    const locked = error instanceof StateLockedError;
    log.fatal({ err: error }, (error as Error).message);
    process.exit(locked ? EXIT_LOCKED : EXIT_FAILED);
  }
}

await main();
