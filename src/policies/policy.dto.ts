// SPDX-License-Identifier: Apache-2.0
import { ApiProperty, ApiPropertyOptional } from '@nestjs/swagger';
import { Type } from 'class-transformer';
import {
  ArrayMaxSize,
  IsArray,
  IsInt,
  IsObject,
  IsOptional,
  Matches,
  Max,
  Min,
  ValidateNested,
} from 'class-validator';
import type { PolicyRow } from '../catalog/policy.repository.js';
import { IsDuration, NAME_MESSAGE, NAME_PATTERN } from '../common/rest/fields.js';

export class GridStep {
  @ApiProperty({ example: '1h', description: 'One point in each so long stretch.' })
  @IsDuration()
  every!: string;

  @ApiProperty({ example: '14d', description: 'Up to this age.' })
  @IsDuration()
  for!: string;
}

export class PolicyBody {
  @ApiProperty({ example: 'gold' })
  @Matches(NAME_PATTERN, { message: NAME_MESSAGE })
  name!: string;

  @ApiProperty({ example: '48h', description: 'Every write stays reachable up to this age.' })
  @IsDuration()
  keepAll!: string;

  @ApiProperty({
    type: [GridStep],
    description: 'Steps after that, from fine to coarse; may be [].',
  })
  @IsArray()
  @ArrayMaxSize(16)
  @IsObject({ each: true })
  @ValidateNested({ each: true })
  @Type(() => GridStep)
  grid!: GridStep[];

  @ApiPropertyOptional({ example: '1h', description: 'A snapshot by itself, this often.' })
  @IsOptional()
  @IsDuration()
  snapshotEvery?: string;

  @ApiPropertyOptional({ example: 8, minimum: 2, maximum: 64 })
  @IsOptional()
  @IsInt()
  @Min(2)
  @Max(64)
  mergeFanIn?: number;

  @ApiPropertyOptional({ example: 100, description: 'Snapshots that may be pinned at once.' })
  @IsOptional()
  @IsInt()
  @Min(0)
  @Max(1_000_000)
  pinLimit?: number;
}

export class PolicyAnswer extends PolicyBody {
  @ApiProperty({ example: 'pQ3pX8aLr2kT' })
  id!: string;
}

export function policyAnswer(row: PolicyRow): PolicyAnswer {
  return { id: row.id, name: row.name, ...row.spec };
}
