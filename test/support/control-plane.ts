// SPDX-License-Identifier: Apache-2.0
/* eslint-disable @typescript-eslint/no-explicit-any,
   @typescript-eslint/no-unsafe-assignment,
   @typescript-eslint/no-unsafe-member-access
   -- answers over HTTP are JSON of any shape: whether it is the right one is what is tested here. */

/** A control plane in this process, for tests over HTTP. */

import 'reflect-metadata';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import { createApp, takeUpWork } from '../../src/app.module.js';
import { loadSettings } from '../../src/config/load.js';
import { StateFolder } from '../../src/config/state-folder.js';
import type { DataPlanePort } from '../../src/data-plane/port.js';
import { WorkerPool } from '../../src/workers/pool.js';

/** What a route answered. */
export interface Answer {
  status: number;
  headers: Record<string, unknown>;
  text: string;
  /** Parsed where it is JSON. */
  body: any;
}

export interface CallOptions {
  body?: unknown;
  /** Sent as it is, in the place of `body`. */
  raw?: string | Buffer;
  headers?: Record<string, string>;
  /** Null: none is sent. */
  token?: string | null;
  remoteAddress?: string;
}

export class ControlPlane {
  readonly state: string;
  readonly app: NestFastifyApplication;
  readonly token: string;
  private readonly pool: WorkerPool;
  private readonly folder: StateFolder;

  private constructor(
    state: string,
    app: NestFastifyApplication,
    pool: WorkerPool,
    folder: StateFolder,
  ) {
    this.state = state;
    this.app = app;
    this.pool = pool;
    this.folder = folder;
    this.token = readFileSync(path.join(state, 'admin.token'), 'utf8').trim();
  }

  static async start(
    state: string,
    port: DataPlanePort,
    environment: Record<string, string> = {},
  ): Promise<ControlPlane> {
    const settings = loadSettings({
      environment: { EVERPOINT_STATE: state, EVERPOINT_LOG_LEVEL: 'silent', ...environment },
    });
    const folder = StateFolder.claim(settings.state);
    const pool = new WorkerPool({ threads: 2 });
    pool.start();
    try {
      const app = await createApp({ settings, port, pool });
      await takeUpWork(app);
      return new ControlPlane(settings.state, app, pool, folder);
    } catch (error) {
      await pool.stop();
      folder.release();
      throw error;
    }
  }

  async close(): Promise<void> {
    await this.app.close();
    await this.pool.stop();
    this.folder.release();
  }

  async call(method: string, url: string, options: CallOptions = {}): Promise<Answer> {
    const token = options.token === undefined ? this.token : options.token;
    const payload =
      options.raw ?? (options.body === undefined ? undefined : JSON.stringify(options.body));
    const response = await this.app.inject({
      method: method as 'GET',
      url,
      headers: {
        ...(payload !== undefined && { 'content-type': 'application/json' }),
        ...(token !== null && { authorization: `Bearer ${token}` }),
        ...options.headers,
      },
      ...(payload !== undefined && { payload }),
      ...(options.remoteAddress !== undefined && { remoteAddress: options.remoteAddress }),
    });
    const text = response.payload;
    const isJson = /json/.test(String(response.headers['content-type'] ?? ''));
    return {
      status: response.statusCode,
      headers: response.headers,
      text,
      body: isJson && text !== '' ? (JSON.parse(text) as unknown) : undefined,
    };
  }

  get(url: string): Promise<Answer> {
    return this.call('GET', url);
  }

  post(url: string, body?: unknown): Promise<Answer> {
    return this.call('POST', url, { body });
  }

  /** Asks until the job has ended. */
  async jobEnd(id: string): Promise<Answer['body']> {
    for (let i = 0; i < 1000; i += 1) {
      const { body } = await this.get(`/v1/jobs/${id}`);
      if (body.state !== 'queued' && body.state !== 'running') return body;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    throw new Error(`the job ${id} does not end`);
  }
}

/** A folder for one test, and the function that removes it. */
export function temporaryFolder(): { folder: string; remove: () => void } {
  const folder = mkdtempSync(path.join(tmpdir(), 'ep-'));
  return {
    folder,
    remove: () => {
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** A group with one small volume made for it, or several. */
export function groupBody(state: string, name: string, volumes = ['vda'], sizeBytes = 1 << 20) {
  return {
    name,
    volumes: volumes.map((volume) => ({
      name: volume,
      primary: {
        kind: 'file',
        path: path.join(state, `${name}-${volume}.raw`),
        sizeBytes,
        create: true,
      },
      baseline: 'none',
    })),
  };
}
