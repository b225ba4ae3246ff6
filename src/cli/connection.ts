// SPDX-License-Identifier: Apache-2.0

import * as fs from 'node:fs';
import * as path from 'node:path';

import { CliError, EXIT_FAILED, usageError } from './errors.js';

const DEFAULT_URL = 'http://127.0.0.1:8320';
const ADMIN_TOKEN_FILE = 'admin.token';

export interface ConnectionOptions {
  readonly url?: string | undefined;
  readonly tokenFile?: string | undefined;
  readonly state?: string | undefined;
}

/** Where the service listens, as node:http wants it. */
export type Address =
  | { kind: 'unix'; socketPath: string }
  | { kind: 'http' | 'https'; host: string; port: number; prefix: string };

export interface Connection {
  readonly address: Address;
  /** For messages. */
  readonly url: string;
  /** Nothing when there is none: a service that wants one says so. */
  readonly token: string | undefined;
  /** The file it was looked for in. */
  readonly tokenFile: string;
}

/** @throws CliError for a URL or a token file that was named and cannot be used */
export function resolveConnection(
  options: ConnectionOptions,
  environment: NodeJS.ProcessEnv,
): Connection {
  const named = options.url ?? (environment['EVERPOINT_URL'] || undefined);
  const url = named ?? (environment['EVERPOINT_LISTEN'] || DEFAULT_URL);
  const state = options.state ?? (environment['EVERPOINT_STATE'] || './var');
  const namedFile = options.tokenFile ?? (environment['EVERPOINT_TOKEN_FILE'] || undefined);
  const tokenFile = path.resolve(namedFile ?? path.join(state, ADMIN_TOKEN_FILE));
  const given = environment['EVERPOINT_TOKEN']?.trim();
  const token =
    namedFile === undefined && given ? given : readToken(tokenFile, namedFile !== undefined);
  return { address: parseAddress(url), url, token, tokenFile };
}

function readToken(file: string, mustExist: boolean): string | undefined {
  try {
    const token = fs.readFileSync(file, 'utf8').trim();
    if (/^[\x21-\x7e]+$/.test(token)) return token;
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' && !mustExist) return undefined;
    throw new CliError(EXIT_FAILED, `cannot read the token: ${message}`, { cause: error });
  }
  throw new CliError(EXIT_FAILED, `${file} holds no token`);
}

/** `http://host:port`, `host:port`, `unix:/path` or `/path`. */
export function parseAddress(text: string): Address {
  const socketPath = text.replace(/^(unix|http\+unix):(\/\/)?(?=\/)/, '');
  if (socketPath.startsWith('/')) return { kind: 'unix', socketPath };
  let url: URL;
  try {
    url = new URL(/^[a-z]+:\/\//i.test(text) ? text : `http://${text}`);
  } catch {
    throw usageError(`not a URL: ${text}`);
  }
  if (url.protocol !== 'http:' && url.protocol !== 'https:') {
    throw usageError(`the URL must begin with http:, https: or unix:, not ${url.protocol}`);
  }
  const kind = url.protocol === 'https:' ? 'https' : 'http';
  const standard = kind === 'https' ? 443 : 80;
  return {
    kind,
    host: url.hostname.replace(/^\[|\]$/g, ''),
    port: url.port === '' ? standard : Number(url.port),
    prefix: url.pathname.replace(/\/+$/, ''),
  };
}
