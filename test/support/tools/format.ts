// SPDX-License-Identifier: Apache-2.0
//
// Formats everything in place: prettier, then clang-format.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { cppFiles } from './source-files.ts';

const ROOT = join(import.meta.dirname, '../../..');

const run = (command: string, args: string[]): number =>
  spawnSync(command, args, { cwd: ROOT, stdio: 'inherit' }).status ?? 1;

const files = cppFiles(ROOT);
const codes = [
  run(process.execPath, [
    join(ROOT, 'node_modules/.bin/prettier'),
    '--write',
    '--log-level',
    'warn',
    '.',
  ]),
  files.length === 0 ? 0 : run('clang-format', ['-i', ...files]),
];
process.exitCode = Math.max(...codes);
