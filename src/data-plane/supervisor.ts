// SPDX-License-Identifier: Apache-2.0

import { type ChildProcess, spawn } from 'node:child_process';
import * as fs from 'node:fs';
import * as path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { ensureFolder } from '../common/files.js';
import type { DataPlaneClient } from './client.js';
import { DataPlaneUnavailableError } from './errors.js';
import { EXIT_LOCKED } from './host/exit-codes.js';
import type { DataPlaneLog } from './in-process.js';
import { lastFatal, openLogFile } from './log-file.js';
import { logFile, packageNode, packageRoot, pidFile } from './paths.js';

/** A life shorter than this counts as a quick death. */
const QUICK_DEATH_MS = 3_000;
/** So many quick deaths one after the other are answered at once; then the delay grows. */
const QUICK_DEATHS_FREE = 3;
const BACKOFF_MS_MIN = 1_000;
const BACKOFF_MS_MAX = 30_000;
/** How often a state folder that somebody else holds is looked at again. */
const LOCKED_RETRY_MS = 1_000;
/** A process that dies loses its connections a moment before it is gone. */
const DEATH_WAIT_MS = 1_000;
const STOP_TIMEOUT_MS = 300_000;

export type SupervisorState = 'stopped' | 'starting' | 'running' | 'backoff' | 'stopping';

export interface SupervisorStatus {
  /** Of the data plane; nothing while there is none. */
  readonly pid: number | undefined;
  readonly state: SupervisorState;
  /** Why it is not running, or how its last life ended. */
  readonly reason: string;
  /** How often it was started again after it had died. */
  readonly restarts: number;
  /** Since when the state is what it is. */
  readonly since: Date;
  /** It was running before this process looked for it. */
  readonly adopted: boolean;
}

export interface SupervisorOptions {
  readonly state: string;
  /** Started and ended by its owner; the supervisor only watches its link. */
  readonly client: DataPlaneClient;
  readonly reactors?: number | undefined;
  readonly logLevel?: string | undefined;
  readonly log?: DataPlaneLog | undefined;
  /** Added to this process's environment; for tests (the addon's path, test seams). */
  readonly environment?: Record<string, string | undefined> | undefined;
}

/**
 * Sees to it that one data plane runs for a state folder: finds one that is there, starts one where
 * there is none, and starts it again when it died. The data plane is a process of its own session
 * that outlives this one; who holds the folder's lock is the only truth about which process it is,
 * so two supervisors cannot start two.
 */
export class DataPlaneSupervisor {
  private state: SupervisorState = 'stopped';
  private since = new Date();
  private reason = 'not started yet';
  private restarts = 0;
  private quickDeaths = 0;
  private adopted = false;
  private pid: number | undefined;
  private child: ChildProcess | undefined;
  private upSince: number | undefined;
  private everUp = false;
  private timer: NodeJS.Timeout | undefined;
  private stopping = false;
  private unsubscribe: (() => void) | undefined;

  constructor(private readonly options: SupervisorOptions) {}

  status(): SupervisorStatus {
    const { pid, state, reason, restarts, since, adopted } = this;
    return { pid, state, reason, restarts, since, adopted };
  }

  /**
   * Adopts or starts the data plane. It answers when the data plane is reached, or after
   * `timeoutMs`; either way it goes on watching. @returns whether it is reached
   */
  async start(timeoutMs = 15_000): Promise<boolean> {
    const { client } = this.options;
    await ensureFolder(this.options.state, 0o711);
    this.unsubscribe = client.onEvent((event) => {
      if (event.kind !== 'link') return;
      if (event.up) this.cameUp();
      else this.wentDown();
    });
    client.start();
    this.change('starting', 'looking for a data plane');
    // One that runs answers at once; one that is not there is known by then.
    if (await client.waitUp(200)) {
      if (this.upSince === undefined) this.cameUp();
      return true;
    }
    this.spawnNow();
    return client.waitUp(timeoutMs);
  }

  /** Stops watching, and leaves the data plane running. */
  detach(): void {
    this.stopping = true;
    clearTimeout(this.timer);
    this.unsubscribe?.();
    const main = this.options.client.peer?.pid;
    if (main !== undefined) void this.endSpareChild(main, 0);
    this.change('stopped', 'left running');
  }

