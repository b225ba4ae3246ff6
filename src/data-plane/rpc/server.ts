// SPDX-License-Identifier: Apache-2.0

import * as fs from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import * as path from 'node:path';

import {
  createMessageConnection,
  ErrorCodes,
  type MessageConnection,
  ResponseError,
  SocketMessageWriter,
} from 'vscode-jsonrpc/node';

import { toEverpointError } from '../../common/errors.js';
import { toWire } from '../errors.js';
import type { DataPlaneLog } from '../in-process.js';
import { ensureRunDir } from '../paths.js';
import type {
  DataPlaneEvent,
  DataPlanePort,
  GroupChange,
  GroupDefinition,
  MarkerRequest,
} from '../port.js';
import { BoundedMessageReader } from './message-reader.js';
import {
  EVENT,
  EVERPOINT_ERROR,
  HELLO,
  type HelloAnswer,
  type PortMethod,
  PROTOCOL_VERSION,
} from './protocol.js';

const CLIENTS_MAX = 64;
/** A client that does not read its answers is let go when this much waits for it. */
const UNREAD_BYTES_MAX = 64 * 1024 * 1024;
/** Whoever connects and is not one of ours says nothing, or nonsense; the silent ones end here. */
const HELLO_TIMEOUT_MS = 10_000;

type Params = Record<string, unknown>;
type Handlers = { [Method in PortMethod]: (params: Params) => Promise<unknown> };

export interface RpcServerOptions {
  readonly port: DataPlanePort;
  readonly socketPath: string;
  readonly version: string;
  readonly log: DataPlaneLog;
  /** A client asked for the end of the process; it is answered when this is done. */
  readonly onShutdown: () => Promise<void>;
}

interface Client {
  readonly socket: Socket;
  readonly connection: MessageConnection;
  greeted: boolean;
}

/** Serves the port to several clients. One that sends nonsense loses its connection, nobody else. */
export class RpcServer {
  private readonly clients = new Set<Client>();
  private readonly handlers: Handlers;
  private server: Server | undefined;
  private unsubscribe: (() => void) | undefined;

  constructor(private readonly options: RpcServerOptions) {
    this.handlers = handlersOf(options.port, options.onShutdown);
  }

  /** The caller holds the state folder's lock: a socket that is there belongs to nobody. */
  async listen(): Promise<void> {
    const { socketPath } = this.options;
    ensureRunDir(path.dirname(socketPath));
    fs.rmSync(socketPath, { force: true });
    const server = createServer((socket) => {
      this.accept(socket);
    });
    this.server = server;
    // The socket must not be open to others for a moment either; bind happens within listen().
    const mask = process.umask(0o177);
    try {
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject);
        server.listen(socketPath, resolve);
        process.umask(mask);
      });
    } catch (error) {
      throw toEverpointError(error, 'listen', socketPath);
    } finally {
      process.umask(mask);
    }
    fs.chmodSync(socketPath, 0o600);
    server.on('error', (error) => {
      this.options.log.error({ error: error.message }, 'accepting a client failed');
    });
    this.unsubscribe = this.options.port.onEvent((event) => {
      this.broadcast(event);
    });
  }

  /** Takes no more clients and lets go of those that are there, their answers sent first. */
  async close(): Promise<void> {
    this.unsubscribe?.();
    const server = this.server;
    if (server === undefined) return;
    this.server = undefined;
    const closed = new Promise<void>((resolve) => {
      server.close(() => {
        resolve();
      });
    });
    for (const { socket } of this.clients) {
      socket.end();
      setTimeout(() => socket.destroy(), 500).unref();
    }
    await closed;
    fs.rmSync(this.options.socketPath, { force: true });
  }

  private accept(socket: Socket): void {
    if (this.clients.size >= CLIENTS_MAX) {
      this.options.log.warn({ clients: this.clients.size }, 'too many clients, one is refused');
      socket.destroy();
      return;
    }
    const connection = createMessageConnection(
      new BoundedMessageReader(socket),
      new SocketMessageWriter(socket),
    );
    const client: Client = { socket, connection, greeted: false };
    this.clients.add(client);
    const impatient = setTimeout(() => {
      if (!client.greeted) this.drop(client, 'it did not say hello');
    }, HELLO_TIMEOUT_MS);
    socket.once('close', () => {
      clearTimeout(impatient);
      this.clients.delete(client);
      connection.dispose();
    });
    connection.onError(([error]) => {
      this.drop(client, error.message);
    });
    connection.onRequest((method: string, params: unknown) => this.handle(client, method, params));
    connection.listen();
  }

  private drop(client: Client, reason: string): void {
    if (client.socket.destroyed) return;
    this.options.log.warn({ reason }, 'a client is let go');
    client.socket.destroy();
  }

  private async handle(client: Client, method: string, params: unknown): Promise<unknown> {
    if (method === HELLO) {
      client.greeted = true;
      const { version } = this.options;
      return { protocol: PROTOCOL_VERSION, version, pid: process.pid } satisfies HelloAnswer;
    }
    if (!Object.hasOwn(this.handlers, method)) {
      return new ResponseError(ErrorCodes.MethodNotFound, `there is no method ${method}`);
    }
    try {
      return (await this.handlers[method as PortMethod]((params ?? {}) as Params)) ?? null;
    } catch (error) {
      const data = toWire(error, method);
      return new ResponseError(EVERPOINT_ERROR, data.message, data);
    }
  }

  private broadcast(event: DataPlaneEvent): void {
    for (const client of this.clients) {
      if (!client.greeted) continue;
      if (client.socket.writableLength > UNREAD_BYTES_MAX) {
        this.drop(client, 'it does not read');
        continue;
      }
      // A connection that ends just now is no fault: events are hints.
      client.connection.sendNotification(EVENT, event).catch(() => undefined);
    }
  }
}

/** Arguments are checked by the port's implementation: here they only get their types. */
function handlersOf(port: DataPlanePort, onShutdown: () => Promise<void>): Handlers {
  const group = (params: Params) => params['group'] as string;
  return {
    info: () => port.info(),
    listGroups: () => port.listGroups(),
    groupStatus: (params) => port.groupStatus(group(params)),
    createGroup: (params) => port.createGroup(params['definition'] as GroupDefinition),
    updateGroup: (params) => port.updateGroup(group(params), params['change'] as GroupChange),
    pauseGroup: (params) => port.pauseGroup(group(params)),
    resumeGroup: (params) => port.resumeGroup(group(params)),
    reopenGroup: (params) => port.reopenGroup(group(params)),
    deleteGroup: (params) => port.deleteGroup(group(params), { force: params['force'] === true }),
    addMarker: (params) => port.addMarker(group(params), params['marker'] as MarkerRequest),
    syncLog: (params) => port.syncLog(group(params)),
    seal: (params) => port.seal(group(params)),
    listSegments: (params) => port.listSegments(group(params), params['after'] as number),
    shutdown: onShutdown,
  };
}
