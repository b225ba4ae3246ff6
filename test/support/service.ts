// SPDX-License-Identifier: Apache-2.0

/**
 * The real service (dist/main.js and the data plane that it starts) on a folder of its own, for
 * tests over REST. Only Node's own modules: scripts that Node runs as they are may use it too.
 */

import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const ROOT = join(import.meta.dirname, '../..');
const NODE = join(ROOT, 'node_modules/.bin/node');
const MAIN = join(ROOT, 'dist/main.js');
const START_TIMEOUT_MS = 60_000;
const STOP_TIMEOUT_MS = 60_000;

/** What tests look at in the answers of api.md; there is more in them. */
export interface GroupBody {
  id: string;
  name: string;
  state: string;
  reason: string;
  lsn: number;
  durableLsn: number;
  volumes: {
    name: string;
    number: number;
    sizeBytes: number;
    exports: { path: string; uri: string; connected: boolean; qemuArgs: string[] }[];
  }[];
}

export interface JobBody {
  id: string;
  state: string;
  progress: { done: number; total: number };
  error?: { code: string; message: string };
  result?: { lsn: number; time: string };
}

export interface SegmentBody {
  id: string;
  segment: number;
  state: 'active' | 'sealed';
  mapped: boolean;
  epoch: number;
  firstLsn: number;
  lastLsn: number;
  entries: number;
  file: string;
  device: string;
}

export interface MarkerBody {
  label: string;
  lsn: number;
  time: string;
}

export interface InfoBody {
  pid: number;
  dataPlane: { state: string; pid: number };
}

interface DeviceBody {
  id: string;
  path: string;
}

/** A group that was made here. */
export interface MadeGroup {
  group: GroupBody;
  /** vhost-user sockets and primaries in the order of the volumes. */
  sockets: string[];
  primaries: string[];
}

export interface Answer {
  status: number;
  text: string;
  /** Parsed where it is JSON. */
  body: unknown;
}

export interface ServiceOptions {
  /** Where everything lies; default: a new folder that `stop` removes. */
  folder?: string;
  /** Added to the environment: EVERPOINT_…, test seams of the data plane. */
  environment?: Record<string, string>;
}

/** Whether a process runs; one that ended and was not waited for yet does not. */
export function isAlive(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return stat.charAt(stat.lastIndexOf(')') + 2) !== 'Z';
  } catch {
    return false;
  }
}

/** Asks again and again until the answer is neither undefined nor false. */
export async function until<T>(
  what: string,
  look: () => T | undefined | false | Promise<T | undefined | false>,
  timeoutMs = 20_000,
  everyMs = 10,
): Promise<T> {
  for (const deadline = Date.now() + timeoutMs; ;) {
    const found = await look();
    if (found !== undefined && found !== false) return found;
    if (Date.now() > deadline) throw new Error(`not within ${timeoutMs} ms: ${what}`);
    await sleep(everyMs);
  }
}

/** One service. Its state outlives its processes: `start` may follow `killControlPlane` or `end`. */
export class Service {
  /** `state`, primaries and whatever a test puts there; restores may go anywhere below. */
  readonly folder: string;
  readonly state: string;
  readonly socket: string;
  #environment: Record<string, string>;
  #child: ChildProcess | undefined;
  #output = '';
  #ownFolder: boolean;
  #token = '';
  /** A test runner that ends before its clean-up leaves nothing behind. */
  #onExit = (): void => {
    for (const pid of [this.#child?.pid, this.#pidFromFile()]) {
      if (pid !== undefined && isAlive(pid)) process.kill(pid, 'SIGKILL');
    }
  };