  /**
   * Ends the data plane cleanly, also one that was adopted, and waits until its process is gone.
   * @throws DataPlaneUnavailableError when it does not end in time
   */
  async stop(timeoutMs = STOP_TIMEOUT_MS): Promise<void> {
    this.stopping = true;
    clearTimeout(this.timer);
    this.change('stopping', 'ending the data plane');
    const main = this.options.client.peer?.pid ?? recordedPid(this.options.state);
    if (main !== undefined) await this.endSpareChild(main, timeoutMs);
    const pid = main ?? this.child?.pid;
    if (pid !== undefined) await this.end(pid, timeoutMs);
    this.unsubscribe?.();
    this.pid = undefined;
    this.child = undefined;
    this.change('stopped', 'ended');
  }

  /**
   * A child that waits for the folder's lock beside the data plane that holds it: it would become
   * the next one at the moment when that one ends. It has nothing open yet.
   */
  private async endSpareChild(main: number, timeoutMs: number): Promise<void> {
    const spare = this.child?.pid;
    if (spare === undefined || spare === main) return;
    signal(spare, 'SIGTERM');
    for (const deadline = Date.now() + timeoutMs; isAlive(spare) && Date.now() < deadline;) {
      await sleep(20);
    }
  }

  private async end(pid: number, timeoutMs: number): Promise<void> {
    const deadline = Date.now() + timeoutMs;
    const { client } = this.options;
    // The call says "close" and then waits for the end; a link that breaks meanwhile is the end.
    const asked = client.up ? client.shutdown().catch(() => undefined) : undefined;
    if (asked === undefined) signal(pid, 'SIGTERM');
    await Promise.race([asked, sleep(timeoutMs, undefined, { ref: false })]);
    while (isAlive(pid)) {
      if (Date.now() > deadline) {
        const text = `the data plane (pid ${pid}) did not end within ${timeoutMs / 1000} s`;
        throw new DataPlaneUnavailableError('stop data plane', text);
      }
      await sleep(20);
    }
  }

  private change(state: SupervisorState, reason: string): void {
    this.reason = reason;
    if (this.state === state) return;
    this.state = state;
    this.since = new Date();
  }

  private cameUp(): void {
    const pid = this.options.client.peer?.pid;
    this.pid = pid;
    this.upSince = Date.now();
    this.everUp = true;
    this.adopted = this.child?.pid !== pid;
    clearTimeout(this.timer);
    if (this.stopping) return;
    this.change('running', this.adopted ? 'found running' : 'started');
    this.options.log?.info({ pid, adopted: this.adopted }, 'the data plane is reached');
  }

  private wentDown(): void {
    const lifeMs = this.upSince === undefined ? 0 : Date.now() - this.upSince;
    this.upSince = undefined;
    // A child of ours is either the one that ends, and its exit comes and says more, or already the
    // next one.
    if (this.stopping || this.child !== undefined) return;
    const { pid } = this;
    if (pid !== undefined) void this.awaitDeath(pid, lifeMs);
  }

  /** Of an adopted one, which is no child: only its process tells whether it died. */
  private async awaitDeath(pid: number, lifeMs: number): Promise<void> {
    for (const deadline = Date.now() + DEATH_WAIT_MS; isAlive(pid); await sleep(10)) {
      if (this.stopping || this.options.client.up) return;
      if (Date.now() < deadline) continue;
      this.change('starting', `the data plane (pid ${pid}) lives and does not answer`);
      this.later(LOCKED_RETRY_MS);
      return;
    }
    if (this.stopping || this.options.client.up || this.child !== undefined) return;
    this.died(`the data plane (pid ${pid}) went away`, lifeMs < QUICK_DEATH_MS);
  }

  private childEnded(child: ChildProcess, bornAt: number): void {
    if (this.child !== child) return;
    this.child = undefined;
    if (this.stopping) return;
    if (child.exitCode === EXIT_LOCKED) {
      // Another data plane holds the folder: it runs, or it is starting, ending, or not answering.
      if (this.options.client.up) return;
      const why = 'another data plane holds the state folder and does not answer yet';
      this.change('starting', why);
      this.later(LOCKED_RETRY_MS);
      return;
    }
    const how =
      child.signalCode === null ? `with code ${child.exitCode}` : `by ${child.signalCode}`;
    const said = child.exitCode ? lastFatal(logFile(this.options.state), bornAt) : undefined;
    // A kill from outside says nothing about the program.
    const killed = child.signalCode === 'SIGKILL' && this.pid === child.pid;
    const quick = Date.now() - bornAt < QUICK_DEATH_MS && !killed;
    this.died(`the data plane ended ${how}${said === undefined ? '' : `: ${said}`}`, quick);
  }

