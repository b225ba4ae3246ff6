// SPDX-License-Identifier: Apache-2.0

/**
 * The main job from end to end, for `npm run demo` and, in small, for the specs: a guest writes files
 * on a protected disk, the moment is marked, the guest destroys the files, the disk is restored to
 * new files at the marker and at latest, and guests look at both.
 */
import { cpus } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { chooseAccel, probeAccel, type AccelChoice } from '../support/guest/accel.ts';
import type { Guest, GuestLine } from '../support/guest/boot.ts';
import { finishGuest, startGuest, type GuestResult } from '../support/guest/guest.ts';
import { buildInitramfs } from '../support/guest/initramfs.ts';
import {
  compareManifests,
  destroyFilesJob,
  fsckJob,
  inSequence,
  makeFilesJob,
  parseManifest,
  pauseJob,
  plannedFiles,
  replayJournalJob,
  verifyFilesJob,
  type Manifest,
} from '../support/guest/jobs.ts';
import { QEMU, qemuVersion, type Accel, type GuestDisk } from '../support/guest/qemu.ts';
import { Service } from '../support/service.ts';
import { bytes, count, duration, plural, speed } from './format.ts';
import { allocatedBytes, compareImages } from './images.ts';
import {
  call,
  lastWords,
  readMetrics,
  restore,
  type GapAnswer,
  type GroupAnswer,
  type MapAnswer,
  type PointAnswer,
  type SegmentAnswer,
  type ServiceInfo,
} from './rest.ts';

export interface ScenarioOptions {
  /** Everything is kept in it; who asks makes it and removes it. */
  folder: string;
  sizeBytes: number;
  files: number;
  minBytes: number;
  maxBytes: number;
  /** Sizes of the files follow from it. */
  seed: number;
  /** Small, so that a short run seals segments and builds maps; at least 8 MiB. */
  segmentBytes: number;
  accel?: AccelChoice;
  onGuestLine?: (line: GuestLine) => void;
}

/** One comparison and how it went. */
export interface Check {
  text: string;
  held: boolean;
}

/** Shows what happens. */
export interface Stage {
  step<T>(title: string, work: (step: Step) => Promise<T>): Promise<T>;
}

export interface Step {
  /** What it is doing right now. */
  live(text: string): void;
  /** A figure that stays. */
  note(text: string): void;
  check(check: Check): void;
}

/** Counters of the group up to a moment. */
export interface LoadFigures {
  lsn: number;
  durableLsn: number;
  writes: number;
  writeBytes: number;
  flushes: number;
  logBytes: number;
  errors: number;
}

export interface RestoreFigures extends PointAnswer {
  at: string;
  path: string;
  sizeBytes: number;
  dataBytes: number;
  seconds: number;
}

/** What `--json` prints. */
export interface ScenarioResult {
  held: boolean;
  checks: Check[];
  steps: Array<{ title: string; seconds: number }>;
  machine: { cpus: number; qemu: string; accel: Accel; why: string; kernel: string };
  disk: { sizeBytes: number; files: number; fileBytes: number };
  marker: PointAnswer;
  atMarker: LoadFigures;
  atEnd: LoadFigures;
  log: { segments: number; sealed: number; maps: number; mapEntries: number; mapBytes: number };
  restores: RestoreFigures[];
  bootSeconds: number[];
  seconds: number;
}

const GROUP = 'demo';
const MARKER = 'before the accident';
const DEVICE = '/dev/vda';
const QUEUES = 2;
const GUEST_MS_MAX = 300_000;
const MADE = 'made';
const LEFT = 'left';
/** The guest's end, which its kernel reports as loudly as an error. */
const REBOOT = 'reboot: Restarting system';

/** Runs once; {@link close} may be called at any moment and ends everything that was started. */
export class Scenario {
  readonly primary: string;
  readonly #options: ScenarioOptions;
  readonly #stage: Stage;
  readonly #began = performance.now();
  readonly #steps: ScenarioResult['steps'] = [];
  readonly #checks: Check[] = [];
  readonly #boots: number[] = [];
  #service: Service | undefined;
  #starting: Promise<Service> | undefined;
  #guest: Guest | undefined;
  #closed = false;

  constructor(options: ScenarioOptions, stage: Stage) {
    this.#options = options;
    this.#stage = stage;
    this.primary = join(options.folder, 'primary.raw');
  }

