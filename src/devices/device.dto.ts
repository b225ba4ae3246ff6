// SPDX-License-Identifier: Apache-2.0
import { ApiProperty, ApiPropertyOptional } from '@nestjs/swagger';
import { IsOptional, Matches } from 'class-validator';
import { IsAbsolutePath, NAME_MESSAGE, NAME_PATTERN } from '../common/rest/fields.js';

export class DeviceBody {
  @ApiProperty({
    example: '/srv/everpoint',
    description: 'A folder; it is made when its parent exists. Adding one again keeps its id.',
  })
  @IsAbsolutePath()
  path!: string;

  @ApiPropertyOptional({ example: 'slow-disks', description: 'Absent: the name of the folder.' })
  @IsOptional()
  @Matches(NAME_PATTERN, { message: NAME_MESSAGE })
  name?: string;
}

export const DEVICE_STATES = ['ready', 'missing', 'foreign', 'full', 'failed'] as const;
export type DeviceState = (typeof DEVICE_STATES)[number];

export class DeviceAnswer {
  @ApiProperty({ example: '3f6d0a52-6f5e-4a55-9a3f-0f2d7d1f8c11' })
  id!: string;

  @ApiProperty({ example: 'default' })
  name!: string;

  @ApiProperty({ example: '/srv/everpoint' })
  path!: string;

  @ApiProperty({ description: 'Of the file system; 0 while it cannot be reached.' })
  sizeBytes!: number;

  @ApiProperty({ description: 'What this service may still write there.' })
  freeBytes!: number;

  @ApiProperty({ description: 'In use on the file system, by whomever.' })
  usedBytes!: number;

  @ApiProperty({
    enum: DEVICE_STATES,
    description:
      'missing: no such folder; foreign: another device stands there; full, failed: see reason. ' +
      "What the groups' logs find counts too: a device that hangs or fails is failed at once.",
  })
  state!: DeviceState;

  @ApiPropertyOptional({ description: 'Why it is not ready.' })
  reason?: string;
}
