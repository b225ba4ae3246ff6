// SPDX-License-Identifier: Apache-2.0

import * as fs from 'node:fs';
import * as fsp from 'node:fs/promises';
import * as path from 'node:path';

import { EverpointError, toEverpointError } from '../common/errors.js';
import { ensureFolder } from '../common/files.js';
import { Creation } from './creation.js';
import { DefinitionStore } from './definitions.js';
import { DataPlaneError } from './errors.js';
import { failedStatus, OPENING_REASON, unknownDefinition } from './group-status.js';
import { openNative } from './native.js';
import type { NativeAddon, NativeDataPlane, NativeFaults } from './native-types.js';
import { definitionsDir, nativeDir } from './paths.js';
import type {
  DataPlaneEvent,
  DataPlaneInfo,
  DataPlanePort,
  GroupChange,
  GroupDefinition,
  GroupState,
  GroupStatus,
  MarkerRequest,
  MarkerResult,
  SegmentInfo,
} from './port.js';
import { checkChange, checkDefinition, checkGroupId, checkMarker } from './validate.js';

export interface InProcessOptions {
  /** The state folder; definitions and the addon's files lie below it. */
  readonly state: string;
  readonly addon: NativeAddon;
  /** Default 1. */
  readonly reactors?: number | undefined;
  readonly faults?: NativeFaults | undefined;
  readonly log?: DataPlaneLog | undefined;
  /** How soon a group that did not open is tried again, at first and at most; for tests. */
  readonly retryMs?: { readonly first: number; readonly most: number } | undefined;
}

/** What kept a group from opening may pass in a moment (a disk that comes late), or never. */
const RETRY_MS = { first: 5_000, most: 60_000 };

/** What is used of pino. */
export interface DataPlaneLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

/** One group as this class knows it. */
interface Group {
  readonly id: string;
  /** Nothing when its file is damaged. */
  definition: GroupDefinition | undefined;
  state: 'opening' | 'open' | 'failed';
  error: EverpointError | undefined;
  /** Set while the next try to open it is to come. */
  retry: { readonly timer: NodeJS.Timeout; readonly delayMs: number } | undefined;
  /** The changes to one group run one after the other; this one is the last. */
  turn: Promise<unknown>;
}

/**
 * The data plane in this process: the addon, and the definitions it is opened with. The constructor
 * starts the reactors; `start` opens every stored group, and a group that does not open neither
 * stops the others nor disappears.
 */
export class InProcessDataPlane implements DataPlanePort {
  private readonly groups = new Map<string, Group>();
  private readonly listeners = new Set<(event: DataPlaneEvent) => void>();
  private readonly native: NativeDataPlane;
  private readonly store: DefinitionStore;
  private readonly startedAt = process.hrtime.bigint();
  private readonly reactors: number;
  private closing: Promise<void> | undefined;

  constructor(private readonly options: InProcessOptions) {
    this.reactors = options.reactors ?? 1;
    this.store = new DefinitionStore(definitionsDir(options.state));
    // The addon makes its own folders below this one.
    fs.mkdirSync(nativeDir(options.state), { recursive: true, mode: 0o700 });
    this.native = openNative(options.addon, {
      stateDir: nativeDir(options.state),
      reactors: this.reactors,
      onEvent: (event) => {
        this.emit(event);
      },
      ...(options.faults === undefined ? {} : { faults: options.faults }),
    });
  }

  /**
   * Reads the definitions and begins to open the groups. When it answers, every stored group is
   * listed (as opening, if need be); `opened` answers when each was tried.
   */
  async start(): Promise<{ opened: Promise<void> }> {
    await ensureFolder(nativeDir(this.options.state), 0o700);
    const work: Promise<unknown>[] = [];
    for (const stored of await this.store.load()) {
      if (!('error' in stored) && stored.phase === 'creating') {
        await this.rollBack(stored.definition);
        continue;
      }
      const group = this.add(stored.id, 'definition' in stored ? stored.definition : undefined);
      if ('error' in stored) this.fail(group, stored.error);
      else if (stored.phase === 'deleting') {
        work.push(this.inTurn(group, () => this.finishDelete(group)));
      } else work.push(this.inTurn(group, () => this.open(group)));
    }
    return { opened: Promise.allSettled(work).then(() => undefined) };
  }

