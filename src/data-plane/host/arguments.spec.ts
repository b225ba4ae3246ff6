// SPDX-License-Identifier: Apache-2.0

import { describe, expect, it } from 'vitest';

import { readArguments } from './arguments.js';

describe('readArguments', () => {
  it('takes the command line before the environment, and has defaults', () => {
    const environment = { EVERPOINT_STATE: '/env', EVERPOINT_REACTORS: '3' };
    const given = readArguments(['--state', '/given', '--log', 'file'], environment);
    expect(given).toMatchObject({ state: '/given', reactors: 3, log: 'file', logLevel: 'info' });
    expect(readArguments([], environment).state).toBe('/env');
    expect(readArguments([], {})).toMatchObject({ reactors: 1, faults: undefined });
  });

  it.each([
    [['--reactors', '0']],
    [['--reactors', '65']],
    [['--reactors', 'x']],
    [['--log', 'x']],
    [['--log-level', 'x']],
    [['--what']],
    [['extra']],
  ])('refuses %j', (args) => {
    expect(() => readArguments(args, {})).toThrow();
  });

  it('reads the test seams, and refuses one that it does not understand', () => {
    const environment = {
      EVERPOINT_TEST_PRIMARY_DELAY_US: '10,2000,42',
      EVERPOINT_TEST_RESUBMIT: 'off',
    };
    expect(readArguments([], environment).faults).toEqual({
      primaryDelayUs: { min: 10, max: 2000, seed: 42 },
      resubmitInFlight: false,
    });
    for (const bad of ['10', '5,4,1', 'a,b,c', '1,2,3,4']) {
      expect(() => readArguments([], { EVERPOINT_TEST_PRIMARY_DELAY_US: bad })).toThrow();
    }
    expect(() => readArguments([], { EVERPOINT_TEST_RESUBMIT: 'no' })).toThrow();
  });
});
