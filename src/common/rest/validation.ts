// SPDX-License-Identifier: Apache-2.0
import { type ArgumentMetadata, BadRequestException, ValidationPipe } from '@nestjs/common';
import type { ValidationError } from 'class-validator';
import type { FieldProblem } from './problem.js';

/** No body of ours is deeper; a deeper one would only exhaust the stack of who walks through it. */
const DEPTH_MAX = 16;

class BoundedValidationPipe extends ValidationPipe {
  override async transform(value: unknown, metadata: ArgumentMetadata): Promise<unknown> {
    if (isDeeperThan(value, DEPTH_MAX)) {
      throw new BadRequestException({ detail: `The body is nested more than ${DEPTH_MAX} deep.` });
    }
    return super.transform(value, metadata) as Promise<unknown>;
  }
}

/** Level by level, so that depth costs no stack. */
function isDeeperThan(value: unknown, depth: number): boolean {
  let level: unknown[] = [value];
  for (let at = 0; level.length > 0; at += 1) {
    if (at > depth) return true;
    level = level.flatMap((one) =>
      typeof one === 'object' && one !== null
        ? Object.values(one as Record<string, unknown>).filter(
            (inner) => typeof inner === 'object' && inner !== null,
          )
        : [],
    );
  }
  return false;
}

/** Bodies and queries are checked against their DTO; what a DTO does not name is refused. */
export function makeValidationPipe(): ValidationPipe {
  return new BoundedValidationPipe({
    transform: true,
    whitelist: true,
    forbidNonWhitelisted: true,
    forbidUnknownValues: true,
    // A name of somebody's secret field is one thing, its value in a log another.
    validationError: { target: false, value: false },
    exceptionFactory: (faults) => {
      const errors = faults.flatMap((fault) => flatten(fault, ''));
      const detail = errors.map((error) => `${error.field}: ${error.message}`).join('; ');
      return new BadRequestException({ detail, errors });
    },
  });
}

function flatten(fault: ValidationError, above: string): FieldProblem[] {
  const field = above === '' ? fault.property : `${above}.${fault.property}`;
  const own = Object.values(fault.constraints ?? {}).map((message) => ({ field, message }));
  return [...own, ...(fault.children ?? []).flatMap((child) => flatten(child, field))];
}