  async info(): Promise<DataPlaneInfo> {
    return {
      version: this.options.addon.version(),
      pid: process.pid,
      uptimeSeconds: Number((process.hrtime.bigint() - this.startedAt) / 1_000_000n) / 1000,
      reactors: this.reactors,
      build: this.options.addon.build(),
      notes: this.native.notes(),
    };
  }

  async listGroups(): Promise<GroupStatus[]> {
    return Promise.all([...this.groups.values()].map((group) => this.statusOf(group)));
  }

  async groupStatus(id: string): Promise<GroupStatus> {
    return this.statusOf(this.find(id));
  }

  async createGroup(wanted: GroupDefinition): Promise<GroupStatus> {
    this.refuseWhileClosing('create group');
    const definition = checkDefinition(wanted);
    const taken = [...this.groups.values()].find(
      (group) => group.id === definition.id || group.definition?.name === definition.name,
    );
    if (taken !== undefined) {
      throw new EverpointError(
        'ALREADY_EXISTS',
        `a group with the ${taken.id === definition.id ? 'id' : 'name'} of ${definition.name} exists already`,
        { operation: 'create group' },
      );
    }
    const group = this.add(definition.id, definition);
    return this.inTurn(group, async () => {
      try {
        await this.create(group, definition);
      } catch (error) {
        this.groups.delete(group.id);
        throw error;
      }
      return this.statusOf(group);
    });
  }

  async updateGroup(id: string, wanted: GroupChange): Promise<GroupStatus> {
    this.refuseWhileClosing('change group');
    const change = checkChange(wanted);
    const group = this.find(id);
    return this.inTurn(group, async () => {
      const before = this.definitionOf(group, 'change group');
      const after = checkDefinition({ ...before, ...change });
      // The file first: what was answered as changed stays so over a crash.
      await this.store.write(after, 'live');
      if (group.state === 'open') {
        try {
          // All of them: the addon has no difference between absent and unchanged.
          const { name, ack, flush, onLogPressure, throttleMaxMs } = after;
          const whole = { name, ack, flush, onLogPressure, throttleMaxMs };
          await this.native.updateGroup(group.id, whole);
        } catch (error) {
          await this.store.write(before, 'live');
          throw error;
        }
      }
      group.definition = after;
      return this.statusOf(group);
    });
  }

  async pauseGroup(id: string): Promise<GroupStatus> {
    return this.ofOpen(id, 'pause group', () => this.native.pause(id));
  }

  async resumeGroup(id: string): Promise<GroupStatus> {
    return this.ofOpen(id, 'resume group', () => this.native.resume(id));
  }

  async reopenGroup(id: string): Promise<GroupStatus> {
    this.refuseWhileClosing('reopen group');
    const group = this.find(id);
    return this.inTurn(group, async () => {
      if (group.state !== 'open') {
        // The file may have been put right since; it is what the next start would read.
        const stored = await this.store.read(group.id);
        if ('error' in stored) {
          this.fail(group, stored.error);
          throw stored.error;
        }
        group.definition = stored.definition;
        await this.open(group);
        if (group.error !== undefined) throw group.error;
      }
      return this.statusOf(group);
    });
  }

  async deleteGroup(id: string, options: { force?: boolean }): Promise<void> {
    this.refuseWhileClosing('delete group');
    const group = this.find(id);
    await this.inTurn(group, async () => {
      if (group.state === 'open' && options.force !== true) await this.refuseConnected(group);
      if (group.definition !== undefined) {
        const definition = withoutCreate(group.definition);
        await this.store.write(definition, 'deleting');
      }
      await this.finishDelete(group);
      if (group.error !== undefined) throw group.error;
    });
  }

