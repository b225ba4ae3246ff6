// SPDX-License-Identifier: Apache-2.0
import { ApiProperty, ApiPropertyOptional } from '@nestjs/swagger';
import { Type } from 'class-transformer';
import {
  ArrayMaxSize,
  ArrayMinSize,
  ArrayUnique,
  IsArray,
  IsBoolean,
  IsDefined,
  IsIn,
  IsInt,
  IsObject,
  IsOptional,
  IsString,
  Matches,
  Max,
  MaxLength,
  Min,
  ValidateNested,
} from 'class-validator';
import {
  DEVICES_PER_GROUP_MAX,
  LOG_BUFFER_BYTES_MAX,
  LOG_BUFFER_BYTES_MIN,
  THROTTLE_MS_DEFAULT,
  THROTTLE_MS_MAX,
  VOLUME_BYTES_MAX,
  VOLUMES_PER_GROUP_MAX,
} from '../common/limits.js';
import { IsAbsolutePath, NAME_MESSAGE, NAME_PATTERN } from '../common/rest/fields.js';

export const QUEUES_MAX = 64;
export const EXPORTS_PER_VOLUME_MAX = 9;

export class PrimaryBody {
  @ApiProperty({
    enum: ['file', 'device', 'none', 'spdk'],
    description: '`none` and `spdk` are refused for now.',
  })
  @IsIn(['file', 'device', 'none', 'spdk'])
  kind!: 'file' | 'device' | 'none' | 'spdk';

  @ApiPropertyOptional({ example: '/var/lib/libvirt/images/web-1.raw' })
  @IsOptional()
  @IsAbsolutePath()
  path?: string;

  @ApiPropertyOptional({ description: 'Of an spdk primary; refused for now.' })
  @IsOptional()
  @IsString()
  @MaxLength(256)
  bdev?: string;

  @ApiPropertyOptional({ example: 10_737_418_240, description: 'Needed with `create`.' })
  @IsOptional()
  @IsInt()
  @Min(512)
  @Max(VOLUME_BYTES_MAX)
  sizeBytes?: number;

  @ApiPropertyOptional({ description: 'Make the file; it must not exist.' })
  @IsOptional()
  @IsBoolean()
  create?: boolean;
}

export class ExportBody {
  @ApiProperty({ enum: ['vhost-user-blk', 'nbd'], description: '`nbd` is refused for now.' })
  @IsIn(['vhost-user-blk', 'nbd'])
  kind!: 'vhost-user-blk' | 'nbd';

  @ApiPropertyOptional({ minimum: 1, maximum: QUEUES_MAX, default: 1 })
  @IsOptional()
  @IsInt()
  @Min(1)
  @Max(QUEUES_MAX)
  queues?: number;

  @ApiPropertyOptional({ description: 'The socket; absent: a stable one in the run folder.' })
  @IsOptional()
  @IsAbsolutePath()
  path?: string;

  @ApiPropertyOptional({
    example: 'libvirt-qemu:kvm',
    description: 'Of the folder and the socket.',
  })
  @IsOptional()
  @Matches(/^[A-Za-z0-9._-]{1,64}:[A-Za-z0-9._-]{1,64}$/, { message: 'owner must be "user:group"' })
  owner?: string;
}

export class VolumeBody {
  @ApiProperty({ example: 'vda' })
  @Matches(NAME_PATTERN, { message: NAME_MESSAGE })
  name!: string;

  @ApiProperty({ type: PrimaryBody })
  @IsDefined()
  @IsObject()
  @ValidateNested()
  @Type(() => PrimaryBody)
  primary!: PrimaryBody;

  @ApiPropertyOptional({
    enum: ['exact', 'fuzzy', 'none'],
    default: 'exact',
    description: 'Before initial copies exist, everything but `none` is refused.',
  })
  @IsOptional()
  @IsIn(['exact', 'fuzzy', 'none'])
  baseline: 'exact' | 'fuzzy' | 'none' = 'exact';

  @ApiPropertyOptional({ enum: [512, 4096], default: 512 })
  @IsOptional()
  @IsIn([512, 4096])
  blockSize: 512 | 4096 = 512;

  @ApiPropertyOptional({ type: [ExportBody], description: 'Absent: one vhost-user-blk, 1 queue.' })
  @IsOptional()
  @IsArray()
  @ArrayMaxSize(EXPORTS_PER_VOLUME_MAX)
  @IsObject({ each: true })
  @ValidateNested({ each: true })
  @Type(() => ExportBody)
  exports?: ExportBody[];
}

export class LogBufferBody {
  @ApiProperty({
    enum: ['tmpfs', 'file', 'pmem'],
    description:
      'tmpfs survives a crash of the service, file (on an SSD) and pmem also a power cut.',
  })
  @IsIn(['tmpfs', 'file', 'pmem'])
  kind!: 'tmpfs' | 'file' | 'pmem';