  constructor(options: ServiceOptions = {}) {
    this.#ownFolder = options.folder === undefined;
    this.folder = options.folder ?? mkdtempSync(join(tmpdir(), 'ep-service-'));
    mkdirSync(this.folder, { recursive: true });
    this.state = join(this.folder, 'state');
    // Short, whatever the folder's path: the service itself has the same care for its own sockets.
    this.socket = join(this.folder, 'rest.sock');
    this.#environment = options.environment ?? {};
    process.on('exit', this.#onExit);
  }

  /** A service that is ready. */
  static async start(options: ServiceOptions = {}): Promise<Service> {
    const service = new Service(options);
    try {
      await service.start();
    } catch (error) {
      await service.stop();
      throw error;
    }
    return service;
  }

  /** Everything that the processes have said so far (the data plane: `dataPlaneLog`). */
  get output(): string {
    return this.#output;
  }

  get dataPlaneLog(): string {
    try {
      return readFileSync(join(this.state, 'dataplane.log'), 'utf8');
    } catch {
      return '';
    }
  }

  /** Pid of the control plane. */
  get pid(): number {
    const pid = this.#child?.pid;
    if (pid === undefined) throw new Error('the service does not run');
    return pid;
  }

  /** Starts the control plane; answers when it is ready. `environment` adds to the first one. */
  async start(environment: Record<string, string> = {}): Promise<void> {
    this.#environment = { ...this.#environment, ...environment };
    // setpriv: where this process is killed, the service gets a SIGTERM and ends cleanly. A process
    // group of its own: Ctrl-C on the terminal is for the script that runs it, which ends it in turn.
    const child = spawn('setpriv', ['--pdeathsig', 'TERM', NODE, MAIN], {
      detached: true,
      env: {
        ...process.env,
        EVERPOINT_STATE: this.state,
        EVERPOINT_LISTEN: this.socket,
        EVERPOINT_ROOTS: this.folder,
        EVERPOINT_LOG_LEVEL: 'warn',
        ...this.#environment,
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#child = child;
    const take = (chunk: Buffer): void => {
      this.#output += chunk.toString();
    };
    child.stdout.on('data', take);
    child.stderr.on('data', take);
    await until(
      'the service is ready',
      async () => {
        if (child.exitCode !== null || child.signalCode !== null) {
          throw new Error(`the service ended at its start:\n${this.#output}\n${this.dataPlaneLog}`);
        }
        const answer = await this.call('GET', '/readyz').catch(() => undefined);
        return answer?.status === 200;
      },
      START_TIMEOUT_MS,
      20,
    );
    this.#token = readFileSync(join(this.state, 'admin.token'), 'utf8').trim();
  }

  /** SIGKILL of the control plane alone. */
  async killControlPlane(): Promise<void> {
    const child = this.#child;
    if (child === undefined) return;
    const ended = gone(child);
    child.kill('SIGKILL');
    await ended;
    this.#child = undefined;
  }

  /**
   * SIGKILL of the data plane; waits until the control plane has started another one.
   * @returns how long that took, ms
   */
  async killDataPlane(): Promise<number> {
    const pid = this.dataPlanePid();
    const killedAt = performance.now();
    process.kill(pid, 'SIGKILL');
    await until('another data plane', () => {
      const now = this.#pidFromFile();
      return now !== undefined && now !== pid && isAlive(now);
    });
    return performance.now() - killedAt;
  }

  /** As `<state>/dataplane.pid` has it; after a kill it may be the dead one's. */
  dataPlanePid(): number {
    const pid = this.#pidFromFile();
    if (pid === undefined) throw new Error('there is no dataplane.pid');
    return pid;
  }

  /** SIGTERM: both planes end cleanly. @returns the exit code of the control plane */
  async end(): Promise<number | null> {
    const child = this.#child;
    if (child === undefined) return null;
    const ended = gone(child);
    child.kill('SIGTERM');
    const timer = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS);
    await ended;
    clearTimeout(timer);
    this.#child = undefined;
    return child.exitCode;
  }

  /** Ends both planes, whatever state they are in, and removes the folder where it is ours. */
  async stop(): Promise<void> {
    await this.end();
    const pid = this.#pidFromFile();
    if (pid !== undefined && isAlive(pid)) {
      process.kill(pid, 'SIGKILL');
      await until('the data plane is gone', () => !isAlive(pid));
    }
    process.off('exit', this.#onExit);
    if (this.#ownFolder) this.#removeFolder();
  }

  /** With it the groups' log buffers, which lie in a tmpfs: 64 MiB of memory each. */
  #removeFolder(): void {
    const definitions = join(this.state, 'data-plane/groups');
    const names = existsSync(definitions) ? readdirSync(definitions) : [];
    for (const name of names) {
      const group = /^[0-9a-f-]{36}/.exec(name)?.[0];
      if (group === undefined) continue;
      for (const tmpfs of ['/dev/shm', '/run']) {
        rmSync(join(tmpfs, `everpoint-${group}.logbuffer`), { force: true });
      }
    }
    rmSync(this.folder, { recursive: true, force: true });
  }

  async call(method: string, path: string, body?: unknown, timeoutMs = 60_000): Promise<Answer> {
    const payload = body === undefined ? undefined : JSON.stringify(body);
    return new Promise((resolve, reject) => {
      const asked = request(
        {
          socketPath: this.socket,
          path,
          method,
          timeout: timeoutMs,
          headers: {
            ...(payload !== undefined && {
              'content-type': 'application/json',
              'content-length': Buffer.byteLength(payload),
            }),
            authorization: `Bearer ${this.#token}`,
          },
        },
        (response) => {
          let text = '';
          response.setEncoding('utf8');
          response.on('data', (chunk: string) => (text += chunk));
          response.on('error', reject);
          response.on('end', () => {
            const isJson = /json/.test(response.headers['content-type'] ?? '');
            const parsed: unknown = isJson && text !== '' ? JSON.parse(text) : undefined;
            resolve({ status: response.statusCode ?? 0, text, body: parsed });
          });
        },
      );
      asked.on('timeout', () => asked.destroy(new Error(`no answer: ${method} ${path}`)));
      asked.on('error', reject);
      asked.end(payload);
    });
  }

  /** The body of an answer; throws where the status is not one of success. */
  async ask<T>(method: string, path: string, body?: unknown): Promise<T> {
    const answer = await this.call(method, path, body);
    if (answer.status < 200 || answer.status > 299) {
      throw new Error(`${method} ${path}: ${answer.status} ${answer.text}`);
    }
    return answer.body as T;
  }

  get<T = unknown>(path: string): Promise<T> {
    return this.ask('GET', path);
  }

  post<T = unknown>(path: string, body?: unknown): Promise<T> {
    return this.ask('POST', path, body);
  }

  /** A whole list, page by page; its rows have ids. */
  async list<T extends object>(path: string): Promise<T[]> {
    const all: T[] = [];
    for (let after = ''; ;) {
      const page = await this.get<T[]>(`${path}?limit=100${after}`);
      all.push(...page);
      const last = page.at(-1);
      if (page.length < 100 || last === undefined) return all;
      after = `&after=${encodeURIComponent(String((last as { id?: string }).id))}`;
    }
  }

  group(idOrName: string): Promise<GroupBody> {
    return this.get(`/v1/groups/${idOrName}`);
  }

  info(): Promise<InfoBody> {
    return this.get('/v1/info');
  }

  mark(group: string, label: string): Promise<MarkerBody> {
    return this.post(`/v1/groups/${group}/markers`, { label });
  }

  segments(group: string): Promise<SegmentBody[]> {
    return this.list(`/v1/groups/${group}/segments`);
  }

  gaps(group: string): Promise<object[]> {
    return this.get(`/v1/groups/${group}/gaps`);
  }

  /** Waits for a job's end and returns it, whatever its end was. */
  async jobEnd(id: string, timeoutMs = 120_000): Promise<JobBody> {
    const look = async (): Promise<JobBody | false> => {
      const job = await this.get<JobBody>(`/v1/jobs/${id}`);
      return !['queued', 'running'].includes(job.state) && job;
    };
    return until(`job ${id} ends`, look, timeoutMs, 15);
  }

  /** Restores volumes to new raw files below the folder. @returns the point taken, and the files */
  async restore(
    group: string,
    at: string,
    volumes: readonly string[],
    name: string,
  ): Promise<{ lsn: number; time: string; files: string[] }> {
    const targets = volumes.map((volume) => ({
      volume,
      path: join(this.folder, `${name}-${volume}.raw`),
      format: 'raw',
    }));
    const asked = await this.post<JobBody>(`/v1/groups/${group}/restores`, { at, targets });
    const job = await this.jobEnd(asked.id);
    if (job.state !== 'done' || job.result === undefined) {
      throw new Error(`restore at ${at}: ${JSON.stringify(job)}`);
    }
    const { lsn, time } = job.result;
    return { lsn, time, files: targets.map((target) => target.path) };
  }

  /** Makes a group whose primaries are new files in the folder. */
  async createGroup(
    name: string,
    volumes: readonly { name: string; sizeBytes: number; queues?: number }[],
    more: Record<string, unknown> = {},
  ): Promise<MadeGroup> {
    const primaries = volumes.map((volume) => join(this.folder, `${name}-${volume.name}.img`));
    const group = await this.post<GroupBody>('/v1/groups', {
      name,
      volumes: volumes.map((volume, index) => ({
        name: volume.name,
        primary: {
          kind: 'file',
          path: primaries[index],
          sizeBytes: volume.sizeBytes,
          create: true,
        },
        baseline: 'none',
        exports: [{ kind: 'vhost-user-blk', queues: volume.queues ?? 1 }],
      })),
      ...more,
    });
    const sockets = group.volumes.map((volume) => volume.exports[0]?.path ?? '');
    return { group, sockets, primaries };
  }

  /** Files of a group's segments, the active one last. */
  async segmentFiles(group: string): Promise<{ path: string; sealed: boolean }[]> {
    const devices = await this.get<DeviceBody[]>('/v1/devices');
    const rootOf = new Map(devices.map((device) => [device.id, device.path]));
    return (await this.segments(group)).map((one) => ({
      path: join(rootOf.get(one.device) ?? '', 'groups', group, one.file),
      sealed: one.state === 'sealed',
    }));
  }

  #pidFromFile(): number | undefined {
    try {
      const pid = Number(readFileSync(join(this.state, 'dataplane.pid'), 'utf8'));
      return pid > 1 ? pid : undefined;
    } catch {
      return undefined;
    }
  }
}

function gone(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve();
  return new Promise((resolve) => child.once('exit', () => resolve()));
}
