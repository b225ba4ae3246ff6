// SPDX-License-Identifier: Apache-2.0
import { type DynamicModule, Global, Module } from '@nestjs/common';
import { APP_FILTER, APP_PIPE, NestFactory } from '@nestjs/core';
import { FastifyAdapter, type NestFastifyApplication } from '@nestjs/platform-fastify';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { Logger, LoggerModule } from 'nestjs-pino';
import { AuthModule } from './auth/auth.module.js';
import { Catalog } from './catalog/catalog.js';
import { CatalogModule } from './catalog/catalog.module.js';
import { RegistryKeeper } from './catalog/registry-keeper.js';
import { ProblemFilter, sendProblem } from './common/rest/problem.filter.js';
import { makeValidationPipe } from './common/rest/validation.js';
import { ConfigModule } from './config/config.module.js';
import type { Settings } from './config/configuration.js';
import { loggingParams } from './config/logging.js';
import type { DataPlanePort } from './data-plane/port.js';
import { DeviceService } from './devices/device.service.js';
import { DevicesModule } from './devices/devices.module.js';
import { EventsModule } from './events/events.module.js';
import { GroupRecovery } from './groups/group-recovery.js';
import { GroupsModule } from './groups/groups.module.js';
import { PolicyFollower } from './groups/policy-follower.js';
import { HealthModule } from './health/health.module.js';
import { Readiness } from './health/readiness.js';
import { HistoryModule } from './history/history.module.js';
import { MapKeeper } from './history/map-keeper.js';
import { InfoModule } from './info/info.module.js';
import { setUpOpenApi } from './info/openapi.js';
import { JobService } from './jobs/job.service.js';
import { JobsModule } from './jobs/jobs.module.js';
import { MetricsModule } from './metrics/metrics.module.js';
import { PoliciesModule } from './policies/policies.module.js';
import { PolicyService } from './policies/policy.service.js';
import { RestoresModule } from './restores/restores.module.js';
import { WorkerPool } from './workers/pool.js';

/** Larger bodies are refused; a group of 64 volumes is far below. */
const BODY_BYTES_MAX = 1024 * 1024;

/** What the service stands on. */
export interface Foundations {
  settings: Settings;
  port: DataPlanePort;
  pool: WorkerPool;
}

/** Gives the worker pool to every module; who made it starts and stops it. */
@Global()
@Module({})
class WorkersModule {
  static forRoot(pool: WorkerPool): DynamicModule {
    return {
      module: WorkersModule,
      providers: [{ provide: WorkerPool, useValue: pool }],
      exports: [WorkerPool],
    };
  }
}

@Module({})
export class AppModule {
  static forRoot({ settings, port, pool }: Foundations): DynamicModule {
    return {
      module: AppModule,
      imports: [
        LoggerModule.forRoot(loggingParams(settings)),
        ConfigModule.forRoot(settings),
        CatalogModule.forRoot(settings.state),
        WorkersModule.forRoot(pool),
        AuthModule,
        MetricsModule,
        EventsModule.forRoot(port),
        JobsModule,
        DevicesModule,
        PoliciesModule,
        GroupsModule,
        HistoryModule,
        RestoresModule,
        InfoModule,
        HealthModule,
      ],
      providers: [
        { provide: APP_FILTER, useClass: ProblemFilter },
        { provide: APP_PIPE, useFactory: makeValidationPipe },
      ],
    };
  }
}

/** Makes the application. It neither listens nor works before {@link takeUpWork}. */
export async function createApp(foundations: Foundations): Promise<NestFastifyApplication> {
  const adapter = new FastifyAdapter({
    bodyLimit: BODY_BYTES_MAX,
    // Streams of events would otherwise hold the end of the service up.
    forceCloseConnections: true,
    routerOptions: { maxParamLength: 1024 },
    // What the HTTP parser itself refuses never reaches a controller.
    frameworkErrors: (error: Error, _request: FastifyRequest, reply: FastifyReply) => {
      sendProblem(error, reply);
    },
  });
  const app = await NestFactory.create<NestFastifyApplication>(
    AppModule.forRoot(foundations),
    adapter,
    { bufferLogs: true, abortOnError: false },
  );
  app.useLogger(app.get(Logger));
  setUpOpenApi(app);
  await app.init();
  return app;
}

/**
 * Brings everything back to where the last run of the service left it, in the order in which one
 * needs the other, and starts the work that goes on by itself.
 */
export async function takeUpWork(app: NestFastifyApplication): Promise<void> {
  const registry = app.get(RegistryKeeper, { strict: false });
  if (app.get(Catalog, { strict: false }).isNew) await registry.load();
  await app.get(DeviceService, { strict: false }).ensureDefault();
  await app.get(PolicyService, { strict: false }).ensureDefault();
  await registry.save();
  await app.get(GroupRecovery, { strict: false }).start();
  await app.get(PolicyFollower, { strict: false }).start();
  app.get(MapKeeper, { strict: false }).start();
  await app.get(JobService, { strict: false }).start();
  app.get(Readiness, { strict: false }).started = true;
}
