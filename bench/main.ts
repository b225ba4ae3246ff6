// SPDX-License-Identifier: Apache-2.0

// `npm run bench -- NAME [--large] [--json]`: runs one bench of this folder. Small sizes by default,
// so that a run ends in about a minute; --large for figures to quote.

import { firstLook } from './system/first-look.ts';
import { fsync } from './system/fsync.ts';
import { describeMachine } from './system/machine.ts';

const benches: Record<string, { about: string; run: (options: BenchOptions) => Promise<unknown> }> =
  {
    'first-look': {
      about: 'our export, with and without protection, beside qemu-storage-daemon, on tmpfs',
      run: firstLook,
    },
    fsync: {
      about: 'a 4 KiB write and flush on a disk file: unprotected, flush primary, flush both',
      run: fsync,
    },
  };

export interface BenchOptions {
  large: boolean;
  /** Where progress goes; results are printed by the caller with --json. */
  say: (line: string) => void;
}

async function main(): Promise<number> {
  const args = process.argv.slice(2);
  const name = args.find((arg) => !arg.startsWith('--'));
  const bench = name === undefined ? undefined : benches[name];
  if (bench === undefined) {
    console.error('usage: npm run bench -- NAME [--large] [--json]\n\nbenches:');
    for (const [key, value] of Object.entries(benches)) console.error(`  ${key}  ${value.about}`);
    return 2;
  }
  const json = args.includes('--json');
  const say = json ? (line: string) => console.error(line) : (line: string) => console.log(line);
  say(describeMachine());
  const result = await bench.run({ large: args.includes('--large'), say });
  if (json) console.log(JSON.stringify(result));
  return 0;
}

process.exitCode = await main();
