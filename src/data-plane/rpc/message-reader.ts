// SPDX-License-Identifier: Apache-2.0

import type { Socket } from 'node:net';

import { AbstractMessageReader, type DataCallback, Disposable } from 'vscode-jsonrpc/node';

/** No good message is larger (a list of all segments of a large group stays far below). */
export const MESSAGE_BYTES_MAX = 64 * 1024 * 1024;
const HEADER_BYTES_MAX = 1024;
const HEADER_END = '\r\n\r\n';

/**
 * Reads the messages of one peer (`Content-Length: N`, blank line, N bytes of JSON). The library's
 * own reader waits for whatever length a peer announces and goes on after nonsense; here the first
 * fault is reported once and nothing is read after it, so that the owner can end the connection.
 */
export class BoundedMessageReader extends AbstractMessageReader {
  private chunks: Buffer[] = [];
  private bufferedBytes = 0;
  /** Bytes that are needed before it is worth looking again. */
  private neededBytes = 1;
  private bodyBytes: number | undefined;
  private broken = false;

  constructor(
    private readonly socket: Socket,
    private readonly bytesMax = MESSAGE_BYTES_MAX,
  ) {
    super();
  }

  listen(callback: DataCallback): Disposable {
    const onData = (chunk: Buffer) => {
      this.take(chunk, callback);
    };
    this.socket.on('data', onData);
    this.socket.on('error', (error) => {
      this.fireError(error);
    });
    this.socket.on('close', () => {
      this.fireClose();
    });
    return Disposable.create(() => this.socket.off('data', onData));
  }

  private take(chunk: Buffer, callback: DataCallback): void {
    if (this.broken) return;
    this.chunks.push(chunk);
    this.bufferedBytes += chunk.length;
    if (this.bufferedBytes < this.neededBytes) return;
    try {
      this.parse(Buffer.concat(this.chunks), callback);
    } catch (error) {
      this.broken = true;
      this.chunks = [];
      this.socket.pause();
      this.fireError(error);
    }
  }

  private parse(buffered: Buffer, callback: DataCallback): void {
    let rest = buffered;
    for (;;) {
      this.bodyBytes ??= this.takeHeader(rest);
      if (this.bodyBytes === undefined) {
        this.neededBytes = rest.length + 1;
        break;
      }
      if (this.headerBytes > 0) {
        rest = rest.subarray(this.headerBytes);
        this.headerBytes = 0;
      }
      if (rest.length < this.bodyBytes) {
        this.neededBytes = this.bodyBytes;
        break;
      }
      const body = rest.subarray(0, this.bodyBytes);
      rest = rest.subarray(this.bodyBytes);
      this.bodyBytes = undefined;
      callback(checkMessage(JSON.parse(body.toString('utf8'))));
    }
    this.chunks = rest.length > 0 ? [rest] : [];
    this.bufferedBytes = rest.length;
  }

  /** Length of the header that `takeHeader` found and that is still in the buffer. */
  private headerBytes = 0;

  private takeHeader(from: Buffer): number | undefined {
    const end = from.indexOf(HEADER_END);
    if (end < 0 ? from.length > HEADER_BYTES_MAX : end > HEADER_BYTES_MAX) {
      throw new Error('the header of a message is too long');
    }
    if (end < 0) return undefined;
    const match = /^content-length: *(\d{1,9})$/im.exec(
      from.toString('latin1', 0, end).replaceAll('\r', ''),
    );
    if (match === null) throw new Error('a message has no Content-Length');
    const length = Number(match[1]);
    if (length < 2 || length > this.bytesMax) {
      throw new Error(`a message of ${length} bytes; 2 to ${this.bytesMax} are allowed`);
    }
    this.headerBytes = end + HEADER_END.length;
    return length;
  }
}

type Message = Parameters<DataCallback>[0];

/** A request, a notification or an answer of JSON-RPC 2.0; anything else ends the connection. */
function checkMessage(value: unknown): Message {
  const message = value as Record<string, unknown>;
  const good =
    typeof value === 'object' &&
    value !== null &&
    message['jsonrpc'] === '2.0' &&
    (typeof message['method'] === 'string' ? goodCall(message) : goodAnswer(message));
  if (!good) throw new Error('a message is not one of JSON-RPC 2.0');
  return value as Message;
}

function goodCall({ id, params }: Record<string, unknown>): boolean {
  return (
    (id === undefined || goodId(id)) &&
    (params === undefined || (typeof params === 'object' && params !== null))
  );
}

function goodAnswer({ id, result, error }: Record<string, unknown>): boolean {
  return goodId(id) && (result !== undefined || (typeof error === 'object' && error !== null));
}

function goodId(id: unknown): boolean {
  return typeof id === 'number' || (typeof id === 'string' && id.length <= 64);
}
