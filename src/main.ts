#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
import 'reflect-metadata';
import { rmSync } from 'node:fs';
import { connect } from 'node:net';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { Logger } from '@nestjs/common';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import { createApp, takeUpWork } from './app.module.js';
import { ADMIN_TOKEN_FILE } from './auth/token.service.js';
import type { ListenAddress, Settings } from './config/configuration.js';
import { ConfigurationError, describeListen, loadSettings } from './config/load.js';
import { StateFolder, StateFolderBusyError } from './config/state-folder.js';
import { DataPlaneClient } from './data-plane/client.js';
import { controlSocket, ensureRunDir } from './data-plane/paths.js';
import { DataPlaneSupervisor } from './data-plane/supervisor.js';
import { packageVersion } from './info/info.service.js';
import { WorkerPool } from './workers/pool.js';

const USAGE = `usage: everpoint-service [--config FILE] [--check-config]

Runs the control plane, and with it the data plane, until SIGTERM or SIGINT.
--config        YAML; else /etc/everpoint/everpoint.yaml where it exists. EVERPOINT_… variables win.
--check-config  says what would be used, and ends
`;

/** How long the start waits for the data plane; after that it goes on in the background. */
const DATA_PLANE_WAIT_MS = 10_000;

async function main(): Promise<number | undefined> {
  const { values } = parseArgs({
    options: {
      config: { type: 'string' },
      'check-config': { type: 'boolean' },
      help: { type: 'boolean', short: 'h' },
    },
  });
  if (values.help === true) {
    process.stdout.write(USAGE);
    return 0;
  }
  const settings = loadSettings({
    environment: process.env,
    ...(values.config !== undefined && { file: values.config }),
  });
  if (values['check-config'] === true) {
    process.stdout.write(`${JSON.stringify(settings, null, 2)}\n`);
    return 0;
  }
  await new Service(settings).run();
  return undefined;
}

/** The control plane as a process: everything around the application. */
class Service {
  private readonly state: StateFolder;
  private readonly client: DataPlaneClient;
  private readonly pool: WorkerPool;
  private supervisor: DataPlaneSupervisor | undefined;
  private app: NestFastifyApplication | undefined;
  private starting: Promise<void> | undefined;
  private ending = false;

  constructor(private readonly settings: Settings) {
    this.state = StateFolder.claim(settings.state);
    this.client = new DataPlaneClient({ socketPath: controlSocket(settings.state) });
    this.pool = new WorkerPool({ threads: settings.workers });
  }

  /** Answers when the service listens. */
  async run(): Promise<void> {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      // A handler that stays: the second signal finds `ending` and changes nothing.
      process.on(signal, () => void this.end(signal));
    }
    this.starting = this.start();
    await this.starting;
  }

  private async start(): Promise<void> {
    const { settings, client, pool } = this;
    ensureRunDir(settings.runDir);
    pool.start();
    this.app = await createApp({ settings, port: client, pool });
    await this.reachDataPlane();
    await takeUpWork(this.app);
    await listen(this.app, settings.listen);
    if (!this.ending) this.greet(this.app);
  }

  private async reachDataPlane(): Promise<void> {
    const { settings, client } = this;
    if (settings.dataPlane === 'external') {
      client.start();
      await client.waitUp(DATA_PLANE_WAIT_MS);
      return;
    }
    const logger = new Logger('DataPlane');
    this.supervisor = new DataPlaneSupervisor({
      state: settings.state,
      client,
      reactors: settings.reactors,
      log: {
        info: (fields, text) => {
          logger.log(`${text} ${JSON.stringify(fields)}`);
        },
        warn: (fields, text) => {
          logger.warn(`${text} ${JSON.stringify(fields)}`);
        },
        error: (fields, text) => {
          logger.error(`${text} ${JSON.stringify(fields)}`);
        },
      },
    });
    if (!(await this.supervisor.start(DATA_PLANE_WAIT_MS))) {
      logger.warn('the data plane does not answer yet; groups show it, and it is tried again');
    }
  }

  private greet(app: NestFastifyApplication): void {
    const { settings } = this;
    const address = app.getHttpServer().address() as { port?: number } | string | null;
    const listen =
      settings.listen.kind === 'tcp' && typeof address === 'object' && address?.port !== undefined
        ? { ...settings.listen, port: address.port }
        : settings.listen;
    const token = path.join(settings.state, ADMIN_TOKEN_FILE);
    const url = describeListen(listen);
    process.stdout.write(
      [
        `Everpoint ${packageVersion()} is ready.`,
        `  REST    ${url}  (documentation: ${listen.kind === 'tcp' ? `${url}/docs` : '/docs'})`,
        `  token   ${token}`,
        `  state   ${settings.state}`,
        `  next    everpoint status   or   everpoint protect FILE`,
        '',
      ].join('\n'),
    );
  }

  /** The data plane first, so that guests' disks are closed cleanly while everything else is there. */
  private async end(signal: string): Promise<void> {
    if (this.ending) return;
    this.ending = true;
    const logger = new Logger('Service');
    logger.log(`${signal}: ending`);
    let code = 0;
    const step = async (name: string, work: () => Promise<unknown> | undefined): Promise<void> => {
      try {
        await work();
      } catch (error) {
        code = 1;
        logger.error(`${name}: ${(error as Error).message}`);
      }
    };
    // An end in the middle of a start waits for its current step, not for listening.
    await this.starting?.catch(() => undefined);
    await step('data plane', () => this.supervisor?.stop());
    await step('application', () => this.app?.close());
    await step('link', () => this.client.close());
    await step('workers', () => this.pool.stop());
    this.state.release();
    process.exit(code);
  }
}

async function listen(app: NestFastifyApplication, address: ListenAddress): Promise<void> {
  if (address.kind === 'tcp') {
    await app.listen({ host: address.host, port: address.port });
    return;
  }
  if (await answers(address.path)) {
    throw new Error(`another service listens on ${address.path}`);
  }
  rmSync(address.path, { force: true });
  await app.listen({ path: address.path });
}

/** Whether somebody accepts connections there; a socket that a crash left does not count. */
function answers(socketPath: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(socketPath);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => {
      resolve(false);
    });
  });
}

process.on('unhandledRejection', (reason) => {
  // Ours to repair; one request's fault must not end everybody's service.
  new Logger('Service').error(reason, 'a promise was rejected and nobody looked');
});

main().then(
  (code) => {
    if (code !== undefined) process.exitCode = code;
  },
  (error: unknown) => {
    const known = error instanceof ConfigurationError || error instanceof StateFolderBusyError;
    process.stderr.write(`${known ? error.message : startFault(error)}\n`);
    // The data plane goes on if it was started: guests may be using it already.
    process.exit(1);
  },
);

function startFault(error: unknown): string {
  const { code, message, stack } = error as NodeJS.ErrnoException;
  if (code === 'EADDRINUSE') {
    return `${message}. Another service listens there; choose another address (EVERPOINT_LISTEN).`;
  }
  return stack ?? String(error);
}
