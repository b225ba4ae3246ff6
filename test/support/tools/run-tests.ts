// SPDX-License-Identifier: Apache-2.0
//
// Runs every test and closes with one line, `N passed, N failed`. deploy/setup has built everything.
//
//   node test/support/tools/run-tests.ts [release] [asan] [tsan] [unit] [integration]
//
// A runner that crashes, hangs, leaves no report or finds no test counts as one failure: the sum must
// never be greener than what was seen.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { add, closingLine, countCtest, countVitest, type Counts } from './test-counts.ts';

const ROOT = join(import.meta.dirname, '../../..');
const REPORTS = join(ROOT, 'build/test');
const SUITE_MINUTES_MAX = 20;

/** Runs a program with our output; resolves to its exit code, or 1 if it did not end by itself. */
function run(command: string, args: string[]): number {
  const result = spawnSync(command, args, {
    cwd: ROOT,
    stdio: ['ignore', 'inherit', 'inherit'],
    timeout: SUITE_MINUTES_MAX * 60_000,
  });
  if (result.error !== undefined) console.error(`${command}: ${result.error.message}`);
  if (result.signal !== null) console.error(`${command}: ended by ${result.signal}`);
  return result.status ?? 1;
}

function native(flavour: string): Counts {
  const build = join(ROOT, 'build', flavour);
  const junit = join(REPORTS, `${flavour}.xml`);
  const gtest = join(build, 'gtest');
  rmSync(junit, { force: true });
  rmSync(gtest, { recursive: true, force: true });
  const code = run('ctest', [
    '--test-dir',
    build,
    '--output-on-failure',
    '--no-tests=error',
    '--parallel',
    '2',
    '--output-junit',
    junit,
  ]);
  return countCtest(code, junit, gtest);
}

function vitest(project: string, extra: string[]): Counts {
  const report = join(REPORTS, `${project}.json`);
  rmSync(report, { force: true });
  const code = run(process.execPath, [
    join(ROOT, 'node_modules/vitest/vitest.mjs'),
    'run',
    '--project',
    project,
    '--reporter=default',
    '--reporter=json',
    `--outputFile.json=${report}`,
    ...extra,
  ]);
  return countVitest(code, report);
}

const SUITES: Record<string, () => Counts> = {
  release: () => native('release'),
  asan: () => native('asan'),
  tsan: () => native('tsan'),
  unit: () => vitest('unit', []),
  // These start services, sockets and guests; two at once would only measure each other.
  integration: () => vitest('integration', ['--no-file-parallelism']),
};

const asked = process.argv.slice(2);
const unknown = asked.filter((name) => !(name in SUITES));
if (unknown.length > 0) {
  console.error(`no such suite: ${unknown.join(' ')}; there are ${Object.keys(SUITES).join(' ')}`);
  process.exit(2);
}

mkdirSync(REPORTS, { recursive: true });
let total: Counts = { passed: 0, failed: 0, skipped: 0 };
const summary: string[] = [];
for (const [name, suite] of Object.entries(SUITES)) {
  if (asked.length > 0 && !asked.includes(name)) continue;
  console.log(`\n=== ${name}`);
  const begin = performance.now();
  const counts = suite();
  total = add(total, counts);
  const seconds = ((performance.now() - begin) / 1000).toFixed(1);
  summary.push(
    `${name.padEnd(12)} ${String(counts.passed).padStart(5)} passed ${String(counts.failed).padStart(4)} failed ` +
      `${String(counts.skipped).padStart(4)} skipped  ${seconds.padStart(6)} s`,
  );
}
if (existsSync(REPORTS)) console.log(`\nreports: ${REPORTS}`);
console.log(`${summary.join('\n')}\n${closingLine(total)}`);
process.exitCode = total.failed > 0 || total.passed === 0 ? 1 : 0;
