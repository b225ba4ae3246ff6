// SPDX-License-Identifier: Apache-2.0
import { ApiProperty, ApiPropertyOptional } from '@nestjs/swagger';
import { Type } from 'class-transformer';
import {
  ArrayMaxSize,
  ArrayMinSize,
  ArrayUnique,
  IsArray,
  IsBoolean,
  IsIn,
  IsObject,
  IsOptional,
  IsString,
  MaxLength,
  ValidateNested,
} from 'class-validator';
import { VOLUMES_PER_GROUP_MAX } from '../common/limits.js';
import { IsAbsolutePath } from '../common/rest/fields.js';

export class RestoreTargetBody {
  @ApiProperty({ example: 'vda' })
  @IsString()
  @MaxLength(64)
  volume!: string;

  @ApiProperty({ example: '/var/lib/libvirt/images/web-1-restored.raw' })
  @IsAbsolutePath()
  path!: string;

  @ApiPropertyOptional({
    enum: ['raw', 'qcow2'],
    default: 'raw',
    description: '`qcow2` is refused for now.',
  })
  @IsOptional()
  @IsIn(['raw', 'qcow2'])
  format: 'raw' | 'qcow2' = 'raw';

  @ApiPropertyOptional({ default: false, description: 'Replace an existing file, at the end.' })
  @IsOptional()
  @IsBoolean()
  overwrite: boolean = false;
}

export class RestoreBody {
  @ApiProperty({
    example: 'marker:before the update',
    description: 'latest, lsn:N, marker:NAME, RFC 3339, -5m',
  })
  @IsString()
  @MaxLength(512)
  at!: string;

  @ApiProperty({ type: [RestoreTargetBody] })
  @IsArray()
  @ArrayMinSize(1)
  @ArrayMaxSize(VOLUMES_PER_GROUP_MAX)
  @ArrayUnique((target?: RestoreTargetBody) => target?.path, {
    message: 'the paths of targets must differ',
  })
  @IsObject({ each: true })
  @ValidateNested({ each: true })
  @Type(() => RestoreTargetBody)
  targets!: RestoreTargetBody[];
}
