// SPDX-License-Identifier: Apache-2.0
import { STATUS_CODES } from 'node:http';
import {
  type ArgumentsHost,
  Catch,
  type ExceptionFilter,
  HttpException,
  Logger,
} from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { type ErrorCode, EverpointError } from '../errors.js';
import { type Problem, ProblemError } from './problem.js';

/** The one place where an error becomes an HTTP status. */
const STATUS_OF_CODE: Record<ErrorCode, number> = {
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
};

/** Errors whose name says more than their code: what is needed is not there right now. */
const UNAVAILABLE = new Set(['DataPlaneUnavailableError', 'NotReadyError']);

/** What stands in logs and in `code` of errors that are not ours. */
const CODE_OF_STATUS: Record<number, string> = {
  400: 'INVALID_ARGUMENT',
  401: 'UNAUTHENTICATED',
  403: 'FORBIDDEN',
  404: 'NOT_FOUND',
  405: 'METHOD_NOT_ALLOWED',
  413: 'TOO_LARGE',
  415: 'UNSUPPORTED_MEDIA_TYPE',
  503: 'UNAVAILABLE',
};

/** The problem body of anything that was thrown. */
export function problemOf(thrown: unknown): Problem & Record<string, unknown> {
  if (thrown instanceof EverpointError) return problemOfOurs(thrown);
  const status = statusOfForeign(thrown);
  if (status === undefined) {
    // Ours to repair: the log has the details, a caller has nothing to learn from them.
    return base(500, 'INTERNAL', 'The service met a fault of its own; its log says which.');
  }
  const code = CODE_OF_STATUS[status] ?? 'REFUSED';
  return { ...base(status, code, detailOfForeign(thrown)), ...membersOfForeign(thrown) };
}

function problemOfOurs(error: EverpointError): Problem & Record<string, unknown> {
  const unavailable = UNAVAILABLE.has(error.name);
  const status = unavailable ? 503 : STATUS_OF_CODE[error.code];
  const body = base(status, unavailable ? 'UNAVAILABLE' : error.code, error.message);
  if (error.hint !== undefined) body.hint = error.hint;
  if (error.retryable || unavailable) body.retryable = true;
  if (error.lsnRange !== undefined) body['lsnRange'] = error.lsnRange;
  if (error.code === 'CORRUPTION' && error.file !== undefined) body['file'] = error.file;
  return error instanceof ProblemError ? { ...error.members, ...body } : body;
}

function base(status: number, code: string, detail: string): Problem & Record<string, unknown> {
  return {
    type: `urn:everpoint:problem:${code.toLowerCase().replaceAll('_', '-')}`,
    title: STATUS_CODES[status] ?? 'Error',
    status,
    detail,
    code,
  };
}

/** Of Nest's and Fastify's own errors (bad JSON, too large, no such route): only refusals. */
function statusOfForeign(thrown: unknown): number | undefined {
  const status =
    thrown instanceof HttpException
      ? thrown.getStatus()
      : (thrown as { statusCode?: unknown } | null)?.statusCode;
  return typeof status === 'number' && status >= 400 && status < 500 ? status : undefined;
}

function detailOfForeign(thrown: unknown): string {
  if (thrown instanceof HttpException) {
    const response = thrown.getResponse();
    if (typeof response === 'object' && 'detail' in response) return String(response.detail);
  }
  return thrown instanceof Error ? thrown.message : 'The request was refused.';
}

function membersOfForeign(thrown: unknown): Record<string, unknown> {
  if (!(thrown instanceof HttpException)) return {};
  const response = thrown.getResponse();
  return typeof response === 'object' && 'errors' in response ? { errors: response.errors } : {};
}

/** Answers every error as a problem body. */
@Catch()
export class ProblemFilter implements ExceptionFilter {
  private readonly logger = new Logger('Problem');

  catch(thrown: unknown, host: ArgumentsHost): void {
    const http = host.switchToHttp();
    const request = http.getRequest<FastifyRequest>();
    const reply = http.getResponse<FastifyReply>();
    const problem = problemOf(thrown);
    if (problem.status >= 500) {
      this.logger.error(thrown, `${request.method} ${request.url.split('?')[0] ?? ''}`);
    }
    writeProblem(problem, reply);
  }
}

/** Answers an error that came up before any filter could see it. */
export function sendProblem(thrown: unknown, reply: FastifyReply): void {
  writeProblem(problemOf(thrown), reply);
}

function writeProblem(problem: Problem, reply: FastifyReply): void {
  if (reply.sent || reply.raw.headersSent) return;
  if (problem.status === 401) void reply.header('WWW-Authenticate', 'Bearer realm="everpoint"');
  if (problem.status === 503) void reply.header('Retry-After', '1');
  void reply
    .status(problem.status)
    .header('Content-Type', 'application/problem+json; charset=utf-8')
    .send(JSON.stringify(problem));
}
