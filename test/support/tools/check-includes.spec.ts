// SPDX-License-Identifier: Apache-2.0
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { checkIncludes, FOLDER_RULES } from './check-includes.ts';

let root = '';

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'everpoint-includes-'));
});

afterEach(() => {
  rmSync(root, { recursive: true, force: true });
});

/** Writes files below native/, each with the given include lines. */
function tree(files: Record<string, string[]>): void {
  for (const [name, includes] of Object.entries(files)) {
    const path = join(root, 'native', name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, includes.map((include) => `#include ${include}\n`).join(''));
  }
}

const rulesBroken = (): string[] => checkIncludes(root).map((violation) => violation.rule);

/** For each folder, one that it must not see. */
const FORBIDDEN: Record<string, string> = {
  base: 'format',
  format: 'io',
  io: 'format',
  reactor: 'block',
  block: 'log',
  log: 'nvram',
  nvram: 'drl',
  drl: 'split',
  split: 'view',
  view: 'recovery',
  recovery: 'copy',
  copy: 'recovery',
  export: 'format',
  volume: 'addon',
};

describe('the order of the folders', () => {
  it.each(Object.entries(FORBIDDEN))('%s may not include %s', (folder, other) => {
    tree({ [`${folder}/a.cc`]: ['<vector>', `"${other}/b.h"`] });
    const [violation, ...more] = checkIncludes(root);
    expect(more).toEqual([]);
    expect(violation).toMatchObject({
      file: `native/${folder}/a.cc`,
      line: 2,
      rule: `order-${folder}`,
    });
    expect(violation?.message).toContain(FOLDER_RULES[folder]?.reason);
  });

  it('has a forbidden example for every folder but the topmost', () => {
    expect(Object.keys(FORBIDDEN).sort()).toEqual(
      Object.keys(FOLDER_RULES)
        .filter((folder) => folder !== 'addon')
        .sort(),
    );
  });

  it('holds for tests and for angle brackets', () => {
    tree({ 'base/a_test.cc': ['"log/b.h"'], 'io/a.h': ['<block/device.h>'] });
    expect(rulesBroken()).toEqual(['order-base', 'order-io']);
  });

  it('lets every folder include itself and what stands before it', () => {
    tree(
      Object.fromEntries(
        Object.entries(FOLDER_RULES).map(([folder, rule]) => [
          `${folder}/a.h`,
          [folder, ...rule.sees].map((other) => `"${other}/x.h"`),
        ]),
      ),
    );
    expect(checkIncludes(root)).toEqual([]);
  });
});

describe('headers of one place', () => {
  it.each([
    ['<liburing.h>', 'liburing', 'block'],
    ['<rte_vhost.h>', 'rte-vhost', 'volume'],
    ['<rte_eal.h>', 'dpdk', 'base'],
    ['<napi.h>', 'napi', 'volume'],
    ['<node_api.h>', 'napi', 'base'],
  ])('%s breaks rule %s in folder %s', (header, rule, folder) => {
    tree({ [`${folder}/a.cc`]: [header] });
    expect(rulesBroken()).toContain(rule);
  });

  it('liburing.h and rte_vhost.h are seen by one file', () => {
    tree({
      'io/a.cc': ['<liburing.h>'],
      'export/a.cc': ['<rte_vhost.h>'],
      'addon/a.cc': ['<napi.h>'],
      'addon/b.cc': ['<napi.h>'],
    });
    expect(rulesBroken()).toEqual([]);
    tree({ 'io/b.cc': ['<liburing.h>'], 'export/b.cc': ['<rte_vhost.h>'] });
    expect(rulesBroken().sort()).toEqual(['liburing', 'rte-vhost']);
  });
});

describe('places and paths', () => {
  it('refuses a folder and a file without a rule', () => {
    tree({ 'misc/a.h': [], 'stray.cc': [] });
    expect(rulesBroken()).toEqual(['unknown-folder', 'unknown-folder']);
  });

  it('refuses includes that hide their folder', () => {
    tree({ 'base/a.cc': ['"status.h"', '"../io/io.h"', '"front-end/channel.h"'] });
    expect(rulesBroken()).toEqual(['include-path', 'include-path', 'include-path']);
  });

  it("lets a test, and only a test, use the tests' front-end", () => {
    tree({ 'export/a_test.cc': ['"front-end/channel.h"'] });
    expect(rulesBroken()).toEqual([]);
  });
});
