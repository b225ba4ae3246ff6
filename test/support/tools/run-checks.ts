// SPDX-License-Identifier: Apache-2.0
//
// Everything that can be said about the tree without running the product: format, lint, layers, types,
// and the unit tests. Goes on after a failure, so that one run shows all; closes with one line.
//
//   node test/support/tools/run-checks.ts [--no-unit]
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { cppFiles, filesWithoutLicence } from './source-files.ts';

const ROOT = join(import.meta.dirname, '../../..');
const BIN = join(ROOT, 'node_modules/.bin');

function run(command: string, args: string[]): boolean {
  const result = spawnSync(command, args, { cwd: ROOT, stdio: ['ignore', 'inherit', 'inherit'] });
  if (result.error !== undefined) console.error(`${command}: ${result.error.message}`);
  return result.status === 0;
}

/** Runs a program of node_modules/.bin on the Node that runs this. */
const tool = (name: string, ...args: string[]): boolean =>
  run(process.execPath, [join(BIN, name), ...args]);

function licenceLines(): boolean {
  const without = filesWithoutLicence(ROOT);
  for (const file of without)
    console.error(`${file}: no SPDX-License-Identifier in its first lines`);
  return without.length === 0;
}

const CHECKS: Array<[name: string, check: () => boolean]> = [
  ['licence lines', licenceLines],
  ['format: prettier', () => tool('prettier', '--check', '--log-level', 'warn', '.')],
  [
    'format: clang-format',
    () => {
      const files = cppFiles(ROOT);
      return files.length === 0 || run('clang-format', ['--dry-run', '-Werror', ...files]);
    },
  ],
  ['lint: eslint', () => tool('eslint', '--max-warnings', '0', '.')],
  [
    'layers: TypeScript',
    () =>
      tool('depcruise', '--config', '.dependency-cruiser.mjs', '--output-type', 'err-long', 'src'),
  ],
  [
    'layers: C++ includes',
    () => run(process.execPath, [join(import.meta.dirname, 'check-includes.ts')]),
  ],
  [
    'types: product',
    () => tool('tsc', '--noEmit', '--tsBuildInfoFile', 'build/tsc/check.tsbuildinfo'),
  ],
  ['types: tests and benches', () => tool('tsc', '-p', 'test/tsconfig.json')],
  ['unit tests', () => tool('vitest', 'run', '--project', 'unit')],
];

const checks = CHECKS.filter(
  ([name]) => name !== 'unit tests' || !process.argv.includes('--no-unit'),
);
const failed: string[] = [];
for (const [name, check] of checks) {
  const begin = performance.now();
  console.log(`check: ${name}`);
  const ok = check();
  const seconds = ((performance.now() - begin) / 1000).toFixed(1);
  console.log(`check:   ${ok ? 'ok' : 'FAILED'} in ${seconds} s`);
  if (!ok) failed.push(name);
}
if (failed.length > 0) console.log(`\nfailed: ${failed.join(', ')}`);
console.log(`${String(checks.length - failed.length)} passed, ${String(failed.length)} failed`);
process.exitCode = failed.length > 0 ? 1 : 0;
