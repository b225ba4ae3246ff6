// SPDX-License-Identifier: Apache-2.0
import { ApiProperty, ApiPropertyOptional } from '@nestjs/swagger';
import { IsOptional, IsString, Matches, MaxLength, registerDecorator } from 'class-validator';
import { tryParseDuration } from '../common/durations.js';
import { MARKER_LABEL_BYTES_MAX } from '../common/limits.js';
import { PageQuery } from '../common/rest/fields.js';

/** 1 to 255 bytes of UTF-8 without control characters. */
function IsLabel(): PropertyDecorator {
  return (target, property) => {
    registerDecorator({
      name: 'isLabel',
      target: target.constructor,
      propertyName: property as string,
      validator: {
        validate: (value: unknown) =>
          typeof value === 'string' &&
          value.isWellFormed() &&
          !/\p{Cc}/u.test(value) &&
          Buffer.byteLength(value) >= 1 &&
          Buffer.byteLength(value) <= MARKER_LABEL_BYTES_MAX,
        defaultMessage: () =>
          `$property must have 1 to ${MARKER_LABEL_BYTES_MAX} bytes and no control characters`,
      },
    });
  };
}

/** A duration above zero, or `forever`. */
function IsKeep(): PropertyDecorator {
  return (target, property) => {
    registerDecorator({
      name: 'isKeep',
      target: target.constructor,
      propertyName: property as string,
      validator: {
        validate: (value: unknown) =>
          value === 'forever' ||
          (typeof value === 'string' && (tryParseDuration(value) ?? 0n) > 0n),
        defaultMessage: () => '$property must be a duration above zero like 30d, or "forever"',
      },
    });
  };
}

export class MarkerBody {
  @ApiProperty({ example: 'before the update' })
  @IsLabel()
  label!: string;

  @ApiPropertyOptional({ example: '30d', description: 'Absent: as the policy has it.' })
  @IsOptional()
  @IsKeep()
  keep?: string;
}

export class PointAnswer {
  @ApiProperty({ example: 1234 })
  lsn!: number;

  @ApiProperty({ example: '2026-03-01T12:00:00.000000000Z' })
  time!: string;
}

export class MarkerAnswer extends PointAnswer {
  @ApiProperty({ example: 'before the update' })
  label!: string;

  @ApiProperty({
    type: String,
    nullable: true,
    description: 'A time, "forever", or null: as the policy has it.',
  })
  keepUntil!: string | null;

  @ApiProperty({ description: 'False once it was unpinned.' })
  pinned!: boolean;
}

export class ResolveQuery {
  @ApiProperty({ example: '-5m', description: 'latest, lsn:N, marker:NAME, RFC 3339, -5m' })
  @IsString()
  @MaxLength(512)
  at!: string;
}

export class NearestAnswer {
  @ApiProperty({ type: PointAnswer, nullable: true })
  before!: PointAnswer | null;

  @ApiProperty({ type: PointAnswer, nullable: true })
  after!: PointAnswer | null;
}

export class ResolveAnswer {
  @ApiProperty({ type: Number, nullable: true, example: 1234 })
  lsn!: number | null;

  @ApiProperty({ type: String, nullable: true, example: '2026-03-01T12:00:00.000000000Z' })
  time!: string | null;

  @ApiPropertyOptional({ description: 'Of the marker that stands there.' })
  label?: string;

  @ApiProperty()
  reachable!: boolean;

  @ApiPropertyOptional({ description: 'Why it is not reachable.' })
  reason?: string;

  @ApiPropertyOptional({ type: NearestAnswer, description: 'The reachable points around it.' })
  nearest?: NearestAnswer;
}

export class RangeQuery extends PageQuery {
  @ApiPropertyOptional({ example: '-24h', description: 'RFC 3339, or -24h.' })
  @IsOptional()
  @IsString()
  @Matches(/^(-|\d)/, { message: 'from must be an RFC 3339 time or like -24h' })
  from?: string;

  @ApiPropertyOptional({ example: '2026-03-01T12:00:00Z' })
  @IsOptional()
  @IsString()
  @Matches(/^(-|\d)/, { message: 'to must be an RFC 3339 time or like -24h' })
  to?: string;
}

export class RecoveryPointAnswer extends PointAnswer {
  @ApiProperty({ enum: ['marker'], description: 'grid and flush come with the life cycle.' })
  kind!: string;

  @ApiPropertyOptional()
  label?: string;

  @ApiProperty({
    type: String,
    nullable: true,
    description: 'A time, "forever", or null: as the policy has it.',
  })
  expiry!: string | null;
}

export class SegmentAnswer {
  @ApiProperty({ example: '1' })
  id!: string;

  @ApiProperty({ example: 1 })
  segment!: number;

  @ApiProperty({
    enum: ['active', 'sealed', 'given-up'],
    description: 'given-up: its device failed, and the log went on in a later one.',
  })
  state!: string;

  @ApiProperty({ description: 'Its map is in place.' })
  mapped!: boolean;

  @ApiProperty()
  epoch!: number;

  @ApiProperty()
  firstLsn!: number;

  @ApiProperty({ description: 'Of the active segment: the last durable one.' })
  lastLsn!: number;

  @ApiProperty()
  firstTime!: string;

  @ApiProperty()
  lastTime!: string;

  @ApiProperty()
  entries!: number;

  @ApiProperty()
  dataBytes!: number;

  @ApiProperty()
  fileBytes!: number;

  @ApiProperty({ description: "Relative to the group's folder on the device." })
  file!: string;

  @ApiProperty({ description: 'Id of the device.' })
  device!: string;
}

export class MapAnswer {
  @ApiProperty({ example: '1' })
  id!: string;

  @ApiProperty({ example: 0 })
  level!: number;

  @ApiProperty()
  expiryClass!: number;

  @ApiProperty()
  firstLsn!: number;

  @ApiProperty()
  lastLsn!: number;

  @ApiProperty()
  firstTime!: string;

  @ApiProperty()
  lastTime!: string;

  @ApiProperty({ type: String, nullable: true, description: 'Id of the map before it.' })
  previous!: string | null;

  @ApiProperty({ type: String, nullable: true, description: 'Id of the merged map above it.' })
  merged!: string | null;

  @ApiProperty({ type: String, nullable: true, description: 'Id of the first map it was made of.' })
  firstChild!: string | null;

  @ApiProperty({ description: 'Extents in the map.' })
  entries!: number;

  @ApiProperty({ description: 'Bytes of the log that the map refers to.' })
  liveBytes!: number;

  @ApiProperty()
  fileBytes!: number;

  @ApiProperty({ description: "Relative to the group's folder on the device." })
  file!: string;

  @ApiProperty({ description: 'Id of the device.' })
  device!: string;
}

export class GapAnswer {
  @ApiProperty({ description: 'The newest point before the gap.' })
  fromLsn!: number;

  @ApiProperty({ type: Number, nullable: true, description: 'Null while it lasts.' })
  toLsn!: number | null;

  @ApiProperty()
  from!: string;

  @ApiProperty({ type: String, nullable: true })
  to!: string | null;

  @ApiProperty()
  reason!: string;

  @ApiProperty()
  healed!: boolean;
}

export class SealAnswer {
  @ApiProperty({ description: 'The last LSN in a sealed segment.' })
  sealedLsn!: number;

  @ApiProperty({ description: 'The last LSN that a map has; not less than sealedLsn.' })
  mappedLsn!: number;
}
