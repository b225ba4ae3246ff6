#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0

import { runCli } from './program.js';

// A reader that has seen enough (`everpoint events | head`) is no fault.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  process.exit(error.code === 'EPIPE' ? 0 : 1);
});

process.exitCode = await runCli(process.argv.slice(2), {
  stdout: process.stdout,
  stderr: process.stderr,
  stdin: process.stdin,
  environment: process.env,
  cwd: process.cwd(),
});