  async run(): Promise<ScenarioResult> {
    const { files, sizeBytes } = this.#options;
    const machine = await this.#prepare();
    const group = await this.#protect(await this.#startService());
    const first = await this.#firstBoot(group, machine.accel);
    const log = await this.#describeLog();
    const restores = await this.#restore(first.marker);
    await this.#compareWithPrimary(restores.latest);
    await this.#lookAtMarker(restores.marker, first.made);
    await this.#lookAtLatest(restores.latest, first.made, first.left);
    await this.#lookAtGroup();
    return {
      held: this.#checks.length > 0 && this.#checks.every((check) => check.held),
      checks: this.#checks,
      steps: this.#steps,
      machine,
      disk: { sizeBytes, files, fileBytes: first.fileBytes },
      marker: first.marker,
      atMarker: first.atMarker,
      atEnd: first.atEnd,
      log,
      restores: [restores.marker, restores.latest],
      bootSeconds: this.#boots.map((ms) => ms / 1000),
      seconds: (performance.now() - this.#began) / 1000,
    };
  }

  /** Ends guest and service. With `forget`, the group goes first, and with it its log buffer. */
  async close(forget: boolean): Promise<void> {
    this.#closed = true;
    this.#guest?.kill();
    await this.#guest?.exited;
    await this.#starting?.catch(() => undefined);
    const service = this.#service;
    this.#service = undefined;
    if (service === undefined) return;
    if (forget) {
      // One that was not made yet, or a service that is gone, must not keep the rest from ending.
      const path = `/v1/groups/${GROUP}?force=true&deleteHistory=true`;
      await service.call('DELETE', path).catch(() => undefined);
    }
    await service.stop();
  }

  /** The end of the service's logs, for the report of a failure. */
  serviceTail(): string {
    return this.#service === undefined ? '' : lastWords(this.#service);
  }

  // ---- the steps ------------------------------------------------------------------------------

  #prepare(): Promise<ScenarioResult['machine']> {
    return this.#step('Look at this machine', async (step) => {
      step.live('trying KVM, building the guest’s initramfs');
      const accel = await chooseAccel(this.#options.accel ?? 'auto');
      const probed = await probeAccel();
      const why = probed.accel === accel ? probed.reason : 'asked for';
      const { kernel } = buildInitramfs();
      const qemu = qemuVersion(QEMU).text.replace(/^QEMU emulator version (\S+).*$/, '$1');
      const cpuCount = cpus().length;
      const slow = why === 'asked for' ? 'as asked for' : 'KVM does not boot a guest here';
      const kind = accel === 'kvm' ? 'KVM' : `emulation (TCG): ${slow}`;
      step.note(`${plural(cpuCount, 'CPU')}; guests run by ${kind}`);
      step.note(`QEMU ${qemu}, guest kernel ${kernel.version}`);
      return { cpus: cpuCount, qemu, accel, why, kernel: kernel.version };
    });
  }

  #startService(): Promise<Service> {
    return this.#step('Start the service', async (step) => {
      this.#starting = Service.start({
        folder: this.#options.folder,
        environment: { EVERPOINT_SEGMENT_BYTES: String(this.#options.segmentBytes) },
      });
      const service = await this.#starting;
      this.#service = service;
      if (this.#closed) throw new Error('interrupted');
      const info = await call<ServiceInfo>(service, 'GET', '/v1/info');
      step.note(`control plane: pid ${info.pid}; data plane: pid ${info.dataPlane.pid ?? '?'}`);
      for (const note of info.dataPlane.notes) step.note(note);
      return service;
    });
  }

  #protect(service: Service): Promise<GroupAnswer> {
    const { sizeBytes } = this.#options;
    return this.#step('Protect a disk', async (step) => {
      const primary = { kind: 'file', path: this.primary, sizeBytes, create: true };
      const exports = [{ kind: 'vhost-user-blk', queues: QUEUES }];
      const group = await call<GroupAnswer>(service, 'POST', '/v1/groups', {
        name: GROUP,
        volumes: [{ name: 'vda', primary, baseline: 'none', exports }],
      });
      step.note(`a new raw file of ${bytes(sizeBytes)}, empty; group "${GROUP}" is ${group.state}`);
      step.note(`vhost-user-blk, ${QUEUES} queues: ${exportOf(group).uri}`);
      return group;
    });
  }

  async #firstBoot(group: GroupAnswer, accel: Accel) {
    const { files, minBytes, maxBytes, seed } = this.#options;
    const plan = { device: DEVICE, files, minBytes, maxBytes, seed };
    const script = inSequence(
      makeFilesJob({ ...plan, label: MADE, stayMounted: true }),
      pauseJob('written'),
      destroyFilesJob({ device: DEVICE, alreadyMounted: true, label: LEFT }),
    );
    const disk = { qemuArgs: exportOf(group).qemuArgs, queues: QUEUES };
    const guest = await this.#boot('Boot a guest on it', disk, script, accel, true);
    const fileBytes = plannedFiles(plan).reduce((sum, file) => sum + file.bytes, 0);
    const written = await this.#step('The guest makes ext4 and writes files', async (step) => {
      await this.#watchGuest(step, guest, 'pause written');
      const made = parseManifest(textsOf(guest), MADE);
      const figures = await this.#figures();
      step.note(
        `${plural(made.size, 'file')}, ${bytes(fileBytes)}; their sha256 made in the guest`,
      );
      noteFigures(step, figures);
      return { made, figures };
    });
    const marker = await this.#step(`Mark the moment "${MARKER}"`, async (step) => {
      const { lsn, time } = await this.#api<PointAnswer>('POST', '/markers', { label: MARKER });
      step.note(`LSN ${count(lsn)}, ${time}; the guest’s file system is in use`);
      return { lsn, time };
    });
    return this.#step('The guest destroys its files', async (step) => {
      guest.say('go on');
      await this.#watchGuest(step, guest, '@@guest end');
      const result = await this.#finish(step, guest);
      const said = result.output.find((line) => line.startsWith('destroyed: '));
      if (result.exitCode !== 0 || said === undefined) throw jobFailed('destroying', result);
      const left = parseManifest(result.output, LEFT);
      const atEnd = await this.#figures();
      step.note(`${said.slice('destroyed: '.length)}, and ${bytes(4 << 20)} of rubbish written`);
      noteFigures(step, atEnd, written.figures);
      return { made: written.made, left, marker, atMarker: written.figures, atEnd, fileBytes };
    });
  }

  #describeLog(): Promise<ScenarioResult['log']> {
    return this.#step('Look at the log and its delta maps', async (step) => {
      let segments: SegmentAnswer[];
      // Workers map a sealed segment within a moment; what they have not mapped is read as log.
      const deadline = Date.now() + 5_000;
      do {
        segments = await this.#api<SegmentAnswer[]>('GET', '/segments?limit=1000');
        if (segments.every((one) => one.state === 'active' || one.mapped)) break;
        await sleep(50);
      } while (Date.now() < deadline);
      const maps = await this.#api<MapAnswer[]>('GET', '/maps?limit=1000');
      const sealed = segments.filter((one) => one.state === 'sealed').length;
      const mapEntries = maps.reduce((sum, map) => sum + map.entries, 0);
      const mapBytes = maps.reduce((sum, map) => sum + map.fileBytes, 0);
      step.note(
        `${plural(segments.length, 'segment')} of the log, ${sealed} sealed; ` +
          `${plural(maps.length, 'delta map')} of ${plural(mapEntries, 'extent')}, ${bytes(mapBytes)}`,
      );
      return { segments: segments.length, sealed, maps: maps.length, mapEntries, mapBytes };
    });
  }

  async #restore(marker: PointAnswer) {
    return {
      marker: await this.#restoreAt(`marker:${MARKER}`, 'at-marker.raw', 'at the marker', marker),
      latest: await this.#restoreAt('latest', 'at-latest.raw', 'at latest'),
    };
  }

  #restoreAt(at: string, name: string, words: string, expected?: PointAnswer) {
    return this.#step(`Restore the disk ${words}, to a new file`, async (step) => {
      const path = join(this.#options.folder, name);
      const began = performance.now();
      const result = await restore(
        this.#running(),
        GROUP,
        at,
        [{ volume: 'vda', path }],
        (done, total) => step.live(`${bytes(done)} of ${bytes(total)}`),
      );
      const ms = performance.now() - began;
      const target = result.targets[0];
      if (target === undefined) throw new Error('the restore names no target');
      step.note(
        `LSN ${count(result.lsn)}: ${bytes(target.dataBytes)} of data in ${bytes(target.sizeBytes)}, ` +
          `${speed(target.dataBytes, ms)} (${bytes(await allocatedBytes(path))} on disk)`,
      );
      if (expected !== undefined) {
        this.#check(step, result.lsn === expected.lsn, 'the point that was taken is the marker’s');
      }
      const { lsn, time } = result;
      const { sizeBytes, dataBytes } = target;
      return { at, lsn, time, path, sizeBytes, dataBytes, seconds: ms / 1000 };
    });
  }

  #compareWithPrimary(latest: RestoreFigures): Promise<void> {
    return this.#step('Compare the disk at latest with the primary', async (step) => {
      const began = performance.now();
      const { equal, sizeBytes, firstDifference } = await compareImages(latest.path, this.primary);
      const ms = performance.now() - began;
      const where =
        firstDifference === null ? '' : `; they differ at byte ${count(firstDifference)}`;
      const text = `both are the same ${count(sizeBytes)} bytes${where}`;
      this.#check(step, equal, equal ? `${text} (${speed(sizeBytes, ms)})` : text);
    });
  }

  async #lookAtMarker(restored: RestoreFigures, made: Manifest): Promise<void> {
    const script = inSequence(
      // The disk was in use when it was marked: the journal is replayed, as after a power cut.
      replayJournalJob({ device: DEVICE }),
      fsckJob({ device: DEVICE }),
      verifyFilesJob({ device: DEVICE, readOnly: true, label: 'found' }),
    );
    const disk = { file: restored.path, queues: QUEUES };
    const guest = await this.#boot('Boot a guest on the disk at the marker', disk, script);
    await this.#step('That guest checks its files', async (step) => {
      const result = await this.#finish(step, guest);
      const found = parseManifest(result.output, 'found');
      const { equal, missing, changed, extra } = compareManifests(made, found);
      const wrong = `${missing.length} missing, ${changed.length} changed, ${extra.length} extra`;
      const all = `all ${count(made.size)} files are back, each with the sha256 of before`;
      this.#check(step, equal, equal ? all : `files: ${wrong}`);
      const clean = result.exitCode !== 40;
      this.#check(step, clean, clean ? 'e2fsck finds nothing' : 'e2fsck finds damage');
      const agrees = result.exitCode === 0;
      const own = 'the list of checksums that the guest kept on the disk agrees';
      this.#check(step, agrees, agrees ? own : `${own}: no, exit code ${result.exitCode}`);
    });
  }

  async #lookAtLatest(restored: RestoreFigures, made: Manifest, left: Manifest): Promise<void> {
    const script = verifyFilesJob({ device: DEVICE, readOnly: true, label: 'found' });
    const disk = { file: restored.path, queues: QUEUES, readOnly: true };
    const guest = await this.#boot('Boot a guest on the disk at latest', disk, script);
    await this.#step('That guest sees the damage', async (step) => {
      const result = await this.#finish(step, guest);
      const found = parseManifest(result.output, 'found');
      const loss = compareManifests(made, found);
      const asPlanned =
        loss.missing.length === Math.floor(made.size / 2) &&
        loss.changed.length === Math.ceil(made.size / 2) &&
        loss.extra.length === 1;
      const words = `${loss.changed.length} files changed, ${loss.missing.length} gone, ${loss.extra.length} new`;
      this.#check(step, asPlanned, `not one file is as before: ${words}`);
      const same = compareManifests(left, found).equal;
      this.#check(step, same, 'and it is the damage that the first guest saw, by sha256');
      this.#check(step, result.exitCode === 30, 'the guest’s own list of checksums is gone too');
    });
  }

  #lookAtGroup(): Promise<void> {
    return this.#step('Ask the service how it went', async (step) => {
      const group = await this.#api<GroupAnswer>('GET', '');
      const gaps = await this.#api<GapAnswer[]>('GET', '/gaps');
      const { errors } = await this.#figures();
      const held = group.state === 'protected' && gaps.length === 0;
      const why = `state ${group.state}, ${plural(gaps.length, 'gap')}`;
      this.#check(step, held, held ? 'the disk was protected all the time: no gap' : why);
      this.#check(step, errors === 0, `${errors} I/O errors of primary, log and guest requests`);
    });
  }

  // ---- their parts ----------------------------------------------------------------------------

  async #step<T>(title: string, work: (step: Step) => Promise<T>): Promise<T> {
    if (this.#closed) throw new Error('interrupted');
    const began = performance.now();
    try {
      return await this.#stage.step(title, work);
    } finally {
      this.#steps.push({ title, seconds: (performance.now() - began) / 1000 });
    }
  }

  #check(step: Step, held: boolean, text: string): void {
    const check = { text, held };
    this.#checks.push(check);
    step.check(check);
  }

  #running(): Service {
    if (this.#service === undefined) throw new Error('the service has ended');
    return this.#service;
  }

  #api<Answer>(method: string, path: string, body?: unknown): Promise<Answer> {
    return call(this.#running(), method, `/v1/groups/${GROUP}${path}`, body);
  }

  #boot(
    title: string,
    disk: GuestDisk,
    script: string,
    accel?: Accel,
    showMemory = false,
  ): Promise<Guest> {
    const { onGuestLine } = this.#options;
    return this.#step(title, async (step) => {
      const guest = await startGuest({
        disks: [disk],
        script,
        accel: accel ?? this.#options.accel ?? 'auto',
        ...(onGuestLine && { onLine: onGuestLine }),
      });
      this.#guest = guest;
      if (this.#closed) guest.kill();
      const { atMs } = await guest.waitForLine('@@guest begin', GUEST_MS_MAX);
      this.#boots.push(atMs);
      if (showMemory) step.note('with the QEMU arguments that the service named for the disk');
      return guest;
    });
  }

  /** Waits for a line and shows meanwhile what the service has taken in. */
  async #watchGuest(step: Step, guest: Guest, line: string): Promise<void> {
    let waiting = true;
    const arrived = guest.waitForLine(line, GUEST_MS_MAX).finally(() => {
      waiting = false;
    });
    arrived.catch(() => undefined);
    while (waiting) {
      const figures = await this.#figures().catch(() => undefined);
      if (figures !== undefined) {
        step.live(`${count(figures.writes)} writes, ${bytes(figures.writeBytes)}`);
      }
      await Promise.race([arrived.catch(() => undefined), sleep(250)]);
    }
    const failed = guest.lines.find(
      ({ from, text }) => from === 'job' && /^@@guest end (?!0 )/.test(text),
    );
    if (failed !== undefined && line !== '@@guest end') throw new Error(failed.text);
    await arrived;
  }

  async #finish(step: Step, guest: Guest): Promise<GuestResult> {
    const result = await finishGuest(guest, GUEST_MS_MAX);
    const errors = result.console.filter((line) => !line.endsWith(REBOOT));
    const quiet = errors.length === 0;
    const said = `the guest’s kernel reports: ${errors.slice(0, 3).join(' / ')}`;
    // Only worth a line where it did not hold; it counts either way.
    const check = { held: quiet, text: quiet ? 'no I/O error in the guest' : said };
    this.#checks.push(check);
    if (!quiet) step.check(check);
    return result;
  }

  async #figures(): Promise<LoadFigures> {
    const all = await readMetrics(this.#running());
    const take = (name: string): number => {
      const value = all.get(`everpoint_group_${name}{group="${GROUP}"}`);
      if (value === undefined) throw new Error(`/metrics has no everpoint_group_${name}`);
      return value;
    };
    const ofExports = (name: string): number =>
      [...all]
        .filter(([key]) => key.startsWith(`everpoint_export_${name}{group="${GROUP}"`))
        .reduce((sum, [, value]) => sum + value, 0);
    return {
      lsn: take('lsn'),
      durableLsn: take('durable_lsn'),
      writes: take('writes'),
      writeBytes: take('write_bytes'),
      flushes: take('flushes'),
      logBytes: take('log_bytes'),
      errors:
        take('primary_errors') + take('log_errors') + ofExports('errors') + ofExports('malformed'),
    };
  }
}

