// SPDX-License-Identifier: Apache-2.0
import { defineConfig } from 'vitest/config';

// Two projects: `unit` is quick and runs in `npm run check`; `integration` starts processes, opens
// sockets and boots guests, so its files run one after the other (run-tests.ts sees to that).
// Nest's injection reads the types that emitDecoratorMetadata leaves, hence `oxc.decorator`.
export default defineConfig({
  oxc: { decorator: { legacy: true, emitDecoratorMetadata: true } },
  test: {
    // A test leaves nothing behind in the environment of the next file.
    pool: 'forks',
    restoreMocks: true,
    unstubEnvs: true,
    projects: [
      {
        extends: true,
        test: {
          name: 'unit',
          include: ['src/**/*.spec.ts', 'test/support/**/*.spec.ts'],
          testTimeout: 20_000,
        },
      },
      {
        extends: true,
        test: {
          name: 'integration',
          include: ['test/**/*.spec.ts'],
          exclude: ['test/support/**', '**/node_modules/**'],
          testTimeout: 180_000,
          hookTimeout: 120_000,
        },
      },
    ],
  },
});
