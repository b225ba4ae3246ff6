// SPDX-License-Identifier: Apache-2.0

import { connect, type Socket } from 'node:net';

import {
  createMessageConnection,
  type MessageConnection,
  ResponseError,
  SocketMessageWriter,
} from 'vscode-jsonrpc/node';

import { EverpointError } from '../common/errors.js';
import { DataPlaneUnavailableError, fromWire } from './errors.js';
import type {
  DataPlaneEvent,
  DataPlaneInfo,
  DataPlanePort,
  GroupChange,
  GroupDefinition,
  GroupStatus,
  MarkerRequest,
  MarkerResult,
  SegmentInfo,
} from './port.js';
import { BoundedMessageReader } from './rpc/message-reader.js';
import {
  EVENT,
  HELLO,
  type HelloAnswer,
  type PortMethod,
  PROTOCOL_VERSION,
  TIMEOUT_SECONDS,
} from './rpc/protocol.js';

const RECONNECT_MS_MIN = 25;
const RECONNECT_MS_MAX = 100;
const HELLO_TIMEOUT_MS = 5_000;

export interface ClientOptions {
  readonly socketPath: string;
  /** In the place of every method's own bound; for tests. */
  readonly timeoutMs?: number;
}

interface Link {
  readonly socket: Socket;
  readonly connection: MessageConnection;
  readonly hello: HelloAnswer;
}

/**
 * The port over the data plane's socket. It connects and reconnects by itself, from `start` to
 * `close`; while there is no connection every call fails at once with `DataPlaneUnavailableError`,
 * and a call under way when the connection ends fails too: whether it took effect is not known.
 */
export class DataPlaneClient implements DataPlanePort {
  private readonly listeners = new Set<(event: DataPlaneEvent) => void>();
  private link: Link | undefined;
  private socket: Socket | undefined;
  private timer: NodeJS.Timeout | undefined;
  private running = false;
  private delayMs = RECONNECT_MS_MIN;
  private fault = 'not connected yet';

  constructor(private readonly options: ClientOptions) {}

  /** Begins to connect, and to connect again whenever the connection is lost. */
  start(): void {
    if (this.running) return;
    this.running = true;
    this.connectNow();
  }

  /** Ends the connection; the data plane goes on. */
  async close(): Promise<void> {
    this.running = false;
    clearTimeout(this.timer);
    const { socket } = this;
    if (socket === undefined || socket.destroyed) return;
    await new Promise<void>((resolve) => {
      socket.once('close', () => {
        resolve();
      });
      socket.destroy();
    });
  }

  get up(): boolean {
    return this.link !== undefined;
  }

  /** Who is at the other end; nothing while the link is down. */
  get peer(): HelloAnswer | undefined {
    return this.link?.hello;
  }

  /** Why there is no link. */
  get lastFault(): string {
    return this.fault;
  }

  /** Tries now rather than after the current delay. */
  hurry(): void {
    this.delayMs = RECONNECT_MS_MIN;
    if (!this.running || this.socket !== undefined) return;
    clearTimeout(this.timer);
    this.connectNow();
  }

  /** @returns whether the link came up within the time */
  async waitUp(timeoutMs: number): Promise<boolean> {
    if (this.up) return true;
    return new Promise<boolean>((resolve) => {
      const finish = (up: boolean) => {
        clearTimeout(timer);
        unsubscribe();
        resolve(up);
      };
      const unsubscribe = this.onEvent((event) => {
        if (event.kind === 'link' && event.up) finish(true);
      });
      const timer = setTimeout(() => {
        finish(false);
      }, timeoutMs);
    });
  }

  info(): Promise<DataPlaneInfo> {
    return this.call('info', {});
  }

  listGroups(): Promise<GroupStatus[]> {
    return this.call('listGroups', {});
  }

  groupStatus(group: string): Promise<GroupStatus> {
    return this.call('groupStatus', { group });
  }

  createGroup(definition: GroupDefinition): Promise<GroupStatus> {
    return this.call('createGroup', { definition });
  }

  updateGroup(group: string, change: GroupChange): Promise<GroupStatus> {
    return this.call('updateGroup', { group, change });
  }

  pauseGroup(group: string): Promise<GroupStatus> {
    return this.call('pauseGroup', { group });
  }

  resumeGroup(group: string): Promise<GroupStatus> {
    return this.call('resumeGroup', { group });
  }

  reopenGroup(group: string): Promise<GroupStatus> {
    return this.call('reopenGroup', { group });
  }

