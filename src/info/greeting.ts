// SPDX-License-Identifier: Apache-2.0
import path from 'node:path';
import { packageRoot } from '../data-plane/paths.js';

/** Where the command looks for the service when nothing else is said. */
const DEFAULT_URL = 'http://127.0.0.1:8320';

export interface Greeting {
  version: string;
  url: string;
  docs: string;
  /** The file. */
  token: string;
  state: string;
  /** Where the reader is. */
  cwd: string;
}

/** What a started service says: where it is, and a command that works as it stands there. */
export function greeting(about: Greeting): string {
  const { version, url, docs, token, state, cwd } = about;
  const cli = [
    shellWord(commandPath(cwd)),
    ...(url === DEFAULT_URL ? [] : ['--url', shellWord(url)]),
    ...(state === path.join(cwd, 'var') ? [] : ['--state', shellWord(state)]),
  ].join(' ');
  const disk = shellWord(path.join(state, 'web-1.raw'));
  return [
    `Everpoint ${version} is ready.`,
    `  REST    ${url}  (documentation: ${docs})`,
    `  token   ${token}`,
    `  state   ${state}`,
    `  next    ${cli} protect --create --size 10G --baseline none --name web-1 ${disk}`,
    `          ${cli} status`,
    '',
  ].join('\n');
}

function commandPath(cwd: string): string {
  const file = path.join(packageRoot(), 'deploy', 'bin', 'everpoint');
  const way = path.relative(cwd, file);
  return way.startsWith('..') ? file : way;
}

function shellWord(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