  private died(reason: string, quick: boolean): void {
    this.pid = undefined;
    this.quickDeaths = quick ? this.quickDeaths + 1 : 0;
    this.options.log?.warn({ quickDeaths: this.quickDeaths }, reason);
    const over = this.quickDeaths - QUICK_DEATHS_FREE;
    if (over <= 0) {
      this.change('starting', reason);
      this.restarts += 1;
      this.spawnNow();
      return;
    }
    const delayMs = Math.min(BACKOFF_MS_MIN * 2 ** (over - 1), BACKOFF_MS_MAX);
    this.change('backoff', `${reason}; it is tried again every ${delayMs / 1000} s`);
    this.restarts += 1;
    this.later(delayMs);
  }

  private later(delayMs: number): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      if (!this.stopping && !this.options.client.up && this.child === undefined) this.spawnNow();
    }, delayMs);
  }

  private spawnNow(): void {
    const { options } = this;
    const bornAt = Date.now();
    const args = [
      path.join(packageRoot(), 'dist', 'data-plane', 'host', 'main.js'),
      ...['--state', path.resolve(options.state), '--log', 'stderr'],
      ...(options.reactors === undefined ? [] : ['--reactors', String(options.reactors)]),
      ...(options.logLevel === undefined ? [] : ['--log-level', options.logLevel]),
    ];
    let log: number | undefined;
    try {
      log = openLogFile(logFile(options.state));
      const child = spawn(packageNode(), args, {
        cwd: '/',
        // Of its own session and without our pipes: it must not end when this process does.
        detached: true,
        stdio: ['ignore', log, log],
        env: childEnvironment(options.environment),
      });
      child.unref();
      this.child = child;
      child.once('error', (error) => {
        if (this.child !== child) return;
        this.child = undefined;
        this.died(`the data plane cannot be started: ${error.message}`, true);
      });
      child.once('exit', () => {
        this.childEnded(child, bornAt);
      });
      options.log?.info({ pid: child.pid, again: this.everUp }, 'the data plane is started');
      options.client.hurry();
    } catch (error) {
      this.died(`the data plane cannot be started: ${(error as Error).message}`, true);
    } finally {
      if (log !== undefined) fs.closeSync(log);
    }
  }
}

/** Ours without what is not the data plane's business: tokens, and options meant for this Node. */
function childEnvironment(added: Record<string, string | undefined> = {}): NodeJS.ProcessEnv {
  const environment: NodeJS.ProcessEnv = {
    ...process.env,
    // Calls of the addon block a thread of this pool each, some until a secondary answers; Node reads
    // the size before any script of its own could set it.
    UV_THREADPOOL_SIZE: '32',
    ...added,
  };
  for (const key of Object.keys(environment)) {
    if (/^EVERPOINT_TOKEN/.test(key) || key === 'NODE_OPTIONS') delete environment[key];
  }
  return environment;
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // It is gone already, which is what was wanted.
  }
}

/**
 * The data plane that the pid file names, when that is one: for the moments in which one runs and
 * the link to it is down. A number that some other process has by now does not count.
 */
function recordedPid(state: string): number | undefined {
  try {
    const pid = Number(fs.readFileSync(pidFile(state), 'utf8'));
    const words = fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
    const ours = words.some((word) => word.endsWith(path.join('data-plane', 'host', 'main.js')));
    return ours && isAlive(pid) ? pid : undefined;
  } catch {
    return undefined;
  }
}

/** A process that ended and was not waited for yet (a zombie) counts as gone. */
function isAlive(pid: number): boolean {
  try {
    const stat = fs.readFileSync(`/proc/${pid}/stat`, 'latin1');
    return stat.charAt(stat.lastIndexOf(')') + 2) !== 'Z';
  } catch {
    return false;
  }
}
