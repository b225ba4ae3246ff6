// SPDX-License-Identifier: Apache-2.0

import * as http from 'node:http';
import * as https from 'node:https';

import type { Connection } from './connection.js';
import { CliError, EXIT_FAILED, EXIT_NOT_REACHABLE, type Problem, ProblemError } from './errors.js';

/** Creating a group or sealing answers when it is done; a service that says nothing so long hangs. */
const SILENCE_MS_MAX = 330_000;
const ANSWER_BYTES_MAX = 256 * 1024 * 1024;
const PAGE_ITEMS = 1000;

export type Query = Record<string, string | number | undefined>;

/** Calls the service over TCP or a unix socket, one request per connection. */
export class RestClient {
  constructor(private readonly connection: Connection) {}

  /** A path means the same file here and for the service. */
  get isLocal(): boolean {
    const { address } = this.connection;
    return address.kind === 'unix' || /^(localhost|127\.[\d.]+|::1)$/.test(address.host);
  }

  get<T>(path: string, query: Query = {}): Promise<T> {
    return this.call('GET', withQuery(path, query)) as Promise<T>;
  }

  post<T>(path: string, body?: unknown): Promise<T> {
    return this.call('POST', path, body) as Promise<T>;
  }

  delete<T>(path: string, query: Query = {}): Promise<T> {
    return this.call('DELETE', withQuery(path, query)) as Promise<T>;
  }

  /** Every page of a list; `keyOf` is what the next page comes after. */
  async list<T>(
    path: string,
    keyOf: (item: T) => string | number,
    query: Query = {},
  ): Promise<T[]> {
    const all: T[] = [];
    let after: string | number | undefined;
    for (;;) {
      const page = await this.get<T[]>(path, { ...query, limit: PAGE_ITEMS, after });
      all.push(...page);
      const last = page.at(-1);
      if (last === undefined || page.length < PAGE_ITEMS) return all;
      after = keyOf(last);
    }
  }

  /** The events of a server-sent stream, until it ends. */
  async *events(path: string): AsyncGenerator<{ type: string; data: string }> {
    const response = await this.request('GET', path, undefined, 'text/event-stream');
    if (response.statusCode !== 200) {
      this.refuse(response, await readAll(response));
    }
    response.setEncoding('utf8');
    let rest = '';
    try {
      for await (const chunk of response) {
        const blocks = (rest + String(chunk)).split(/\r?\n\r?\n/);
        rest = blocks.pop() ?? '';
        for (const block of blocks) {
          const event = parseEvent(block);
          if (event !== undefined) yield event;
        }
      }
    } catch (error) {
      throw this.unreachable(error as Error);
    } finally {
      response.destroy();
    }
  }

  private async call(method: string, path: string, body?: unknown): Promise<unknown> {
    const response = await this.request(method, path, body, 'application/json');
    let text: string;
    try {
      text = await readAll(response);
    } catch (error) {
      throw this.unreachable(error as Error);
    }
    const status = response.statusCode ?? 0;
    if (status < 200 || status > 299) this.refuse(response, text);
    if (text === '') return undefined;
    try {
      return JSON.parse(text);
    } catch (error) {
      const { url } = this.connection;
      throw new CliError(
        EXIT_FAILED,
        `${url} did not answer with JSON; is it an everpoint service?`,
        {
          cause: error,
        },
      );
    }
  }

  private request(
    method: string,
    path: string,
    body: unknown,
    accept: string,
  ): Promise<http.IncomingMessage> {
    const { address, token } = this.connection;
    const content = body === undefined ? undefined : Buffer.from(JSON.stringify(body));
    const headers: http.OutgoingHttpHeaders = { Accept: accept };
    if (token !== undefined) headers['Authorization'] = `Bearer ${token}`;
    if (content !== undefined) {
      headers['Content-Type'] = 'application/json';
      headers['Content-Length'] = content.length;
    }
    const options: http.RequestOptions =
      address.kind === 'unix'
        ? { socketPath: address.socketPath, path, headers: { ...headers, Host: 'localhost' } }
        : { host: address.host, port: address.port, path: address.prefix + path, headers };
    const { request } = address.kind === 'https' ? https : http;
    return new Promise((resolve, reject) => {
      const sent = request({ ...options, method, agent: false }, resolve);
      sent.setTimeout(SILENCE_MS_MAX, () => {
        sent.destroy(new Error(`no answer within ${SILENCE_MS_MAX / 1000} s`));
      });
      sent.once('error', (error) => {
        reject(this.unreachable(error));
      });
      sent.end(content);
    });
  }

  private unreachable(error: Error): CliError {
    const { url } = this.connection;
    return new CliError(
      EXIT_NOT_REACHABLE,
      `cannot reach the service at ${url}: ${error.message}`,
      {
        hint: 'is it running? --url or EVERPOINT_URL says where it listens',
        cause: error,
      },
    );
  }

  private refuse(response: http.IncomingMessage, text: string): never {
    const status = response.statusCode ?? 0;
    let problem: Problem = {};
    try {
      const parsed = JSON.parse(text) as unknown;
      if (typeof parsed === 'object' && parsed !== null) problem = parsed;
    } catch {
      // Not a service of ours, or something before it: its status is all there is to say.
    }
    throw status === 401 ? this.notSignedIn() : new ProblemError(status, problem);
  }

  private notSignedIn(): CliError {
    const { token, tokenFiles, url } = this.connection;
    if (token !== undefined) {
      return new CliError(EXIT_FAILED, `not signed in: the service at ${url} knows no such token`, {
        hint: 'it is of another service; --state FOLDER or --token-file FILE names the right one',
      });
    }
    return new CliError(EXIT_FAILED, 'not signed in: no token', {
      details: tokenFiles.map((file) => `there is no ${file}`),
      hint:
        "--state FOLDER names the service's state folder, --token-file FILE a token " +
        '(also EVERPOINT_STATE, EVERPOINT_TOKEN_FILE, EVERPOINT_TOKEN)',
    });
  }
}

function withQuery(path: string, query: Query): string {
  const given = new URLSearchParams();
  for (const [key, value] of Object.entries(query)) {
    if (value !== undefined) given.set(key, String(value));
  }
  return given.size === 0 ? path : `${path}?${given.toString()}`;
}

async function readAll(response: http.IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of response) {
    chunks.push(chunk as Buffer);
    bytes += (chunk as Buffer).length;
    if (bytes > ANSWER_BYTES_MAX) throw new Error('the answer is too long');
  }
  return Buffer.concat(chunks).toString('utf8');
}

function parseEvent(block: string): { type: string; data: string } | undefined {
  let type = 'message';
  const data: string[] = [];
  for (const line of block.split(/\r?\n/)) {
    const match = /^(event|data): ?(.*)$/.exec(line);
    if (match?.[1] === 'event') type = match[2] ?? '';
    if (match?.[1] === 'data') data.push(match[2] ?? '');
  }
  return data.length === 0 ? undefined : { type, data: data.join('\n') };
}

/** A name or id as one part of a path. */
export function part(text: string): string {
  return encodeURIComponent(text);
}