function exportOf(group: GroupAnswer) {
  const found = group.volumes[0]?.exports[0];
  if (found === undefined) throw new Error('the group has no export');
  return found;
}

function textsOf(guest: Guest): string[] {
  return guest.lines.filter((line) => line.from === 'job').map((line) => line.text);
}

function noteFigures(step: Step, now: LoadFigures, before?: LoadFigures): void {
  const since = (key: keyof LoadFigures): number => now[key] - (before?.[key] ?? 0);
  step.note(
    `${count(since('writes'))} writes split, ${bytes(since('writeBytes'))} to disk and log; ` +
      `${plural(since('flushes'), 'flush', 'flushes')}; now at LSN ${count(now.lsn)}`,
  );
  const perByte = (since('logBytes') / Math.max(1, since('writeBytes'))).toFixed(3);
  step.note(`log: ${bytes(since('logBytes'))}, ${perByte} bytes for each byte the guest wrote`);
}

function jobFailed(what: string, result: GuestResult): Error {
  const last = result.output.slice(-5).join('\n  ');
  return new Error(`${what} failed in the guest, exit code ${result.exitCode}:\n  ${last}`);
}

/** The time of a run, for the closing line. */
export function describeTime(result: ScenarioResult): string {
  return duration(result.seconds * 1000);
}
