// SPDX-License-Identifier: Apache-2.0
import { ApiPropertyOptional } from '@nestjs/swagger';
import { Type } from 'class-transformer';
import {
  IsInt,
  IsOptional,
  IsString,
  Max,
  MaxLength,
  Min,
  registerDecorator,
  type ValidationOptions,
} from 'class-validator';
import { tryParseDuration } from '../durations.js';

/** Names of groups, policies, devices: usable in a path, a file name and a shell as they are. */
export const NAME_PATTERN = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
export const NAME_MESSAGE =
  '$property must be 1 to 64 letters, digits, ".", "_" or "-", and start with a letter or digit';

/** `48h` and the like; see common/durations. Longer than nothing. */
export function IsDuration(options?: ValidationOptions): PropertyDecorator {
  return (target, property) => {
    registerDecorator({
      name: 'isDuration',
      target: target.constructor,
      propertyName: property as string,
      ...(options && { options }),
      validator: {
        validate: (value: unknown) =>
          typeof value === 'string' && (tryParseDuration(value) ?? 0n) > 0n,
        defaultMessage: () =>
          '$property must be a duration above zero, a number and one of s m h d w y ' +
          '(m is minutes), like 90s, 48h or 14d',
      },
    });
  };
}

/** A path that is absolute and has no NUL in it. */
export function IsAbsolutePath(options?: ValidationOptions): PropertyDecorator {
  return (target, property) => {
    registerDecorator({
      name: 'isAbsolutePath',
      target: target.constructor,
      propertyName: property as string,
      ...(options && { options }),
      validator: {
        validate: (value: unknown) =>
          typeof value === 'string' &&
          value.startsWith('/') &&
          !value.includes('\0') &&
          Buffer.byteLength(value) <= 4095,
        defaultMessage: () => '$property must be an absolute path',
      },
    });
  };
}

/** `?limit=&after=` */
export class PageQuery {
  @ApiPropertyOptional({ minimum: 1, maximum: 1000, default: 100 })
  @IsOptional()
  @Type(() => Number)
  @IsInt()
  @Min(1)
  @Max(1000)
  limit: number = 100;

  @ApiPropertyOptional({ description: 'Last id of the page before.' })
  @IsOptional()
  @IsString()
  @MaxLength(256)
  after?: string;
}

/** The part of a list, in its order, that a page asks for. An `after` that is not in it ends it. */
export function pageOf<T>(items: T[], query: PageQuery, idOf: (item: T) => string): T[] {
  let from = 0;
  if (query.after !== undefined) {
    const at = items.findIndex((item) => idOf(item) === query.after);
    if (at < 0) return [];
    from = at + 1;
  }
  return items.slice(from, from + query.limit);
}