  async addMarker(id: string, wanted: MarkerRequest): Promise<MarkerResult> {
    const marker = checkMarker(wanted);
    const group = this.findOpen(id, 'add marker');
    return this.protectedOnly(group, () => this.native.addMarker(group.id, marker));
  }

  async syncLog(id: string): Promise<{ durableLsn: number }> {
    const group = this.findOpen(id, 'sync log');
    return this.protectedOnly(group, () => this.native.syncLog(group.id));
  }

  async seal(id: string): Promise<{ sealedLsn: number }> {
    const group = this.findOpen(id, 'seal segment');
    return this.protectedOnly(group, () => this.native.seal(group.id));
  }

  async listSegments(id: string, after: number): Promise<SegmentInfo[]> {
    if (!Number.isSafeInteger(after)) {
      throw new EverpointError('INVALID_ARGUMENT', '`after` must be a whole number', {
        operation: 'list segments',
      });
    }
    return this.native.listSegments(this.findOpen(id, 'list segments').id, after);
  }

  /** The second call waits for the first. What is being opened or changed is let finish. */
  shutdown(): Promise<void> {
    this.closing ??= (async () => {
      for (const group of this.groups.values()) this.endRetry(group);
      await Promise.allSettled([...this.groups.values()].map((group) => group.turn));
      await this.native.close();
    })();
    return this.closing;
  }

