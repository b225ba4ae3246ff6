// SPDX-License-Identifier: Apache-2.0
//
// The order of the folders below native/, checked on the text of the #include lines. The table is the
// rule; each row says why, and the message of a violation repeats it. Tests obey the order too: one
// that needs more than its folder may see belongs in test/.
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

/** One broken rule, at one line (0: the file or folder as a whole). */
export interface Violation {
  file: string;
  line: number;
  rule: string;
  message: string;
}

interface FolderRule {
  /** Folders whose headers may be included, besides the folder's own. */
  sees: readonly string[];
  reason: string;
}

interface HeaderRule {
  name: string;
  header: RegExp;
  /** The only folder that may include it. */
  folder: string;
  /** In how many files of that folder at most. */
  files: number;
  reason: string;
}

const CORE = ['base', 'format', 'io', 'reactor', 'block'] as const;
const RECORDS = ['log', 'nvram', 'drl'] as const;
const LOGIC = ['split', 'view'] as const;
const STREAMS = ['recovery', 'copy'] as const;

const records: FolderRule = {
  sees: CORE,
  reason:
    'log, log buffer and DRL are separate records; what keeps them in step is the splitter and recovery, above them',
};
const logic: FolderRule = {
  sees: [...CORE, ...RECORDS],
  reason:
    'splitting and viewing work on the records alone and never on each other, on an export or on a volume',
};
const streams: FolderRule = {
  sees: [...CORE, ...RECORDS, ...LOGIC],
  reason:
    'opening a group and copying it are separate streams over the same records; the volume chooses between them',
};

/** What each folder of native/ may include. */
export const FOLDER_RULES: Readonly<Record<string, FolderRule>> = {
  base: { sees: [], reason: 'everything stands on base, so base stands on nothing' },
  format: {
    sees: ['base'],
    reason: 'byte layouts must be readable without any I/O, for tools and golden tests',
  },
  io: {
    sees: ['base'],
    reason: 'a simulated disk and clock replace io, so it must know neither layouts nor devices',
  },
  reactor: {
    sees: ['base', 'format', 'io'],
    reason: 'a reactor runs whatever is posted to it; it must not know what devices are',
  },
  block: {
    sees: ['base', 'format', 'io', 'reactor'],
    reason: 'devices stack under the log and the splitter and are tested without them',
  },
  log: records,
  nvram: records,
  drl: records,
  split: logic,
  view: logic,
  recovery: streams,
  copy: streams,
  export: {
    sees: ['base', 'io', 'reactor', 'block'],
    reason:
      'a front door turns bytes into a BlockRequest; what the request means lives behind that interface',
  },
  volume: {
    sees: [...CORE, ...RECORDS, ...LOGIC, ...STREAMS, 'export'],
    reason: 'volume puts a group together; only the addon stands above it',
  },
  addon: {
    sees: [...CORE, ...RECORDS, ...LOGIC, ...STREAMS, 'export', 'volume'],
    reason: 'the addon mirrors everything below it and is included by nobody',
  },
};

/** Third-party headers that are a secret of one place. */
export const HEADER_RULES: readonly HeaderRule[] = [
  {
    name: 'liburing',
    header: /^liburing(\.h|\/)/,
    folder: 'io',
    files: 1,
    reason: 'all I/O and time go through one narrow interface, which the simulator replaces',
  },
  {
    name: 'rte-vhost',
    header: /^rte_vhost\.h$/,
    folder: 'export',
    files: 1,
    reason: "the library's habits and traps stay behind one file",
  },
  {
    name: 'libpmem',
    header: /^libpmem\.h$/,
    folder: 'nvram',
    files: 1,
    reason: 'persistent memory is one of three kinds of log buffer, and optional',
  },
  {
    name: 'dpdk',
    header: /^rte_/,
    folder: 'export',
    files: Infinity,
    reason: 'DPDK serves the vhost-user export and nothing else',
  },
  {
    name: 'napi',
    header: /^(napi\.h|node_api\.h|js_native_api\.h|node\.h|uv\.h|v8\.h)$/,
    folder: 'addon',
    files: Infinity,
    reason: 'the data plane is tested and fuzzed as plain C++, without a JavaScript engine',
  },
];

/** Where a test may also include from: the tests' own front-end (test/support/front-end). */
const TEST_FOLDERS: readonly string[] = ['front-end'];

interface Include {
  line: number;
  path: string;
  quoted: boolean;
}

function includesOf(text: string): Include[] {
  const found: Include[] = [];
  for (const [index, content] of text.split('\n').entries()) {
    const match = /^\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)/.exec(content);
    if (match === null) continue;
    const path = match[1] ?? match[2] ?? '';
    found.push({ line: index + 1, path, quoted: match[1] !== undefined });
  }
  return found;
}

function checkOwnInclude(folder: string, file: string, include: Include): Violation | undefined {
  const rule = FOLDER_RULES[folder];
  const top = include.path.split('/')[0] ?? '';
  const violation = (name: string, message: string): Violation => ({
    file,
    line: include.line,
    rule: name,
    message,
  });
  const known = top in FOLDER_RULES && include.path.includes('/');
  if (include.quoted && !known) {
    if (file.endsWith('_test.cc') && TEST_FOLDERS.includes(top)) return undefined;
    return violation(
      'include-path',
      `"${include.path}" is no path from native/, such as "base/status.h"; a reader must see the folder`,
    );
  }
  if (!known || top === folder || rule === undefined || rule.sees.includes(top)) return undefined;
  return violation(`order-${folder}`, `${folder} may not include ${include.path}: ${rule.reason}`);
}

/** Checks all of `<root>/native`. */
export function checkIncludes(root: string): Violation[] {
  const violations: Violation[] = [];
  const native = join(root, 'native');
  if (!existsSync(native)) return violations;
  const users = new Map<HeaderRule, Set<string>>();
  const files = readdirSync(native, { recursive: true, encoding: 'utf8' })
    .filter((name) => /\.(h|hh|hpp|c|cc|cpp)$/.test(name))
    .sort();

  for (const name of files) {
    const file = `native/${name}`;
    const folder = name.split('/')[0] ?? '';
    if (!name.includes('/') || !(folder in FOLDER_RULES)) {
      violations.push({
        file,
        line: 0,
        rule: 'unknown-folder',
        message: `no rule says what may be included here: give the folder its place in check-includes.ts`,
      });
      continue;
    }
    for (const include of includesOf(readFileSync(join(native, name), 'utf8'))) {
      const own = checkOwnInclude(folder, file, include);
      if (own !== undefined) violations.push(own);
      for (const rule of HEADER_RULES.filter((each) => each.header.test(include.path))) {
        if (folder !== rule.folder) {
          violations.push({
            file,
            line: include.line,
            rule: rule.name,
            message: `<${include.path}> belongs to native/${rule.folder} only: ${rule.reason}`,
          });
          continue;
        }
        const seen = users.get(rule) ?? new Set<string>();
        users.set(rule, seen.add(file));
        if (seen.size > rule.files) {
          violations.push({
            file,
            line: include.line,
            rule: rule.name,
            message: `<${include.path}> is included by ${[...seen].join(' and ')}; it may be by ${String(rule.files)} file only: ${rule.reason}`,
          });
        }
      }
    }
  }
  return violations;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const violations = checkIncludes(join(import.meta.dirname, '../../..'));
  for (const { file, line, rule, message } of violations) {
    console.error(`${file}:${String(line)}: [${rule}] ${message}`);
  }
  if (violations.length > 0) {
    console.error(`${String(violations.length)} broken include rules`);
    process.exitCode = 1;
  }
}
