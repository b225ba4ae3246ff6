// SPDX-License-Identifier: Apache-2.0
import { ForbiddenException, NotFoundException } from '@nestjs/common';
import { describe, expect, it } from 'vitest';
import { ERROR_CODES, EverpointError } from '../errors.js';
import { ProblemError } from './problem.js';
import { problemOf } from './problem.filter.js';

const details = { operation: 'test' };

describe('problemOf', () => {
  it('has a status for every code of ours', () => {
    const statuses = ERROR_CODES.map((code) => [
      code,
      problemOf(new EverpointError(code, 'x', details)).status,
    ]);
    expect(Object.fromEntries(statuses)).toEqual({
      NOT_FOUND: 404,
      CORRUPTION: 500,
      IO_ERROR: 500,
      INVALID_ARGUMENT: 400,
      NO_SPACE: 507,
      BUSY: 409,
      UNSUPPORTED: 400,
      CANCELLED: 409,
      ALREADY_EXISTS: 409,
      CONFLICT: 409,
    });
  });

  it('carries hint, retryable and extra members, which cannot change the status', () => {
    const error = new ProblemError(
      'CONFLICT',
      'no such point',
      { ...details, hint: 'take another', retryable: true },
      { lsn: 5, status: 200 },
    );
    expect(problemOf(error)).toEqual({
      type: 'urn:everpoint:problem:conflict',
      title: 'Conflict',
      status: 409,
      detail: 'no such point',
      code: 'CONFLICT',
      hint: 'take another',
      retryable: true,
      lsn: 5,
    });
  });

  it('keeps refusals of the framework', () => {
    expect(problemOf(new NotFoundException('Cannot GET /x'))).toMatchObject({ status: 404 });
    expect(problemOf(new ForbiddenException('no'))).toMatchObject({
      status: 403,
      code: 'FORBIDDEN',
    });
    const parser = Object.assign(new Error('Body is not valid JSON'), { statusCode: 400 });
    expect(problemOf(parser)).toMatchObject({ status: 400, detail: 'Body is not valid JSON' });
  });

  it('tells nothing of faults of our own', () => {
    for (const thrown of [new TypeError('secret path /x'), 'text', undefined, null, 7]) {
      const problem = problemOf(thrown);
      expect(problem).toMatchObject({ status: 500, code: 'INTERNAL' });
      expect(JSON.stringify(problem)).not.toContain('secret');
    }
  });
});
