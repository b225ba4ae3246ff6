// SPDX-License-Identifier: Apache-2.0
import { ApiProperty, ApiPropertyOptional } from '@nestjs/swagger';
import { type ErrorCode, type ErrorDetails, EverpointError } from '../errors.js';

/** What is wrong with one field of a request. */
export class FieldProblem {
  @ApiProperty({ example: 'volumes.0.name' })
  field!: string;

  @ApiProperty({ example: 'name must be a string' })
  message!: string;
}

/** The body of every answer that is not a success (RFC 9457, `application/problem+json`). */
export class Problem {
  @ApiProperty({ example: 'urn:everpoint:problem:not-found' })
  type!: string;

  @ApiProperty({ example: 'Not Found' })
  title!: string;

  @ApiProperty({ example: 404 })
  status!: number;

  @ApiProperty({ example: 'There is no group "web-9".' })
  detail!: string;

  @ApiPropertyOptional({ example: 'NOT_FOUND', description: 'Stable, for programs.' })
  code?: string;

  @ApiPropertyOptional({ description: 'What an operator can do about it.' })
  hint?: string;

  @ApiPropertyOptional({ description: 'The same request may succeed later.' })
  retryable?: boolean;

  @ApiPropertyOptional({
    type: [FieldProblem],
    description: 'Of a body or query that was refused.',
  })
  errors?: FieldProblem[];
}

/** An error whose problem body carries more than the usual members. */
export class ProblemError extends EverpointError {
  constructor(
    code: ErrorCode,
    message: string,
    details: ErrorDetails,
    /** Put into the body as they are. */
    readonly members: Record<string, unknown>,
  ) {
    super(code, message, details);
  }
}

/** What was sent is well-formed, but some fields of it cannot be. */
export class InvalidFieldsError extends ProblemError {
  constructor(operation: string, errors: FieldProblem[], hint?: string) {
    const detail = errors.map((error) => `${error.field}: ${error.message}`).join('; ');
    super('INVALID_ARGUMENT', detail, { operation, hint }, { errors });
  }
}

export function notFound(what: string, nameOrId: string): EverpointError {
  return new EverpointError('NOT_FOUND', `There is no ${what} ${JSON.stringify(nameOrId)}.`, {
    operation: `find ${what}`,
  });
}

export function alreadyExists(what: string, name: string): EverpointError {
  return new EverpointError('ALREADY_EXISTS', `A ${what} ${JSON.stringify(name)} exists already.`, {
    operation: `create ${what}`,
    hint: 'Choose another name.',
  });
}
