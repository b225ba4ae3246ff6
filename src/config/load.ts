// SPDX-License-Identifier: Apache-2.0
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { plainToInstance } from 'class-transformer';
import { validateSync } from 'class-validator';
import { parse } from 'yaml';
import { runDir } from '../data-plane/paths.js';
import { Configuration, ENVIRONMENT, type ListenAddress, Settings } from './configuration.js';

/** Read when no `--config` is given and it is there. */
export const DEFAULT_CONFIG_FILE = '/etc/everpoint/everpoint.yaml';

/** A volume whose name is longer has its number in its socket's path (data-plane/paths counts on it). */
export const SOCKET_VOLUME_BYTES_MAX = 24;

/** The configuration cannot be used; `problems` has one line per fault. */
export class ConfigurationError extends Error {
  constructor(
    readonly source: string,
    readonly problems: string[],
  ) {
    super(`The configuration (${source}) cannot be used:\n  - ${problems.join('\n  - ')}`);
    this.name = 'ConfigurationError';
  }
}

export interface LoadOptions {
  /** From `--config`. */
  file?: string;
  environment: Record<string, string | undefined>;
}

/** Reads file and environment, checks every key, and answers what the service uses. */
export function loadSettings(options: LoadOptions): Settings {
  const { values, file } = readFile(options.file);
  const source = file ? `${file} and EVERPOINT_… variables` : 'EVERPOINT_… variables';
  for (const [key, variable] of Object.entries(ENVIRONMENT)) {
    const text = options.environment[variable];
    if (text === undefined || text === '') continue;
    values[key] = key === 'roots' ? text.split(':').filter((part) => part !== '') : text;
  }
  return resolveConfiguration(checkConfiguration(values, source), file);
}

function readFile(given: string | undefined): { values: Record<string, unknown>; file?: string } {
  const file = given ?? DEFAULT_CONFIG_FILE;
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    if (given === undefined && (error as NodeJS.ErrnoException).code === 'ENOENT') {
      return { values: {} };
    }
    throw new ConfigurationError(file, [(error as Error).message]);
  }
  let parsed: unknown;
  try {
    parsed = parse(text);
  } catch (error) {
    throw new ConfigurationError(file, [`not YAML: ${(error as Error).message}`]);
  }
  if (parsed === null || parsed === undefined) return { values: {}, file };
  if (typeof parsed !== 'object' || Array.isArray(parsed)) {
    throw new ConfigurationError(file, ['the file must hold keys and values']);
  }
  return { values: { ...(parsed as Record<string, unknown>) }, file };
}

/** Checks plain values; unknown keys are faults, so that a typing error is not a silent default. */
export function checkConfiguration(values: Record<string, unknown>, source: string): Configuration {
  const problems: string[] = [];
  const known = Object.keys(ENVIRONMENT);
  const wanted: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(values)) {
    if (!known.includes(key)) problems.push(`unknown key "${key}"; known: ${known.join(', ')}`);
    else if (value !== null && value !== undefined) wanted[key] = value;
  }
  const configuration = plainToInstance(Configuration, wanted);
  for (const fault of validateSync(configuration)) {
    const variable = ENVIRONMENT[fault.property as keyof Configuration];
    for (const text of Object.values(fault.constraints ?? {})) {
      problems.push(`${text} (key "${fault.property}", ${variable})`);
    }
  }
  if (problems.length > 0) throw new ConfigurationError(source, problems);
  return configuration;
}

/** Makes paths absolute and fills in what depends on other keys. */
export function resolveConfiguration(configuration: Configuration, file?: string): Settings {
  const state = path.resolve(configuration.state);
  const roots = configuration.roots ?? [state, '/var/lib/libvirt/images'];
  const settings = new Settings();
  Object.assign(settings, configuration, {
    file,
    state,
    listen: parseListen(configuration.listen),
    roots: roots.map((root) => path.resolve(root)),
    runDir: path.resolve(configuration.runDir ?? runDir(state)),
  });
  return settings;
}

function parseListen(text: string): ListenAddress {
  if (text.startsWith('unix:')) return { kind: 'unix', path: text.slice('unix:'.length) };
  if (text.startsWith('/')) return { kind: 'unix', path: text };
  const at = text.lastIndexOf(':');
  const host = text.slice(0, at).replace(/^\[|\]$/g, '');
  const port = Number(text.slice(at + 1));
  if (port > 65_535) throw new ConfigurationError('listen', [`${port} is not a port`]);
  return { kind: 'tcp', host: host === '' ? '0.0.0.0' : host, port };
}

/** The address as people and URLs write it. */
export function describeListen(address: ListenAddress): string {
  if (address.kind === 'unix') return `unix:${address.path}`;
  const host = address.host.includes(':') ? `[${address.host}]` : address.host;
  return `http://${host}:${address.port}`;
}
