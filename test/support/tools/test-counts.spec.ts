// SPDX-License-Identifier: Apache-2.0
//
// A run that looks greener than it was would let a broken product land: whatever a runner does, what
// could not be counted is a failure.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { closingLine, countCtest, countVitest } from './test-counts.ts';

let folder = '';

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'everpoint-counts-'));
  vi.spyOn(console, 'error').mockImplementation(() => undefined);
});

afterEach(() => {
  rmSync(folder, { recursive: true, force: true });
});

function ctest(code: number, programs: Record<string, [status: string, report?: unknown]>) {
  mkdirSync(join(folder, 'gtest'), { recursive: true });
  const cases = Object.entries(programs).map(([name, [status, report]]) => {
    if (report !== undefined) {
      writeFileSync(join(folder, 'gtest', `${name}.json`), JSON.stringify(report));
    }
    return `\t<testcase name="${name}" classname="${name}" time="0.1" status="${status}">\n`;
  });
  const junit = join(folder, 'junit.xml');
  writeFileSync(junit, `<testsuite>\n${cases.join('\t</testcase>\n')}\n</testsuite>`);
  return countCtest(code, junit, join(folder, 'gtest'));
}

const passing = { status: 'RUN', result: 'COMPLETED' };
const failing = { ...passing, failures: [{ failure: 'no' }] };
const skipped = { status: 'RUN', result: 'SKIPPED' };
const disabled = { status: 'NOTRUN', result: 'SUPPRESSED' };
const report = (...tests: unknown[]) => ({ testsuites: [{ testsuite: tests }] });

describe('googletest through ctest', () => {
  it('adds up every case of every program', () => {
    const counts = ctest(8, {
      test_base: ['run', report(passing, passing, skipped)],
      test_log: ['fail', report(passing, failing, disabled)],
    });
    expect(counts).toEqual({ passed: 3, failed: 1, skipped: 2 });
  });

  it('counts a program that left no report as a failure', () => {
    const counts = ctest(8, { test_base: ['run', report(passing)], test_log: ['fail'] });
    expect(counts).toEqual({ passed: 1, failed: 1, skipped: 0 });
  });

  it("counts a sanitizer's report after the last test as a failure", () => {
    expect(ctest(8, { test_base: ['fail', report(passing, passing)] })).toEqual({
      passed: 2,
      failed: 1,
      skipped: 0,
    });
  });

  it('counts as a failure when nothing ran, or nothing was written', () => {
    expect(ctest(0, {}).failed).toBe(1);
    expect(countCtest(0, join(folder, 'missing.xml'), folder).failed).toBe(1);
  });

  it('does not believe a report when ctest itself failed', () => {
    expect(ctest(3, { test_base: ['run', report(passing)] })).toMatchObject({ failed: 1 });
  });
});

describe('vitest', () => {
  const vitest = (code: number, content?: unknown) => {
    const path = join(folder, 'vitest.json');
    if (content !== undefined) writeFileSync(path, JSON.stringify(content));
    return countVitest(code, path);
  };
  const counts = (passed: number, failed: number) => ({
    numPassedTests: passed,
    numFailedTests: failed,
    numPendingTests: 1,
    numTodoTests: 0,
  });
  const file = (status: string, ...tests: string[]) => ({
    name: 'a.spec.ts',
    status,
    assertionResults: tests.map((each) => ({ status: each })),
  });

  it('takes the counts of the report', () => {
    const testResults = [file('failed', 'passed', 'failed'), file('passed', 'passed')];
    expect(vitest(1, { ...counts(2, 1), testResults })).toEqual({
      passed: 2,
      failed: 1,
      skipped: 1,
    });
  });

  it('counts a file that could not be loaded as a failure', () => {
    const testResults = [file('failed'), file('passed', 'passed')];
    expect(vitest(1, { ...counts(1, 0), testResults })).toMatchObject({ passed: 1, failed: 1 });
  });

  it('counts a crash, an empty run and an error after the last test as failures', () => {
    expect(vitest(134)).toMatchObject({ passed: 0, failed: 1 });
    expect(vitest(0, { ...counts(0, 0), testResults: [] })).toMatchObject({ failed: 1 });
    const testResults = [file('passed', 'passed')];
    expect(vitest(1, { ...counts(1, 0), testResults })).toMatchObject({ passed: 1, failed: 1 });
  });
});

it('closes with one line', () => {
  expect(closingLine({ passed: 12, failed: 0, skipped: 3 })).toBe('12 passed, 0 failed');
});
