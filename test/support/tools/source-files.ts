// SPDX-License-Identifier: Apache-2.0
import { closeSync, existsSync, openSync, readdirSync, readSync } from 'node:fs';
import { join } from 'node:path';

const FOLDERS = ['native', 'src', 'test', 'bench'];

/** Files below the source folders, as paths from `root`, whose name matches. */
function sourceFiles(root: string, name: RegExp): string[] {
  return FOLDERS.filter((folder) => existsSync(join(root, folder))).flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
      .filter((file) => name.test(file) && !/(^|\/)(fixtures|golden|node_modules)\//.test(file))
      .map((file) => `${folder}/${file}`)
      .sort(),
  );
}

/** All C++ files of the project. */
export const cppFiles = (root: string): string[] => sourceFiles(root, /\.(h|cc)$/);

function beginning(path: string): string {
  const file = openSync(path, 'r');
  try {
    const bytes = Buffer.alloc(200);
    return bytes.toString('utf8', 0, readSync(file, bytes));
  } finally {
    closeSync(file);
  }
}

/** Source files that do not say in their first lines under which licence they are. */
export function filesWithoutLicence(root: string): string[] {
  return sourceFiles(root, /\.(h|cc|ts|js|mjs|sh)$/).filter(
    (file) => !beginning(join(root, file)).includes('SPDX-License-Identifier: Apache-2.0'),
  );
}
