// SPDX-License-Identifier: Apache-2.0
//
// Turns the reports of the test runners into counts. A report says what a runner saw; its exit code
// says whether it got to the end. Where the two disagree, the worse one holds.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

export interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}

export const add = (a: Counts, b: Counts): Counts => ({
  passed: a.passed + b.passed,
  failed: a.failed + b.failed,
  skipped: a.skipped + b.skipped,
});

/** The one line that a run ends with. */
export const closingLine = (counts: Counts): string =>
  `${String(counts.passed)} passed, ${String(counts.failed)} failed`;

/** One failure, and why nobody could count better. */
function broken(why: string): Counts {
  console.error(`counted as a failure: ${why}`);
  return { passed: 0, failed: 1, skipped: 0 };
}

function readJson(path: string): unknown {
  try {
    return JSON.parse(readFileSync(path, 'utf8'));
  } catch {
    return undefined;
  }
}

interface GtestReport {
  testsuites: Array<{
    testsuite: Array<{ status: string; result: string; failures?: unknown[] }>;
  }>;
}

function countGtest(program: string, ok: boolean, path: string): Counts {
  const report = readJson(path) as GtestReport | undefined;
  if (report === undefined) {
    return broken(`${program} left no report: it crashed, hung or was not built`);
  }
  const counts: Counts = { passed: 0, failed: 0, skipped: 0 };
  for (const test of report.testsuites.flatMap((suite) => suite.testsuite)) {
    if ((test.failures?.length ?? 0) > 0) counts.failed += 1;
    else if (test.status !== 'RUN' || test.result === 'SKIPPED') counts.skipped += 1;
    else counts.passed += 1;
  }
  // A leak or a race is reported when every test has passed already.
  if (!ok && counts.failed === 0) {
    return add(counts, broken(`${program} failed after its last test (a sanitizer's report?)`));
  }
  return counts;
}

/**
 * Counts the googletest cases of one ctest run.
 * @param code - ctest's exit code
 * @param junit - ctest's own report: which programs ran, and how each ended
 * @param gtest - the folder with one googletest report per program
 */
export function countCtest(code: number, junit: string, gtest: string): Counts {
  if (!existsSync(junit)) return broken(`ctest ended with ${String(code)} and left no report`);
  const programs = [
    ...readFileSync(junit, 'utf8').matchAll(/<testcase name="([^"]+)"[^>]*? status="([^"]+)"/g),
  ];
  if (programs.length === 0) return broken('ctest ran no test program');
  const counts = programs
    .map(([, name = '', status]) => countGtest(name, status === 'run', join(gtest, `${name}.json`)))
    .reduce(add);
  if (code !== 0 && counts.failed === 0) {
    return add(counts, broken(`ctest ended with ${String(code)}`));
  }
  return counts;
}

interface VitestReport {
  numPassedTests: number;
  numFailedTests: number;
  numPendingTests: number;
  numTodoTests: number;
  testResults: Array<{ name: string; status: string; assertionResults: Array<{ status: string }> }>;
}

/**
 * Counts one vitest run.
 * @param code - vitest's exit code
 * @param path - its JSON report
 */
export function countVitest(code: number, path: string): Counts {
  const report = readJson(path) as VitestReport | undefined;
  if (report === undefined) return broken(`vitest ended with ${String(code)} and left no report`);
  let counts: Counts = {
    passed: report.numPassedTests,
    failed: report.numFailedTests,
    skipped: report.numPendingTests + report.numTodoTests,
  };
  // A file that could not be loaded, or whose hooks failed, has no failed test of its own.
  for (const file of report.testResults) {
    const inside = file.assertionResults.some((test) => test.status === 'failed');
    if (file.status === 'failed' && !inside) {
      counts = add(counts, broken(`${file.name} could not be run to its end`));
    }
  }
  if (counts.passed + counts.failed === 0) return broken('vitest ran no test');
  if (code !== 0 && counts.failed === 0) {
    return add(counts, broken(`vitest ended with ${String(code)}, after its last test`));
  }
  return counts;
}
