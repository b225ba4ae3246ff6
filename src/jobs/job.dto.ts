// SPDX-License-Identifier: Apache-2.0
import { ApiProperty, ApiPropertyOptional } from '@nestjs/swagger';
import { JOB_STATES, type JobRow } from '../catalog/job.repository.js';
import { formatTime } from '../common/time.js';

export class JobProgressAnswer {
  @ApiProperty({ example: 1_073_741_824 })
  done!: number;

  @ApiProperty({ example: 4_294_967_296 })
  total!: number;

  @ApiProperty({ example: 'bytes' })
  unit!: string;

  @ApiProperty({ example: 524_288_000 })
  perSecond!: number;

  @ApiProperty({ type: Number, nullable: true, example: 7 })
  etaSeconds!: number | null;
}

export class JobErrorAnswer {
  @ApiProperty({ example: 'NO_SPACE' })
  code!: string;

  @ApiProperty()
  message!: string;

  @ApiPropertyOptional()
  hint?: string;
}

export class JobAnswer {
  @ApiProperty({ example: 'jQ3pX8aLr2kTz' })
  id!: string;

  @ApiProperty({ example: 'restore' })
  kind!: string;

  @ApiProperty({ enum: JOB_STATES })
  state!: string;

  @ApiPropertyOptional({ description: 'UUID of the group that the job works for.' })
  group?: string;

  @ApiProperty({ example: '2026-03-01T12:00:00.000000000Z' })
  createdAt!: string;

  @ApiProperty({ type: JobProgressAnswer })
  progress!: JobProgressAnswer;

  @ApiPropertyOptional({ type: JobErrorAnswer })
  error?: JobErrorAnswer;

  @ApiPropertyOptional({ type: Object, description: 'What the job made, by its kind.' })
  result?: unknown;
}

export function jobAnswer(row: JobRow): JobAnswer {
  return {
    id: row.id,
    kind: row.kind,
    state: row.state,
    ...(row.groupId !== null && { group: row.groupId }),
    createdAt: formatTime(BigInt(row.createdNs)),
    progress: row.progress,
    ...(row.error !== null && { error: row.error }),
    ...(row.result !== null && row.result !== undefined && { result: row.result }),
  };
}
