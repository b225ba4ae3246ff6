// SPDX-License-Identifier: Apache-2.0
import { ApiProperty, ApiPropertyOptional } from '@nestjs/swagger';

export const GROUP_STATES = [
  'baseline',
  'protected',
  'gap',
  'resyncing',
  'paused',
  'rewinding',
  'failed',
] as const;

export class PrimaryAnswer {
  @ApiProperty({ enum: ['file', 'device'] })
  kind!: string;

  @ApiProperty({ example: '/var/lib/libvirt/images/web-1.raw' })
  path!: string;

  @ApiPropertyOptional({ example: 10_737_418_240 })
  sizeBytes?: number;
}

export class ExportAnswer {
  @ApiProperty({ enum: ['vhost-user-blk'] })
  kind!: string;

  @ApiProperty({ example: 2 })
  queues!: number;

  @ApiProperty({ example: '/run/everpoint/1b2c3d4e-vda/vhost.sock' })
  path!: string;

  @ApiPropertyOptional({ example: 'libvirt-qemu:kvm' })
  owner?: string;

  @ApiProperty({ example: 'unix:/run/everpoint/1b2c3d4e-vda/vhost.sock' })
  uri!: string;

  @ApiProperty({ description: 'A front-end (QEMU) is connected.' })
  connected!: boolean;

  @ApiProperty({
    type: [String],
    description:
      'Arguments for a QEMU with this disk alone. The first three pairs (-m, -object, -numa) give ' +
      "the guest's memory as memfd, which vhost-user needs: with several disks they are given " +
      'once, with the size that the guest shall have in both places. -chardev and -device are for ' +
      'each disk; their ids differ between the disks of all groups.',
    example: [
      '-m',
      '1G',
      '-object',
      'memory-backend-memfd,id=everpoint-mem,size=1G,share=on',
      '-numa',
      'node,memdev=everpoint-mem',
      '-chardev',
      'socket,id=ep-1b2c3d4e-0,path=/run/everpoint/1b2c3d4e-vda/vhost.sock,reconnect=1',
      '-device',
      'vhost-user-blk-pci,chardev=ep-1b2c3d4e-0,num-queues=2',
    ],
  })
  qemuArgs!: string[];

  @ApiProperty({
    description:
      "A disk element. The domain also needs the memoryBacking element in the comment's words.",
  })
  libvirtXml!: string;
}

export class VolumeAnswer {
  @ApiProperty({ example: 'vda' })
  name!: string;

  @ApiProperty({ example: 0, description: "The volume's number in log and maps." })
  number!: number;

  @ApiProperty({ example: 10_737_418_240 })
  sizeBytes!: number;

  @ApiProperty({ type: PrimaryAnswer })
  primary!: PrimaryAnswer;

  @ApiProperty({ enum: ['none'] })
  baseline!: string;

  @ApiProperty({ enum: [512, 4096] })
  blockSize!: number;

  @ApiProperty({ type: [ExportAnswer] })
  exports!: ExportAnswer[];
}

export class LogBufferAnswer {
  @ApiProperty({ enum: ['tmpfs', 'file', 'pmem'] })
  kind!: string;

  @ApiPropertyOptional()
  path?: string;

  @ApiPropertyOptional()
  bytes?: number;
}

export class OpenGapAnswer {
  @ApiProperty({ description: 'The newest point that is good.' })
  fromLsn!: number;

  @ApiProperty({ description: 'Its time.' })
  from!: string;

  @ApiProperty()
  reason!: string;
}

export class ResyncAnswer {
  @ApiProperty({ description: 'Still to be compared.' })
  leftBytes!: number;

  @ApiProperty()
  totalBytes!: number;
}

export class GroupDeviceAnswer {
  @ApiProperty({ example: 'default' })
  name!: string;

  @ApiProperty({
    enum: ['ok', 'failed', 'full', 'missing', 'unknown'],
    description: "As the group's log finds it; unknown while the data plane cannot be asked.",
  })
  state!: string;

  @ApiPropertyOptional({ description: 'Why it is not ok.' })
  reason?: string;
}

export class GroupAnswer {
  @ApiProperty({ example: '1b2c3d4e-5f60-4718-8a9b-0c1d2e3f4a5b' })
  id!: string;

  @ApiProperty({ example: 'web-1' })
  name!: string;

  @ApiProperty({ example: 'default', description: 'Name of the policy.' })
  policy!: string;

  @ApiProperty({ enum: ['primary', 'both'] })
  ack!: string;

  @ApiProperty({ enum: ['primary', 'both'] })
  flush!: string;

  @ApiProperty({ enum: ['throttle', 'gap'] })
  onLogPressure!: string;

  @ApiProperty({ example: 5000 })
  throttleMaxMs!: number;

  @ApiProperty({ type: LogBufferAnswer })
  logBuffer!: LogBufferAnswer;

  @ApiProperty({ type: [String], example: ['default'], description: 'Names of the devices.' })
  devices!: string[];

  @ApiProperty({ enum: GROUP_STATES })
  state!: string;

  @ApiProperty({
    description:
      'Why it is in that state, and what else is wrong with it; empty while protected and well.',
  })
  reason!: string;

  @ApiProperty({ description: 'The last LSN that was taken.' })
  lsn!: number;

  @ApiProperty({
    description:
      'Every write up to this LSN is durable on the secondary, but for those that a gap covers.',
  })
  durableLsn!: number;

  @ApiProperty({
    description:
      'Age of the oldest write that is not durable on the secondary; in a gap and its resync, of ' +
      'the newest protected moment.',
  })
  rpoSeconds!: number;

  @ApiProperty({
    type: String,
    nullable: true,
    example: '2026-03-01T12:00:00.000000000Z',
    description: 'Time of the oldest point in history; null before the first entry.',
  })
  historyFrom!: string | null;

  @ApiProperty({ description: 'Bytes of segments written and not freed, preallocation left out.' })
  logBytes!: number;

  @ApiProperty({ description: 'Used share of the log buffer, 0 to 1; guests wait at 1.' })
  logPressure!: number;

  @ApiProperty({ description: 'The log buffer survives a power cut.' })
  bufferDurable!: boolean;

  @ApiProperty({
    type: OpenGapAnswer,
    nullable: true,
    description: 'The open gap, if there is one.',
  })
  gap!: OpenGapAnswer | null;

  @ApiProperty({ type: ResyncAnswer, nullable: true, description: 'While resyncing.' })
  resync!: ResyncAnswer | null;

  @ApiProperty({ type: [GroupDeviceAnswer] })
  deviceStates!: GroupDeviceAnswer[];

  @ApiProperty({ type: [VolumeAnswer] })
  volumes!: VolumeAnswer[];
}
