// SPDX-License-Identifier: Apache-2.0
import { readFileSync } from 'node:fs';
import { Inject, Injectable } from '@nestjs/common';
import { ApiProperty, ApiPropertyOptional } from '@nestjs/swagger';
import type { DataPlanePort } from '../data-plane/port.js';
import { DATA_PLANE } from '../events/data-plane-events.js';

export class BuildAnswer {
  @ApiProperty()
  uring!: boolean;

  @ApiProperty()
  pmem!: boolean;

  @ApiProperty()
  spdk!: boolean;

  @ApiProperty({ example: 'none' })
  sanitizer!: string;
}

export class DataPlaneAnswer {
  @ApiProperty({ enum: ['up', 'down'] })
  state!: string;

  @ApiPropertyOptional({ description: 'Why it cannot be reached.' })
  reason?: string;

  @ApiProperty({ type: Number, nullable: true })
  pid!: number | null;

  @ApiPropertyOptional()
  version?: string;

  @ApiPropertyOptional()
  uptimeSeconds?: number;

  @ApiProperty({ type: [String], description: 'What the system did not allow.' })
  notes!: string[];
}

export class InfoAnswer {
  @ApiProperty({ example: '0.1.0' })
  version!: string;

  @ApiProperty({ type: BuildAnswer, nullable: true, description: 'Null while it is down.' })
  build!: BuildAnswer | null;

  @ApiProperty({ example: 1, description: 'Threads of the data plane; 0 while it is down.' })
  reactors!: number;

  @ApiProperty({ description: "Seconds since the service's start." })
  uptimeSeconds!: number;

  @ApiProperty()
  pid!: number;

  @ApiProperty({ type: DataPlaneAnswer })
  dataPlane!: DataPlaneAnswer;
}

/** The version in package.json; the same from `src/` and from `dist/`. */
export function packageVersion(): string {
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}

/** Says what runs. */
@Injectable()
export class InfoService {
  private readonly startedAt = performance.now();
  private readonly version = packageVersion();

  constructor(@Inject(DATA_PLANE) private readonly port: DataPlanePort) {}

  async info(): Promise<InfoAnswer> {
    const common = {
      version: this.version,
      uptimeSeconds: Math.floor((performance.now() - this.startedAt) / 1000),
      pid: process.pid,
    };
    try {
      const { pid, version, uptimeSeconds, reactors, build, notes } = await this.port.info();
      const dataPlane = { state: 'up', pid, version, uptimeSeconds, notes };
      return { ...common, build, reactors, dataPlane };
    } catch (error) {
      const reason = (error as Error).message;
      const dataPlane = { state: 'down', reason, pid: null, notes: [] };
      return { ...common, build: null, reactors: 0, dataPlane };
    }
  }
}