  @ApiPropertyOptional({
    example: '/var/lib/everpoint/buffers/web-1.buffer',
    description:
      'Of file and pmem: a file that does not exist yet, under a configured root or in the ' +
      "folder `buffers` of the state folder; it is the group's alone. tmpfs finds its own place.",
  })
  @IsOptional()
  @IsAbsolutePath()
  path?: string;

  @ApiPropertyOptional({ minimum: LOG_BUFFER_BYTES_MIN, maximum: LOG_BUFFER_BYTES_MAX })
  @IsOptional()
  @IsInt()
  @Min(LOG_BUFFER_BYTES_MIN)
  @Max(LOG_BUFFER_BYTES_MAX)
  bytes?: number;
}

export class GroupBody {
  @ApiProperty({ example: 'web-1' })
  @Matches(NAME_PATTERN, { message: NAME_MESSAGE })
  name!: string;

  @ApiPropertyOptional({ default: 'default', description: 'Name or id.' })
  @IsOptional()
  @IsString()
  @MaxLength(256)
  policy: string = 'default';

  @ApiPropertyOptional({ enum: ['primary', 'both'], default: 'primary' })
  @IsOptional()
  @IsIn(['primary', 'both'])
  ack: 'primary' | 'both' = 'primary';

  @ApiPropertyOptional({ enum: ['primary', 'both'], default: 'both' })
  @IsOptional()
  @IsIn(['primary', 'both'])
  flush: 'primary' | 'both' = 'both';

  @ApiPropertyOptional({ enum: ['throttle', 'gap'], default: 'throttle' })
  @IsOptional()
  @IsIn(['throttle', 'gap'])
  onLogPressure: 'throttle' | 'gap' = 'throttle';

  @ApiPropertyOptional({ minimum: 0, maximum: THROTTLE_MS_MAX, default: THROTTLE_MS_DEFAULT })
  @IsOptional()
  @IsInt()
  @Min(0)
  @Max(THROTTLE_MS_MAX)
  throttleMaxMs: number = THROTTLE_MS_DEFAULT;

  @ApiPropertyOptional({ type: LogBufferBody })
  @IsOptional()
  @IsObject()
  @ValidateNested()
  @Type(() => LogBufferBody)
  logBuffer?: LogBufferBody;

  @ApiPropertyOptional({
    type: [String],
    default: ['default'],
    description: 'Names or ids; the first is preferred.',
  })
  @IsOptional()
  @IsArray()
  @ArrayMinSize(1)
  @ArrayMaxSize(DEVICES_PER_GROUP_MAX)
  @ArrayUnique()
  @IsString({ each: true })
  devices: string[] = ['default'];

  @ApiProperty({ type: [VolumeBody] })
  @IsArray()
  @ArrayMinSize(1)
  @ArrayMaxSize(VOLUMES_PER_GROUP_MAX)
  @ArrayUnique((volume?: VolumeBody) => volume?.name, {
    message: 'the names of volumes must differ',
  })
  @IsObject({ each: true })
  @ValidateNested({ each: true })
  @Type(() => VolumeBody)
  volumes!: VolumeBody[];
}

export class GroupPatch {
  @ApiPropertyOptional({ description: 'Name or id.' })
  @IsOptional()
  @IsString()
  @MaxLength(256)
  policy?: string;

  @ApiPropertyOptional({ enum: ['primary', 'both'] })
  @IsOptional()
  @IsIn(['primary', 'both'])
  ack?: 'primary' | 'both';

  @ApiPropertyOptional({ enum: ['primary', 'both'] })
  @IsOptional()
  @IsIn(['primary', 'both'])
  flush?: 'primary' | 'both';

  @ApiPropertyOptional({ enum: ['throttle', 'gap'] })
  @IsOptional()
  @IsIn(['throttle', 'gap'])
  onLogPressure?: 'throttle' | 'gap';

  @ApiPropertyOptional({ minimum: 0, maximum: THROTTLE_MS_MAX })
  @IsOptional()
  @IsInt()
  @Min(0)
  @Max(THROTTLE_MS_MAX)
  throttleMaxMs?: number;

  @ApiPropertyOptional({ type: [Object], description: 'Refused for now.' })
  @IsOptional()
  @IsArray()
  volumes?: unknown[];

  @ApiPropertyOptional({ type: [Object], description: 'Refused for now.' })
  @IsOptional()
  @IsArray()
  exports?: unknown[];
}

export class ConfirmBody {
  @ApiProperty({ enum: [true], description: 'Says that it is meant.' })
  @IsOptional()
  confirm?: unknown;
}

export class DeleteGroupQuery {
  @ApiPropertyOptional({
    enum: ['true', 'false'],
    description: 'Also while a front-end is connected: its guest loses the disk.',
  })
  @IsOptional()
  @IsIn(['true', 'false'])
  force?: string;

  @ApiPropertyOptional({
    enum: ['true', 'false'],
    description:
      "Also remove the group's log and maps from the devices. Absent: they stay there and can " +
      'be read offline; nothing frees them by itself.',
  })
  @IsOptional()
  @IsIn(['true', 'false'])
  deleteHistory?: string;
}
