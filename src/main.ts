#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
import 'reflect-metadata';
import { rmSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { setTimeout as sleep } from 'node:timers/promises';
import { Logger } from '@nestjs/common';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import { createApp, takeUpWork } from './app.module.js';
import { ADMIN_TOKEN_FILE } from './auth/token.service.js';
import type { ListenAddress, Settings } from './config/configuration.js';
import { ConfigurationError, describeListen, loadSettings } from './config/load.js';
import { StateFolder, StateFolderBusyError } from './config/state-folder.js';
import { DataPlaneClient } from './data-plane/client.js';
import type { DataPlaneLog } from './data-plane/in-process.js';
import { controlSocket, ensureRunDir } from './data-plane/paths.js';
import { DataPlaneSupervisor } from './data-plane/supervisor.js';
import { greeting } from './info/greeting.js';
import { packageVersion } from './info/info.service.js';
import { WorkerPool } from './workers/pool.js';

const USAGE = `usage: everpoint-service [--config FILE] [--check-config]

Runs the control plane, and with it the data plane, until SIGTERM or SIGINT.
--config        YAML; else /etc/everpoint/everpoint.yaml where it exists. EVERPOINT_… variables win.
--check-config  says what would be used, and ends
`;

/** Something else has the address that the service is to listen on. */
class AddressTakenError extends Error {
  constructor(address: string, reason: string) {
    super(
      `Cannot listen on ${address}: ${reason}. ` +
        'Another service listens there; choose another address (EVERPOINT_LISTEN).',
    );
    this.name = 'AddressTakenError';
  }
}

/** How long the end of the service waits to learn which guests are connected. */
const LAST_LOOK_MS = 1_000;

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
    try {
      await this.starting;
    } catch (error) {
      // When it is being ended anyhow, that is who takes everything back.
      if (!this.ending) await this.takeBack();
      throw error;
    }
  }

  private async start(): Promise<void> {
    const { settings, client, pool } = this;
    ensureRunDir(settings.runDir);
    // Before anything is started that would have to be taken back.
    await refuseTaken(settings.listen);
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
      log: fieldsLog(logger),
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
    process.stdout.write(
      greeting({
        version: packageVersion(),
        url: describeListen(listen),
        docs: listen.kind === 'tcp' ? `${describeListen(listen)}/docs` : '/docs',
        token: path.join(settings.state, ADMIN_TOKEN_FILE),
        state: settings.state,
        cwd: process.cwd(),
      }),
    );
  }

  /** A start that failed leaves no process behind that it has made; a data plane that it found stays. */
  private async takeBack(): Promise<void> {
    const { supervisor } = this;
    const ours = supervisor !== undefined && !supervisor.status().adopted;
    await (ours ? supervisor.stop() : supervisor?.detach());
  }

  /** Guests are not told of the end; their disks stand still until somebody serves them again. */
  private async sayWhoWaits(logger: Logger): Promise<void> {
    if (this.supervisor === undefined || !this.client.up) return;
    const groups = await Promise.race([
      this.client.listGroups().catch(() => []),
      sleep(LAST_LOOK_MS, [], { ref: false }),
    ]);
    const disks = groups
      .flatMap((group) => group.volumes)
      .filter((volume) => volume.exports.some((one) => one.connected)).length;
    if (disks === 0) return;
    const what = disks === 1 ? '1 disk of a guest is' : `${disks} disks of guests are`;
    logger.warn({ disks, msg: `${what} connected: their I/O waits until the service is back` });
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
    await this.sayWhoWaits(logger);
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
  rmSync(address.path, { force: true });
  await app.listen({ path: address.path });
}

/** @throws AddressTakenError */
async function refuseTaken(address: ListenAddress): Promise<void> {
  const where = describeListen(address);
  if (address.kind === 'unix') {
    if (await answers(address.path)) throw new AddressTakenError(where, 'it answers');
    return;
  }
  const probe = createServer();
  await new Promise<void>((resolve, reject) => {
    probe.once('error', (error: NodeJS.ErrnoException) => {
      reject(error.code === 'EADDRINUSE' ? new AddressTakenError(where, error.message) : error);
    });
    probe.listen({ host: address.host, port: address.port }, resolve);
  });
  await new Promise((resolve) => probe.close(resolve));
}

/** Fields as fields of the log line; below a name of their own, as a line has a `pid` already. */
function fieldsLog(logger: Logger): DataPlaneLog {
  return {
    info: (dataPlane, msg) => {
      logger.log({ dataPlane, msg });
    },
    warn: (dataPlane, msg) => {
      logger.warn({ dataPlane, msg });
    },
    error: (dataPlane, msg) => {
      logger.error({ dataPlane, msg });
    },
  };
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
    const known =
      error instanceof ConfigurationError ||
      error instanceof StateFolderBusyError ||
      error instanceof AddressTakenError;
    const { message, stack } = error as Error;
    process.stderr.write(`${known ? message : (stack ?? String(error))}\n`);
    process.exit(1);
  },
);
