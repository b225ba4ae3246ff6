// SPDX-License-Identifier: Apache-2.0

/**
 * Writes a volume as it was at one LSN to a new raw file, in block order [0034]. Which maps and
 * segments add up to that LSN is the caller's to know; here it is a pure function of them.
 *
 * Output is gathered in windows. A window's extents are read in the order of the log, so that
 * neighbours there come from one read, and written in the order of the volume.
 */

import * as fs from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';

import { errnoOf, toEverpointError } from '../common/errors.js';
import { publishFileSync, temporaryPath, writeAtSync } from '../common/files.js';
import {
  REGION_SECTORS,
  RESTORE_READ_BYTES_MAX,
  RESTORE_READ_HOLE_BYTES_MAX,
  RESTORE_WINDOW_BYTES,
  RESTORE_WINDOW_EXTENTS_MAX,
  SECTOR_BYTES,
  VOLUME_BYTES_MAX,
} from '../common/limits.js';
import { corruption, MapsError } from './errors.js';
import {
  NO_KEY,
  RegionExtents,
  regionKey,
  regionOfKey,
  SOURCE_UNKNOWN,
  SOURCE_ZERO,
  volumeOfKey,
  type RegionSource,
  type SegmentReference,
} from './extents.js';
import { LevelZeroSource } from './level-zero.js';
import { MapFile } from './map-reader.js';
import { MergedSource } from './merge.js';
import { SegmentStore, type SegmentLocation } from './segment-store.js';
import { SegmentFile, type PayloadPlace } from './segment/reader.js';

/** A stretch of history. A map is taken whole; of a segment, the entries of the range. */
export type RestoreSource =
  | {
      readonly kind: 'map';
      readonly path: string;
      readonly firstLsn: number;
      readonly lastLsn: number;
    }
  | {
      readonly kind: 'segment';
      readonly path: string;
      readonly sealed: boolean;
      readonly firstLsn: number;
      readonly lastLsn: number;
    };

export interface RestoreRequest {
  readonly group: string;
  readonly volume: number;
  /** The volume's size at the LSN. */
  readonly sizeBytes: number;
  readonly lsn: number;
  /** Oldest first, their ranges rising and none beyond `lsn`. */
  readonly sources: readonly RestoreSource[];
  /** Every segment that the maps may point into; those among `sources` are known already. */
  readonly segments: readonly SegmentLocation[];
  readonly target: string;
  readonly overwrite?: boolean | undefined;
  /** false: the finished, synced file stays under its temporary name, for the caller to publish. */
  readonly publish?: boolean | undefined;
  /** What to do where the content is not known: fail (default), or leave zeroes. */
  readonly unknown?: 'fail' | 'zeroes' | undefined;
}

export interface RestoreResult {
  readonly target: string;
  /** Where the file is: the target itself once it is published. */
  readonly file: string;
  readonly sizeBytes: number;
  /** Copied from the log; the rest of the file is a hole. */
  readonly dataBytes: number;
  /** Ranges that history says are zeroes. */
  readonly zeroBytes: number;
  readonly unknownBytes: number;
}

export interface Progress {
  readonly done: number;
  readonly total: number;
}

export interface RestoreOptions {
  readonly onProgress?: (progress: Progress) => void;
  readonly signal?: AbortSignal;
}

const OPERATION = 'restore';
/** After so many regions without data others get a turn. */
const REGIONS_PER_TURN = 256;

/**
 * Restores to `target`, which appears whole or not at all.
 * @throws ALREADY_EXISTS, CORRUPTION, CANCELLED, NO_SPACE, IO_ERROR (unknown content), …
 */
export async function restoreVolume(
  request: RestoreRequest,
  options: RestoreOptions = {},
): Promise<RestoreResult> {
  checkRequest(request);
  checkTarget(request);
  const sources = openSources(request);
  const store = new SegmentStore([...request.segments, ...sources.locations]);
  const temporary = temporaryPath(request.target);
  let fd = -1;
  try {
    fd = fs.openSync(temporary, 'wx', 0o600);
    fs.ftruncateSync(fd, request.sizeBytes);
    const copy = new VolumeCopy(request, new MergedSource(sources.regions), store, fd, options);
    const result = await copy.run();
    fs.fsyncSync(fd);
    throwIfCancelled(options.signal);
    if (request.publish === false) return { ...result, file: temporary };
    publishFileSync(temporary, request.target, request.overwrite === true);
    return { ...result, file: request.target };
  } catch (error) {
    fs.rmSync(temporary, { force: true });
    throw toEverpointError(error, OPERATION, request.target);
  } finally {
    if (fd >= 0) fs.closeSync(fd);
    sources.close();
    store.close();
  }
}