  onEvent(listener: (event: DataPlaneEvent) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  private emit(event: DataPlaneEvent): void {
    for (const listener of this.listeners) listener(event);
  }

  private add(id: string, definition: GroupDefinition | undefined): Group {
    const group: Group = {
      id,
      definition,
      state: 'opening',
      error: undefined,
      retry: undefined,
      turn: Promise.resolve(),
    };
    this.groups.set(id, group);
    return group;
  }

  private inTurn<T>(group: Group, run: () => Promise<T>): Promise<T> {
    const next = group.turn.then(() => {
      if (this.groups.get(group.id) !== group) throw noGroup(group.id);
      return run();
    });
    group.turn = next.catch(() => undefined);
    return next;
  }

  private async create(group: Group, definition: GroupDefinition): Promise<void> {
    const creation = new Creation(definition);
    await creation.check();
    await this.store.write(definition, 'creating');
    try {
      await this.native.openGroup(definition, { create: true });
    } catch (error) {
      await this.undoCreate(group, creation, error);
      throw error;
    }
    group.definition = withoutCreate(definition);
    await this.store.write(group.definition, 'live');
    group.state = 'open';
    this.log('info', group, 'group created');
  }

  private async undoCreate(group: Group, creation: Creation, reason: unknown): Promise<void> {
    // Each step for itself: one that fails must not keep the others from being done.
    const steps = [
      () => this.forgetNative(group.id),
      () => creation.undo(reason),
      () => this.store.remove(group.id),
    ];
    for (const step of steps) {
      await step().catch((error: unknown) => {
        this.log('error', group, `roll-back of a failed creation: ${(error as Error).message}`);
      });
    }
  }

  /**
   * A creation that the end of the process cut off. Nobody was told that the group is there, and
   * what the addon had of it may lack its beginning (the geometry entries): opened, it would count
   * as protected with a history that cannot be used. So it disappears.
   */
  private async rollBack(definition: GroupDefinition): Promise<void> {
    const { id, name } = definition;
    const about = { group: id, name };
    try {
      await this.forgetNative(id);
      const left = await Creation.undoAfterCrash(definition);
      await this.store.remove(id);
      this.options.log?.warn({ ...about, left }, 'a creation that was cut off was taken back');
    } catch (error) {
      // The definition stays, so the next start takes it up again.
      const why = error instanceof Error ? error.message : String(error);
      this.options.log?.error(about, `a creation that was cut off cannot be taken back: ${why}`);
    }
  }

  /** Ends with the group open or failed; it does not throw. */
  private async open(group: Group): Promise<void> {
    const definition = group.definition;
    if (definition === undefined) return;
    this.endRetry(group);
    group.state = 'opening';
    const failure = await this.tryOpen(group, definition);
    if (failure === undefined) return;
    this.fail(group, failure);
    this.retryLater(group, (this.options.retryMs ?? RETRY_MS).first);
  }

  /** Opens it, or answers why not; then its state is as it was. */
  private async tryOpen(
    group: Group,
    definition: GroupDefinition,
  ): Promise<EverpointError | undefined> {
    try {
      await this.native.openGroup(withoutCreate(definition), { create: false });
      group.definition = withoutCreate(definition);
      group.state = 'open';
      group.error = undefined;
      this.log('info', group, 'group opened');
      const status = await this.statusOf(group);
      this.emit({ kind: 'state', group: group.id, state: status.state, reason: status.reason });
      return undefined;
    } catch (error) {
      return toEverpointError(error, 'open group');
    }
  }

  private retryLater(group: Group, delayMs: number): void {
    if (this.closing !== undefined) return;
    const { most } = this.options.retryMs ?? RETRY_MS;
    const timer = setTimeout(() => {
      const again = this.inTurn(group, async () => {
        // Somebody reopened or deleted it while this waited for its turn.
        if (group.retry?.timer !== timer || this.closing !== undefined) return;
        // It may have been changed since the last try.
        const { definition } = group;
        const failure = definition && (await this.tryOpen(group, definition));
        group.retry = undefined;
        if (failure === undefined) return;
        // The same fault again is no news.
        if (failure.message !== group.error?.message) this.fail(group, failure);
        this.retryLater(group, Math.min(delayMs * 2, most));
      });
      again.catch(() => undefined);
    }, delayMs);
    timer.unref();
    group.retry = { timer, delayMs };
  }

  private endRetry(group: Group): void {
    clearTimeout(group.retry?.timer);
    group.retry = undefined;
  }

  /**
   * The addon answers BUSY while protection is interrupted; to the port that is CONFLICT: it does not
   * pass by waiting for a moment. This is the one place where the one becomes the other.
   */
  private async protectedOnly<T>(group: Group, run: () => Promise<T>): Promise<T> {
    try {
      return await run();
    } catch (error) {
      if (!(error instanceof EverpointError) || error.code !== 'BUSY') throw error;
      const status = await this.native.status(group.id).catch(() => undefined);
      const hint = status && HINTS[status.state];
      if (hint === undefined) throw error;
      throw new DataPlaneError('CONFLICT', error.message, {
        operation: error.operation,
        hint: error.hint ?? hint,
        retryable: false,
        cause: error,
      });
    }
  }

  private fail(group: Group, error: EverpointError): void {
    group.state = 'failed';
    group.error = error;
    this.log('error', group, `group is not open: ${error.message}`);
    this.emit({ kind: 'state', group: group.id, state: 'failed', reason: reasonOf(error) });
  }

  private async finishDelete(group: Group): Promise<void> {
    this.endRetry(group);
    try {
      await this.forgetNative(group.id);
      await this.store.remove(group.id);
      this.groups.delete(group.id);
      group.error = undefined;
      this.log('info', group, 'group deleted');
    } catch (error) {
      // It stays, as failed: deleting it again, or the next start, takes up where this ended.
      this.fail(group, toEverpointError(error, 'delete group'));
    }
  }

  /** Closes the group if it is open, and removes what the addon keeps of it in any case. */
  private async forgetNative(id: string): Promise<void> {
    try {
      await this.native.closeGroup(id, { forget: true });
    } catch (error) {
      if ((error as EverpointError).code !== 'NOT_FOUND') throw error;
    }
    await fsp.rm(path.join(nativeDir(this.options.state), id), { recursive: true, force: true });
  }

  private async refuseConnected(group: Group): Promise<void> {
    const status = await this.native.status(group.id);
    const connected = status.volumes
      .filter((volume) => volume.exports.some((one) => one.connected))
      .map((volume) => volume.name);
    if (connected.length === 0) return;
    throw new EverpointError('BUSY', `a front-end is connected to ${connected.join(', ')}`, {
      operation: 'delete group',
      retryable: false,
      hint: 'stop the guest, or force it',
    });
  }

  private async statusOf(group: Group): Promise<GroupStatus> {
    const definition = group.definition ?? unknownDefinition(group.id);
    if (group.state === 'opening') return failedStatus(definition, OPENING_REASON);
    if (group.state === 'failed') {
      const why = group.error ? reasonOf(group.error) : 'not open';
      const { retry } = group;
      const again = retry === undefined ? '' : `; tried again every ${retry.delayMs / 1000} s`;
      return failedStatus(definition, `${why}${again}`);
    }
    try {
      // The definition on disk is the truth; the addon has no use for its last change of name.
      const status = await this.native.status(group.id);
      return { ...status, id: group.id, name: definition.name, definition };
    } catch (error) {
      return failedStatus(definition, `its state cannot be read: ${(error as Error).message}`);
    }
  }

  private find(id: string): Group {
    const group = this.groups.get(checkGroupId(id));
    if (group === undefined) throw noGroup(id);
    return group;
  }

  /** A change of an open group that its definition knows nothing of, in turn with the others. */
  private async ofOpen(
    id: string,
    operation: string,
    run: () => Promise<void>,
  ): Promise<GroupStatus> {
    this.refuseWhileClosing(operation);
    const group = this.find(id);
    return this.inTurn(group, async () => {
      this.findOpen(id, operation);
      await run();
      this.log('warn', group, operation);
      return this.statusOf(group);
    });
  }

  private findOpen(id: string, operation: string): Group {
    this.refuseWhileClosing(operation);
    const group = this.find(id);
    if (group.state === 'open') return group;
    const why = group.error === undefined ? OPENING_REASON : reasonOf(group.error);
    throw new EverpointError('BUSY', `group ${group.definition?.name ?? id} is not open: ${why}`, {
      operation,
      retryable: group.state === 'opening',
      cause: group.error,
      hint: group.error?.hint,
    });
  }

  private definitionOf(group: Group, operation: string): GroupDefinition {
    if (group.definition !== undefined) return group.definition;
    throw new EverpointError('CORRUPTION', group.error?.message ?? 'the definition is damaged', {
      operation,
      file: this.store.fileOf(group.id),
      hint: group.error?.hint,
    });
  }

  private refuseWhileClosing(operation: string): void {
    if (this.closing === undefined) return;
    throw new EverpointError('BUSY', 'the data plane is closing', { operation });
  }

  private log(level: 'info' | 'warn' | 'error', group: Group, message: string): void {
    this.options.log?.[level]({ group: group.id, name: group.definition?.name }, message);
  }
}

/** What to do about a group whose protection is interrupted. */
const HINTS: Partial<Record<GroupState, string>> = {
  gap: 'wait until the gap is healed',
  resyncing: 'wait until the gap is healed: its resync is under way',
  paused: 'resume the group',
};

function noGroup(id: string): EverpointError {
  return new EverpointError('NOT_FOUND', `the data plane has no group ${id}`, {
    operation: 'find group',
  });
}

function reasonOf(error: EverpointError): string {
  return error.hint === undefined ? error.message : `${error.message} (${error.hint})`;
}

/** Primaries are made once; the stored definition of a live group never asks for it. */
function withoutCreate(definition: GroupDefinition): GroupDefinition {
  return {
    ...definition,
    volumes: definition.volumes.map((volume) => {
      const { create: _, ...primary } = volume.primary;
      return { ...volume, primary };
    }),
  };
}
