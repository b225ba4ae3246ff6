// SPDX-License-Identifier: Apache-2.0
import path from 'node:path';
import { expect, it } from 'vitest';
import { packageRoot } from '../data-plane/paths.js';
import { greeting } from './greeting.js';

const root = path.resolve(packageRoot());
const about = {
  version: '1',
  url: 'http://127.0.0.1:8320',
  docs: '/docs',
  token: '/t',
  state: path.join(root, 'var'),
  cwd: root,
};

/** The commands of a greeting. */
function commands(change: Partial<typeof about>): string[] {
  const lines = greeting({ ...about, ...change }).split('\n');
  return lines
    .filter((line) => /everpoint /.test(line))
    .map((line) => line.replace(/^ +(next)? +/, ''));
}

it('names the command as it can be called from here, and only what it cannot find by itself', () => {
  // Broke: "everpoint protect FILE", of a program in no PATH, without options that it insists on.
  const disk = path.join(root, 'var', 'web-1.raw');
  const protect = 'protect --create --size 10G --baseline none --name web-1';
  expect(commands({})).toEqual([
    `deploy/bin/everpoint ${protect} ${disk}`,
    'deploy/bin/everpoint status',
  ]);
  expect(commands({ cwd: '/', url: 'unix:/run/e.sock', state: "/it's" })[0]).toBe(
    `${path.relative('/', root)}/deploy/bin/everpoint --url unix:/run/e.sock ` +
      `--state '/it'\\''s' ${protect} '/it'\\''s/web-1.raw'`,
  );
  expect(commands({ cwd: '/usr' })[1]).toMatch(
    new RegExp(`^${root}/deploy/bin/everpoint --state `),
  );
});