function checkRequest(request: RestoreRequest): void {
  const bad = (what: string) =>
    new MapsError('INVALID_ARGUMENT', what, { operation: OPERATION, file: request.target });
  const { sizeBytes, lsn } = request;
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 0 || sizeBytes > VOLUME_BYTES_MAX) {
    throw bad(`a volume of ${sizeBytes} bytes`);
  }
  let reached = -1;
  for (const source of request.sources) {
    if (source.firstLsn <= reached || source.lastLsn < source.firstLsn) {
      throw bad('the sources are not in the order of their LSNs');
    }
    reached = source.lastLsn;
  }
  if (reached > lsn) throw bad(`the sources go on to LSN ${reached}, beyond ${lsn}`);
}

function checkTarget({ target, overwrite }: RestoreRequest): void {
  let stat: fs.Stats | undefined;
  try {
    stat = fs.lstatSync(target);
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw toEverpointError(error, OPERATION, target);
  }
  if (stat && !overwrite) {
    throw new MapsError('ALREADY_EXISTS', `${target} exists already`, {
      operation: OPERATION,
      file: target,
      hint: 'choose another path, or allow overwriting',
    });
  }
  if (stat && !stat.isFile()) {
    throw new MapsError('INVALID_ARGUMENT', `${target} is not a regular file`, {
      operation: OPERATION,
      file: target,
    });
  }
}

interface OpenSources {
  readonly regions: RegionSource[];
  readonly locations: SegmentLocation[];
  close(): void;
}

function openSources(request: RestoreRequest): OpenSources {
  const regions: RegionSource[] = [];
  const locations: SegmentLocation[] = [];
  const maps: MapFile[] = [];
  const close = () => {
    for (const map of maps) map.close();
  };
  try {
    for (const source of request.sources) {
      if (source.kind === 'map') {
        const map = MapFile.open(source.path);
        maps.push(map);
        checkMap(map, source, request);
        regions.push(map);
      } else {
        const opened = openSegmentSource(source, request);
        locations.push(opened.location);
        regions.push(opened.source);
      }
    }
    return { regions, locations, close };
  } catch (error) {
    close();
    throw error;
  }
}

function checkMap(map: MapFile, source: RestoreSource, request: RestoreRequest): void {
  const { group, firstLsn, lastLsn } = map.header;
  if (group !== request.group) {
    throw corruption(OPERATION, map.path, 0, `a map of group ${group}`);
  }
  if (firstLsn !== source.firstLsn || lastLsn !== source.lastLsn) {
    const what = `a map of LSN ${firstLsn} to ${lastLsn} where another one is expected`;
    throw corruption(OPERATION, map.path, 0, what);
  }
}

/** Reads the entries and lets go of the file: the store opens it again for the data. */
function openSegmentSource(
  source: RestoreSource & { kind: 'segment' },
  request: RestoreRequest,
): { source: LevelZeroSource; location: SegmentLocation } {
  const durable = source.sealed ? {} : { durableLsn: source.lastLsn };
  const file = SegmentFile.open(source.path, { expectSealed: source.sealed, ...durable });
  try {
    const { group, device, segment } = file.header;
    if (group !== request.group) {
      throw corruption(OPERATION, source.path, 0, `a segment of group ${group}`);
    }
    if (file.lastLsn < source.lastLsn || file.firstLsn > source.firstLsn) {
      throw corruption(
        OPERATION,
        source.path,
        file.fileBytes,
        `it holds LSN ${file.firstLsn} to ${file.lastLsn}, not ${source.firstLsn} to ${source.lastLsn}`,
      );
    }
    const entries = file.readEntries(source.firstLsn, source.lastLsn);
    return {
      source: new LevelZeroSource(entries, { volume: request.volume }),
      location: { device, segment, path: source.path, sealed: source.sealed, ...durable },
    };
  } finally {
    file.close();
  }
}

function throwIfCancelled(signal: AbortSignal | undefined): void {
  if (!signal?.aborted) return;
  throw new MapsError('CANCELLED', 'the restore was cancelled', { operation: OPERATION });
}

/** A wanted part of one entry and where it goes in the window. */
interface Want {
  readonly place: PayloadPlace;
  readonly from: number;
  readonly sectors: number;
  readonly at: number;
}

