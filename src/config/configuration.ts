// SPDX-License-Identifier: Apache-2.0
import 'reflect-metadata';
import { Type } from 'class-transformer';
import {
  ArrayNotEmpty,
  IsArray,
  IsIn,
  IsInt,
  IsNotEmpty,
  IsOptional,
  IsString,
  Matches,
  Max,
  Min,
} from 'class-validator';

/** One segment file at least this large: the data plane's own lower bound. */
export const SEGMENT_BYTES_MIN = 8 * 1024 * 1024;
/** And at most this large. */
export const SEGMENT_BYTES_MAX = 1024 * 1024 * 1024;

/**
 * Everything that can be configured, as the YAML file spells it. Each key is also an environment
 * variable ({@link ENVIRONMENT}), which wins over the file. {@link resolveConfiguration} makes paths
 * absolute and fills what depends on other keys.
 */
export class Configuration {
  /** Folder of the catalog, the token, groups' records, the `default` device. */
  @IsString()
  @IsNotEmpty()
  state: string = './var';

  /** `HOST:PORT`, or the absolute path of a unix socket. */
  @IsString()
  @Matches(/^(unix:)?\/.+$|^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]*):\d{1,5}$/, {
    message: 'listen must be HOST:PORT or the absolute path of a unix socket',
  })
  listen: string = '127.0.0.1:8320';

  /** Folders under which primaries and restore targets must lie; absent: see resolveConfiguration. */
  @IsOptional()
  @IsArray()
  @ArrayNotEmpty()
  @IsString({ each: true })
  @Matches(/^[^\0]+$/, { each: true, message: 'each root must be a path' })
  roots?: string[];

  /** Folder for guests' sockets; absent: `<state>/run`, or a short one where that is too long. */
  @IsOptional()
  @IsString()
  @IsNotEmpty()
  runDir?: string;

  /** `managed`: started, watched and ended by this service; `external`: somebody else (systemd). */
  @IsIn(['managed', 'external'])
  dataPlane: 'managed' | 'external' = 'managed';

  /** Threads of the data plane; groups are spread over them. */
  @Type(() => Number)
  @IsInt()
  @Min(1)
  @Max(64)
  reactors: number = 1;

  /** Threads that build maps and write restores. */
  @Type(() => Number)
  @IsInt()
  @Min(1)
  @Max(64)
  workers: number = 2;

  /** Size of a segment file of groups made from now on; absent: the data plane's default. */
  @IsOptional()
  @Type(() => Number)
  @IsInt()
  @Min(SEGMENT_BYTES_MIN)
  @Max(SEGMENT_BYTES_MAX)
  segmentBytes?: number;

  /** An active segment older than this is sealed; absent: the data plane's default. */
  @IsOptional()
  @Type(() => Number)
  @IsInt()
  @Min(1000)
  @Max(86_400_000)
  sealAfterMs?: number;

  @IsIn(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'])
  logLevel: string = 'info';

  /** `auto`: for people on a terminal, JSON lines otherwise. */
  @IsIn(['auto', 'text', 'json'])
  logFormat: 'auto' | 'text' | 'json' = 'auto';
}

/** The environment variable of every key. */
export const ENVIRONMENT: Record<keyof Configuration, string> = {
  state: 'EVERPOINT_STATE',
  listen: 'EVERPOINT_LISTEN',
  roots: 'EVERPOINT_ROOTS',
  runDir: 'EVERPOINT_RUN_DIR',
  dataPlane: 'EVERPOINT_DATA_PLANE',
  reactors: 'EVERPOINT_REACTORS',
  workers: 'EVERPOINT_WORKERS',
  segmentBytes: 'EVERPOINT_SEGMENT_BYTES',
  sealAfterMs: 'EVERPOINT_SEAL_AFTER_MS',
  logLevel: 'EVERPOINT_LOG_LEVEL',
  logFormat: 'EVERPOINT_LOG_FORMAT',
};

/** Where the service listens. */
export type ListenAddress =
  { kind: 'tcp'; host: string; port: number } | { kind: 'unix'; path: string };

/**
 * The configuration as the service uses it: paths absolute, defaults filled in. A class, so that it
 * can be injected by its type.
 */
export class Settings {
  /** The file it was read from, if there was one. */
  file: string | undefined;
  state!: string;
  listen!: ListenAddress;
  roots!: string[];
  runDir!: string;
  dataPlane!: 'managed' | 'external';
  reactors!: number;
  workers!: number;
  segmentBytes: number | undefined;
  sealAfterMs: number | undefined;
  logLevel!: string;
  logFormat!: 'auto' | 'text' | 'json';
}
