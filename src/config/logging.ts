// SPDX-License-Identifier: Apache-2.0
import type { IncomingMessage } from 'node:http';
import type { Params } from 'nestjs-pino';
import type { DestinationStream, LogFn, Logger } from 'pino';
import { formatTime } from '../common/time.js';
import type { Settings } from './configuration.js';

const LEVELS: Record<number, string> = {
  10: 'trace',
  20: 'debug',
  30: 'info',
  40: 'WARN',
  50: 'ERROR',
  60: 'FATAL',
};

/** Nest says of every module and route that it is there; that is for its developers. */
const CHATTER = new Set(['NestFactory', 'InstanceLoader', 'RoutesResolver', 'RouterExplorer']);
const INFO = 30;

interface LogLine {
  level: number;
  time: number;
  msg?: string;
  context?: string;
  err?: { message?: string; stack?: string };
  req?: { method?: string; url?: string };
  res?: { statusCode?: number };
  responseTime?: number;
  dataPlane?: Record<string, unknown>;
}

/** How the service logs. Neither headers nor bodies are logged, so no token and no label either. */
export function loggingParams(settings: Settings): Params {
  const text =
    settings.logFormat === 'text' ||
    (settings.logFormat === 'auto' && process.stdout.isTTY === true);
  const options = {
    level: settings.logLevel,
    autoLogging: { ignore: (request: IncomingMessage) => isProbe(request.url ?? '') },
    customLogLevel: (_request: IncomingMessage, response: { statusCode: number }) =>
      response.statusCode >= 500 ? ('warn' as const) : ('debug' as const),
    serializers: {
      req: ({ method, url, remoteAddress }: Record<string, unknown>) => ({
        method,
        url,
        remoteAddress,
      }),
      res: ({ statusCode }: Record<string, unknown>) => ({ statusCode }),
    },
    hooks: {
      logMethod(this: Logger, args: Parameters<LogFn>, method: LogFn, level: number): void {
        const { context } = args[0] as { context?: string };
        if (level > INFO || context === undefined || !CHATTER.has(context)) {
          method.apply(this, args);
        }
      },
    },
    redact: ['req.headers', '*.authorization', '*.token'],
  };
  return { pinoHttp: text ? [options, textStream(process.stdout)] : options };
}

function isProbe(url: string): boolean {
  return /^\/(healthz|readyz|metrics)\b/.test(url);
}

/** One line for people per line of JSON. */
export function textStream(out: { write(text: string): unknown }): DestinationStream {
  return {
    write: (line: string) => {
      out.write(`${textOf(line)}\n`);
    },
  };
}

function textOf(line: string): string {
  let parsed: LogLine;
  try {
    parsed = JSON.parse(line) as LogLine;
  } catch {
    return line.trimEnd();
  }
  const time = formatTime(BigInt(parsed.time) * 1_000_000n).slice(11, 23);
  const level = (LEVELS[parsed.level] ?? String(parsed.level)).padEnd(5);
  const context = parsed.context === undefined ? '' : ` ${parsed.context}:`;
  const { req, res } = parsed;
  const request =
    req === undefined
      ? ''
      : ` ${req.method ?? ''} ${req.url ?? ''} ${res?.statusCode ?? ''} ${Math.round(parsed.responseTime ?? 0)} ms`;
  const fault = parsed.err === undefined ? '' : `\n${parsed.err.stack ?? parsed.err.message ?? ''}`;
  const message = parsed.msg === undefined ? '' : ` ${parsed.msg}`;
  const fields = Object.entries(parsed.dataPlane ?? {}).map(
    ([name, value]) => ` ${name}=${JSON.stringify(value)}`,
  );
  return `${time} ${level}${context}${request === '' ? message : request}${fields.join('')}${fault}`;
}