class VolumeCopy {
  private readonly window: Buffer;
  private readonly readBuffer = Buffer.allocUnsafeSlow(RESTORE_READ_BYTES_MAX);
  private windowBytes = 0;
  private count = 0;
  private readonly sector = new Float64Array(RESTORE_WINDOW_EXTENTS_MAX);
  private readonly sectors = new Uint32Array(RESTORE_WINDOW_EXTENTS_MAX);
  private readonly source = new Uint32Array(RESTORE_WINDOW_EXTENTS_MAX);
  private readonly address = new Uint32Array(RESTORE_WINDOW_EXTENTS_MAX);
  private readonly place = new Uint32Array(RESTORE_WINDOW_EXTENTS_MAX);
  private dataBytes = 0;
  private zeroBytes = 0;
  private unknownBytes = 0;

  constructor(
    private readonly request: RestoreRequest,
    private readonly regions: RegionSource,
    private readonly store: SegmentStore,
    private readonly fd: number,
    private readonly options: RestoreOptions,
  ) {
    const needed = Math.ceil(request.sizeBytes / SECTOR_BYTES) * SECTOR_BYTES;
    this.window = Buffer.allocUnsafeSlow(
      Math.max(SECTOR_BYTES, Math.min(needed, RESTORE_WINDOW_BYTES)),
    );
  }

  async run(): Promise<Omit<RestoreResult, 'file'>> {
    const { volume, sizeBytes, target } = this.request;
    const extents = new RegionExtents();
    this.regions.seek(regionKey(volume, 0));
    this.report(0);
    for (let visited = 1; ; visited += 1) {
      const key = this.regions.nextKey();
      if (key === NO_KEY || volumeOfKey(key) !== volume) break;
      this.regions.load(extents);
      await this.addRegion(extents, regionOfKey(key) * REGION_SECTORS);
      if (visited % REGIONS_PER_TURN === 0) await this.turn();
    }
    await this.flush();
    throwIfCancelled(this.options.signal);
    this.report(sizeBytes);
    const { dataBytes, zeroBytes, unknownBytes } = this;
    return { target, sizeBytes, dataBytes, zeroBytes, unknownBytes };
  }

  private async addRegion(extents: RegionExtents, origin: number): Promise<void> {
    const sizeSectors = Math.ceil(this.request.sizeBytes / SECTOR_BYTES);
    for (let i = 0; i < extents.count; i += 1) {
      const start = extents.start[i]!;
      const end = extents.end[i]!;
      const source = extents.source[i]!;
      if (origin + end > sizeSectors) {
        throw new MapsError('CORRUPTION', 'history has data beyond the end of the volume', {
          operation: OPERATION,
          lsnRange: { first: 0, last: this.request.lsn },
          hint: 'the size of the volume at this point is not the one that its writes were made for',
        });
      }
      if (source >= SOURCE_UNKNOWN) {
        this.countHole(source, origin + start, (end - start) * SECTOR_BYTES);
        continue;
      }
      // Parts of an extent that do not fit go into the windows that follow.
      for (let from = start; from < end;) {
        if (this.count === RESTORE_WINDOW_EXTENTS_MAX || this.windowBytes === this.window.length) {
          await this.flush();
        }
        const room = (this.window.length - this.windowBytes) / SECTOR_BYTES;
        const sectors = Math.min(end - from, room);
        this.sector[this.count] = origin + from;
        this.sectors[this.count] = sectors;
        this.source[this.count] = source;
        this.address[this.count] = extents.address[i]! + (from - start);
        this.place[this.count] = this.windowBytes;
        this.count += 1;
        this.windowBytes += sectors * SECTOR_BYTES;
        from += sectors;
      }
    }
  }

  private countHole(source: number, sector: number, bytes: number): void {
    if (source === SOURCE_ZERO) {
      this.zeroBytes += bytes;
      return;
    }
    if (this.request.unknown !== 'zeroes') {
      throw new MapsError(
        'IO_ERROR',
        `the content of ${bytes} bytes at ${sector * SECTOR_BYTES} is not known at this point`,
        {
          operation: OPERATION,
          lsnRange: { first: 0, last: this.request.lsn },
          hint: 'the primary could not be read there; choose another point, or allow zeroes',
        },
      );
    }
    this.unknownBytes += bytes;
  }

  private async flush(): Promise<void> {
    if (this.count === 0) return;
    this.readWindow();
    const reached = this.writeWindow();
    this.dataBytes += this.windowBytes;
    this.count = 0;
    this.windowBytes = 0;
    this.report(Math.min(reached * SECTOR_BYTES, this.request.sizeBytes));
    await this.turn();
  }

