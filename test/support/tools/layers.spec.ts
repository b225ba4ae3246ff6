// SPDX-License-Identifier: Apache-2.0
//
// The layer rules, tried on small trees that break them: a rule that never fires protects nothing.
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

const ROOT = join(import.meta.dirname, '../../..');
let root = '';

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'everpoint-layers-'));
  const manifest = {
    type: 'module',
    dependencies: { rxjs: '*' },
    devDependencies: { vitest: '*' },
  };
  writeFileSync(join(root, 'package.json'), JSON.stringify(manifest));
  writeFileSync(
    join(root, 'tsconfig.json'),
    JSON.stringify({ compilerOptions: { module: 'nodenext', moduleResolution: 'nodenext' } }),
  );
  symlinkSync(join(ROOT, 'node_modules'), join(root, 'node_modules'));
});

afterEach(() => {
  rmSync(root, { recursive: true, force: true });
});

interface Report {
  summary: { violations: Array<{ from: string; to: string; rule: { name: string } }> };
}

/** Writes files below src/, each with the given imports, and tells what breaks: `rule from`. */
function cruise(files: Record<string, string[]>): string[] {
  for (const [name, imports] of Object.entries(files)) {
    const path = join(root, 'src', name);
    mkdirSync(dirname(path), { recursive: true });
    const lines = imports.map((target) => `import '${target}';\n`);
    writeFileSync(path, `${lines.join('')}export const here = 1;\n`);
  }
  const result = spawnSync(
    process.execPath,
    [
      join(ROOT, 'node_modules/.bin/depcruise'),
      ...['--config', join(ROOT, '.dependency-cruiser.mjs')],
      ...['--no-cache', '--output-type', 'json', 'src'],
    ],
    { cwd: root, encoding: 'utf8', maxBuffer: 64 << 20 },
  );
  if (!result.stdout.startsWith('{')) throw new Error(result.stderr);
  const report = JSON.parse(result.stdout) as Report;
  return report.summary.violations.map(({ rule, from }) => `${rule.name} ${from}`).sort();
}

/** Every ordered folder with one that it must not import; the first of each file is imported. */
const ORDER = [
  ...['common', 'maps', 'workers', 'config', 'auth', 'metrics', 'events', 'jobs', 'devices'],
  ...['policies', 'groups', 'history', 'lifecycle', 'views', 'restores', 'rewinds'],
  ...['verifications', 'timeline', 'info', 'health'],
];

describe('layers of src/', () => {
  it('lets each folder import what stands before it, and the application everything', () => {
    const files: Record<string, string[]> = {};
    for (const [index, folder] of ORDER.entries()) {
      files[`${folder}/a.ts`] = ORDER.slice(0, index).map((other) => `../${other}/a.js`);
    }
    files['data-plane/a.ts'] = ['../maps/a.js', 'rxjs'];
    files['catalog/a.ts'] = ['../common/a.js'];
    files['groups/b.ts'] = ['../data-plane/a.js', '../catalog/a.js'];
    files['app.module.ts'] = ORDER.map((folder) => `./${folder}/a.js`);
    files['main.ts'] = ['./app.module.js'];
    files['cli/main.ts'] = ['../common/a.js', './offline/a.js'];
    files['cli/offline/a.ts'] = ['../../catalog/a.js', '../../maps/a.js'];
    files['data-plane/native.ts'] = ['node:module'];
    expect(cruise(files)).toEqual([]);
  });

  it('forbids each folder what stands after it', () => {
    const files: Record<string, string[]> = { 'cli/z.ts': [] };
    for (const folder of ORDER) {
      files[`${folder}/a.ts`] = [];
      const after = ORDER[ORDER.indexOf(folder) + 1];
      files[`${folder}/up.ts`] = [after === undefined ? '../cli/z.js' : `../${after}/a.js`];
    }
    expect(cruise(files)).toEqual(
      ORDER.map((folder) => `layer-${folder} src/${folder}/up.ts`).sort(),
    );
  });

  it('keeps workers, data-plane and catalog apart', () => {
    expect(
      cruise({
        'workers/a.ts': [],
        'catalog/a.ts': [],
        'data-plane/a.ts': [],
        'workers/b.ts': ['../catalog/a.js'],
        'catalog/b.ts': ['../data-plane/a.js'],
        'data-plane/b.ts': ['../workers/a.js'],
      }),
    ).toEqual([
      'layer-catalog src/catalog/b.ts',
      'layer-data-plane src/data-plane/b.ts',
      'layer-workers src/workers/b.ts',
    ]);
  });

  it('knows every folder', () => {
    expect(
      cruise({
        'common/a.ts': [],
        'alone/a.ts': [],
        'stray.ts': [],
        'misc/a.ts': ['../common/a.js'],
        'health/a.ts': ['../misc/a.js'],
      }),
    ).toEqual([
      'layer-health src/health/a.ts',
      'unknown-folder src/misc/a.ts',
      'unknown-folder-alone src/alone/a.ts',
      'unknown-folder-alone src/stray.ts',
      'unknown-folder-imported src/health/a.ts',
    ]);
  });
});

describe('the faces', () => {
  it('cli and web speak REST only', () => {
    expect(
      cruise({
        'groups/a.ts': [],
        'common/a.ts': [],
        'cli/a.ts': ['../groups/a.js'],
        'cli/offline/a.ts': ['../../groups/a.js'],
        'web/a.ts': ['../common/a.js'],
      }),
    ).toEqual([
      'cli-offline-needs-no-service src/cli/offline/a.ts',
      'cli-speaks-rest src/cli/a.ts',
      'web-speaks-rest src/web/a.ts',
    ]);
  });
});

describe('the rest', () => {
  it('no circles, one door to the addon, declared packages, nothing from test/', () => {
    mkdirSync(join(root, 'test'));
    writeFileSync(join(root, 'test/a.ts'), 'export const here = 1;\n');
    expect(
      cruise({
        'common/a.ts': ['./b.js'],
        'common/b.ts': ['./a.js'],
        'data-plane/other.ts': ['node:module'],
        'maps/a.ts': ['vitest'],
        'maps/a.spec.ts': ['vitest'],
        'maps/b.ts': ['../../test/a.js'],
        'maps/c.ts': ['./missing.js'],
        'maps/d.ts': ['kysely'],
      }),
    ).toEqual([
      'declared-packages-only src/maps/d.ts',
      'no-circular src/common/a.ts',
      'no-unresolvable src/maps/c.ts',
      'one-file-loads-the-addon src/data-plane/other.ts',
      'product-does-not-need-dev-packages src/maps/a.ts',
      'product-does-not-need-tests src/maps/b.ts',
    ]);
  });
});
