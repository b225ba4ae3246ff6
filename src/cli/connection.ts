// SPDX-License-Identifier: Apache-2.0

import * as fs from 'node:fs';
import * as path from 'node:path';

import { CliError, EXIT_FAILED, usageError } from './errors.js';

const DEFAULT_URL = 'http://127.0.0.1:8320';
const ADMIN_TOKEN_FILE = 'admin.token';
const READ_FAULTS: Readonly<Record<string, string>> = {
  EACCES: 'it belongs to another user; run this as the one the service runs as',
  EISDIR: 'it is a folder',
};

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
  /** The files it was looked for in. */
  readonly tokenFiles: readonly string[];
}

/** @throws CliError for a URL or a token file that was named and cannot be used */
export function resolveConnection(
  options: ConnectionOptions,
  environment: NodeJS.ProcessEnv,
  cwd: string,
): Connection {
  const named = options.url ?? (environment['EVERPOINT_URL'] || undefined);
  const url = named ?? (environment['EVERPOINT_LISTEN'] || DEFAULT_URL);
  const address = parseAddress(url);
  const namedFile = options.tokenFile ?? (environment['EVERPOINT_TOKEN_FILE'] || undefined);
  if (namedFile !== undefined) {
    const file = path.resolve(cwd, namedFile);
    const token = readToken(file);
    if (token !== undefined) return { address, url, token, tokenFiles: [file] };
    const by = options.tokenFile === undefined ? 'EVERPOINT_TOKEN_FILE' : '--token-file';
    throw new CliError(EXIT_FAILED, `there is no token file ${file}`, {
      hint: `${by} names it; a service writes its own to admin.token in its state folder`,
    });
  }
  const tokenFiles = stateFolders(options, environment).map((folder) =>
    path.resolve(cwd, folder, ADMIN_TOKEN_FILE),
  );
  const given = environment['EVERPOINT_TOKEN']?.trim();
  if (given) return { address, url, token: given, tokenFiles };
  for (const file of tokenFiles) {
    const token = readToken(file);
    if (token !== undefined) return { address, url, token, tokenFiles };
  }
  return { address, url, token: undefined, tokenFiles };
}

/** The launcher says where the program lies: a service started there has its state below. */
function stateFolders(options: ConnectionOptions, environment: NodeJS.ProcessEnv): string[] {
  const named = options.state ?? (environment['EVERPOINT_STATE'] || undefined);
  if (named !== undefined) return [named];
  const home = environment['EVERPOINT_HOME'];
  return home ? ['./var', path.join(home, 'var')] : ['./var'];
}

/** Nothing when there is no such file. */
function readToken(file: string): string | undefined {
  let token: string;
  try {
    token = fs.readFileSync(file, 'utf8').trim();
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    const why = READ_FAULTS[code ?? ''] ?? message;
    throw new CliError(EXIT_FAILED, `cannot read the token in ${file}: ${why}`, { cause: error });
  }
  if (/^[\x21-\x7e]+$/.test(token)) return token;
  throw new CliError(EXIT_FAILED, `${file} holds no token`);
}

/** `http://host:port`, `host:port`, `unix:/path` or `/path`. */
export function parseAddress(text: string): Address {
  const socketPath = text.replace(/^(unix|http\+unix):(\/\/)?(?=\/)/, '');
  if (socketPath.startsWith('/')) return { kind: 'unix', socketPath };
  // Of a listen address the host may be left out; a lone word is more likely a slip.
  const local = /^:\d+$/.test(text) ? `127.0.0.1${text}` : text;
  let url: URL;
  try {
    if (!/^[a-z]+:\/\/|:\d+\/?$/i.test(local)) throw new Error('neither scheme nor port');
    url = new URL(/^[a-z]+:\/\//i.test(local) ? local : `http://${local}`);
  } catch {
    throw usageError(
      `not a URL: ${text}`,
      'write it like http://127.0.0.1:8320 or unix:/run/everpoint.sock',
    );
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