  /** Lets messages in, so that a cancel is seen. */
  private async turn(): Promise<void> {
    await nextTurn();
    throwIfCancelled(this.options.signal);
  }

  private report(done: number): void {
    this.options.onProgress?.({ done, total: this.request.sizeBytes });
  }

  private readWindow(): void {
    const bySource = new Map<number, number[]>();
    for (let i = 0; i < this.count; i += 1) {
      const list = bySource.get(this.source[i]!);
      if (list) list.push(i);
      else bySource.set(this.source[i]!, [i]);
    }
    for (const [source, list] of bySource) {
      // Address and index in one exact number: sorted by the engine, without a comparator.
      const keys = Float64Array.from(
        list,
        (i) => this.address[i]! * RESTORE_WINDOW_EXTENTS_MAX + i,
      ).sort();
      this.readSegment(this.regions.segments[source]!, keys);
    }
  }

  private readSegment(segment: SegmentReference, keys: Float64Array): void {
    let wants: Want[] = [];
    for (const key of keys) {
      const i = key % RESTORE_WINDOW_EXTENTS_MAX;
      const end = this.address[i]! + this.sectors[i]!;
      for (let from = this.address[i]!; from < end;) {
        const place = this.store.placeAt(segment, from);
        const sectors = Math.min(end, place.address + place.sectors) - from;
        const at = this.place[i]! + (from - this.address[i]!) * SECTOR_BYTES;
        const want = { place, from, sectors, at };
        from += sectors;
        const kept = this.store.kept(segment, place);
        if (kept) {
          this.take(want, kept, 0);
          continue;
        }
        if (!this.continuesRead(wants, place)) {
          this.readTogether(segment, wants);
          wants = [];
        }
        wants.push(want);
      }
    }
    this.readTogether(segment, wants);
  }

  private continuesRead(wants: readonly Want[], place: PayloadPlace): boolean {
    const first = wants[0]?.place;
    const last = wants.at(-1)?.place;
    if (!first || !last || last.address === place.address) return true;
    const hole = (place.address - last.address - last.sectors) * SECTOR_BYTES;
    const bytes = (place.address + place.sectors - first.address) * SECTOR_BYTES;
    return hole <= RESTORE_READ_HOLE_BYTES_MAX && bytes <= RESTORE_READ_BYTES_MAX;
  }

  /** One read for entries that stand close together; each is verified once, then used. */
  private readTogether(segment: SegmentReference, wants: readonly Want[]): void {
    const first = wants[0]?.place;
    const last = wants.at(-1)?.place;
    if (!first || !last) return;
    const file = this.store.file(segment);
    const bytes = (last.address + last.sectors - first.address) * SECTOR_BYTES;
    // An entry may be larger than what one read is meant for: it is read whole all the same.
    const buffer =
      bytes <= this.readBuffer.length
        ? this.readBuffer.subarray(0, bytes)
        : Buffer.allocUnsafeSlow(bytes);
    file.readRaw(first.address * SECTOR_BYTES, buffer);
    let verified = -1;
    for (const want of wants) {
      const offset = (want.place.address - first.address) * SECTOR_BYTES;
      if (want.place.address !== verified) {
        const payload = buffer.subarray(offset, offset + want.place.sectors * SECTOR_BYTES);
        file.checkPayload(want.place, payload);
        verified = want.place.address;
        if (want.sectors < want.place.sectors) this.store.keep(segment, want.place, payload);
      }
      this.take(want, buffer, offset);
    }
  }

  private take(want: Want, payload: Buffer, offset: number): void {
    const from = offset + (want.from - want.place.address) * SECTOR_BYTES;
    payload.copy(this.window, want.at, from, from + want.sectors * SECTOR_BYTES);
  }

  /** @returns the sector behind the last one written */
  private writeWindow(): number {
    let reached = 0;
    for (let i = 0; i < this.count;) {
      const sector = this.sector[i]!;
      const from = this.place[i]!;
      let sectors = 0;
      while (i < this.count && this.sector[i] === sector + sectors) {
        sectors += this.sectors[i]!;
        i += 1;
      }
      // The last sector of a volume whose size is not a multiple of 512 is cut.
      const bytes = Math.min(
        sectors * SECTOR_BYTES,
        this.request.sizeBytes - sector * SECTOR_BYTES,
      );
      writeAtSync(this.fd, this.window.subarray(from, from + bytes), sector * SECTOR_BYTES);
      reached = sector + sectors;
    }
    return reached;
  }
}