  async deleteGroup(group: string, options: { force?: boolean }): Promise<void> {
    await this.call('deleteGroup', { group, force: options.force === true });
  }

  addMarker(group: string, marker: MarkerRequest): Promise<MarkerResult> {
    return this.call('addMarker', { group, marker });
  }

  syncLog(group: string): Promise<{ durableLsn: number }> {
    return this.call('syncLog', { group });
  }

  seal(group: string): Promise<{ sealedLsn: number }> {
    return this.call('seal', { group });
  }

  listSegments(group: string, after: number): Promise<SegmentInfo[]> {
    return this.call('listSegments', { group, after });
  }

  async shutdown(): Promise<void> {
    await this.call('shutdown', {});
  }

  onEvent(listener: (event: DataPlaneEvent) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  private emit(event: DataPlaneEvent): void {
    for (const listener of this.listeners) listener(event);
  }

  private async call<T>(method: PortMethod, params: object): Promise<T> {
    const link = this.link;
    if (link === undefined) {
      throw new DataPlaneUnavailableError(method, `the data plane is not reached: ${this.fault}`);
    }
    const timeoutMs = this.options.timeoutMs ?? TIMEOUT_SECONDS[method] * 1000;
    return ask<T>(link.connection, link.socket, method, params, timeoutMs);
  }

  private connectNow(): void {
    const socket = connect(this.options.socketPath);
    this.socket = socket;
    socket.on('error', (error) => {
      this.fault = error.message;
    });
    socket.once('connect', () => {
      void this.greet(socket);
    });
    socket.once('close', () => {
      this.lost(socket);
    });
  }

  private async greet(socket: Socket): Promise<void> {
    const connection = createMessageConnection(
      new BoundedMessageReader(socket),
      new SocketMessageWriter(socket),
    );
    connection.onError(([error]) => {
      this.fault = error.message;
      socket.destroy();
    });
    connection.onNotification(EVENT, (event: DataPlaneEvent) => {
      this.emit(event);
    });
    socket.once('close', () => {
      connection.dispose();
    });
    connection.listen();
    try {
      const own = { protocol: PROTOCOL_VERSION };
      const hello = await ask<HelloAnswer>(connection, socket, HELLO, own, HELLO_TIMEOUT_MS);
      if (hello.protocol !== PROTOCOL_VERSION) {
        throw new Error(
          `the data plane (pid ${hello.pid}) speaks protocol ${hello.protocol}, this program ${PROTOCOL_VERSION}: end it, the right one is started then`,
        );
      }
      if (socket.destroyed) return;
      this.link = { socket, connection, hello };
      this.delayMs = RECONNECT_MS_MIN;
      this.emit({ kind: 'link', up: true });
    } catch (error) {
      this.fault = (error as Error).message;
      // Only ever a wrong peer or a dying one: no reason to be quick.
      this.delayMs = RECONNECT_MS_MAX;
      socket.destroy();
    }
  }

  private lost(socket: Socket): void {
    if (this.socket !== socket) return;
    this.socket = undefined;
    if (this.link?.socket === socket) {
      this.link = undefined;
      this.fault = 'the connection was lost';
      this.emit({ kind: 'link', up: false });
    }
    // A listener may have tried again at once, or ended this client.
    if (!this.running || this.socket !== undefined) return;
    this.timer = setTimeout(() => {
      this.connectNow();
    }, this.delayMs);
    this.delayMs = Math.min(this.delayMs * 2, RECONNECT_MS_MAX);
  }
}

/** One call with a bound, its errors turned into ours. */
async function ask<T>(
  connection: MessageConnection,
  socket: Socket,
  method: string,
  params: object,
  timeoutMs: number,
): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  let onClose: (() => void) | undefined;
  const ended = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      const text = `no answer to ${method} within ${timeoutMs / 1000} s`;
      reject(new DataPlaneUnavailableError(method, text));
    }, timeoutMs);
    onClose = () => {
      const text = `the data plane went away during ${method}`;
      reject(new DataPlaneUnavailableError(method, text));
    };
    socket.once('close', onClose);
  });
  try {
    return await Promise.race([connection.sendRequest<T>(method, params), ended]);
  } catch (error) {
    if (error instanceof EverpointError) throw error;
    const data: unknown = error instanceof ResponseError ? error.data : undefined;
    const message = (error as Error).message;
    throw fromWire(data) ?? new DataPlaneUnavailableError(method, message, error);
  } finally {
    clearTimeout(timer);
    if (onClose) socket.off('close', onClose);
  }
}
