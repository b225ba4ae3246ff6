// SPDX-License-Identifier: Apache-2.0

/** What a manifest says; the file's layout is in `manifest-format.md`. */

import { tryParseTime } from '../common/time.js';
import { isUuid } from '../common/uuid.js';
import type { VolumeGeometry } from './geometry.js';

export interface GroupRecord {
  readonly kind: 'group';
  readonly group: string;
  readonly name: string;
  /** The group as it was defined; the manifest keeps it, others know what is in it. */
  readonly definition: Readonly<Record<string, unknown>>;
}

/** From this LSN on the volume has this geometry, or is gone. */
export interface VolumeRecord extends VolumeGeometry {
  readonly kind: 'volume';
  readonly lsn: number;
  readonly removed: boolean;
}

export interface SegmentRecord {
  readonly kind: 'segment';
  readonly segment: number;
  readonly device: string;
  /** Relative to the group's folder on the device. */
  readonly path: string;
  readonly epoch: number;
  readonly firstLsn: number;
  readonly lastLsn: number;
  readonly firstTime: string;
  readonly lastTime: string;
  readonly entries: number;
  readonly dataBytes: number;
  readonly fileBytes: number;
  readonly sealedAt: string;
  /** A SealReason. */
  readonly reason: number;
}

export interface MapRecord {
  readonly kind: 'map';
  readonly id: number;
  readonly device: string;
  /** Relative to the group's folder on the device. */
  readonly path: string;
  readonly level: number;
  readonly expiryClass: number;
  readonly firstLsn: number;
  readonly lastLsn: number;
  readonly firstTime: string;
  readonly lastTime: string;
  /** Ids of maps; 0 is none [0039]. */
  readonly previous: number;
  readonly firstChild: number;
  readonly extents: number;
  readonly dataSectors: number;
  readonly fileBytes: number;
}

export interface MarkerRecord {
  readonly kind: 'marker';
  readonly label: string;
  readonly lsn: number;
  readonly time: string;
  /** Null: as policy has it. */
  readonly keepUntil: string | null;
}

export interface UnpinRecord {
  readonly kind: 'unpin';
  readonly label: string;
}

/** (fromLsn, toLsn]; another record with the same fromLsn replaces this one. */
export interface GapRecord {
  readonly kind: 'gap';
  readonly fromLsn: number;
  readonly toLsn: number | null;
  readonly from: string;
  readonly to: string | null;
  readonly reason: string;
  readonly healed: boolean;
}

export interface PolicyRecord {
  readonly kind: 'policy';
  readonly policy: Readonly<Record<string, unknown>> | null;
  /** Nothing is pruned before this is true. */
  readonly confirmed: boolean;
}

/**
 * Everything up to this LSN has faded: of the points up to it only the ends of leaves are left
 * (`leaves.ts`), and of its segments only what leaves refer to is there.
 */
export interface FadedRecord {
  readonly kind: 'faded';
  readonly throughLsn: number;
  /** The time of that entry. */
  readonly throughTime: string;
}

/** A file with what is left of segments that have faded (`pack-format.md`). */
export interface PackRecord {
  readonly kind: 'pack';
  readonly pack: number;
  readonly device: string;
  /** Relative to the group's folder on the device. */
  readonly path: string;
  readonly fileBytes: number;
  readonly dataBytes: number;
  /** Whose data it has: it counts in the place of the segment's own file, or of an earlier pack. */
  readonly segments: readonly { readonly device: string; readonly segment: number }[];
}

/** Not live any more, by number: nothing may refer to it, and its file may be gone. */
export interface DropRecord {
  readonly kind: 'drop';
  readonly maps: readonly number[];
  readonly segments: readonly number[];
  readonly packs: readonly number[];
}

/** The point at `lsn` is in use, and stays reachable until the lease is released. */
export interface LeaseRecord {
  readonly kind: 'lease';
  readonly id: string;
  readonly lsn: number;
  /** Who holds it, in words: `restore job 1234`. */
  readonly holder: string;
}

export interface ReleaseRecord {
  readonly kind: 'release';
  readonly id: string;
}

/** Numbers that were given out and are never used again, whatever has been dropped. */
export interface NumbersRecord {
  readonly kind: 'numbers';
  readonly nextMap: number;
  readonly nextPack: number;
  /** The newest segment that has ever been mapped, and the last LSN that has. */
  readonly lastSegment: number;
  readonly mappedLsn: number;
}

export type ManifestRecord =
  | GroupRecord
  | VolumeRecord
  | SegmentRecord
  | MapRecord
  | MarkerRecord
  | UnpinRecord
  | GapRecord
  | PolicyRecord
  | FadedRecord
  | PackRecord
  | DropRecord
  | LeaseRecord
  | ReleaseRecord
  | NumbersRecord;

export interface MarkerState extends MarkerRecord {
  readonly pinned: boolean;
}

/** Everything that a manifest's records add up to. */
export interface ManifestState {
  readonly group: GroupRecord | undefined;
  /** In the order of their commits, which is the order of LSNs per volume. */
  readonly volumes: readonly VolumeRecord[];
  readonly segments: ReadonlyMap<number, SegmentRecord>;
  readonly maps: ReadonlyMap<number, MapRecord>;
  readonly markers: ReadonlyMap<string, MarkerState>;
  readonly gaps: readonly GapRecord[];
  readonly policy: PolicyRecord | undefined;
  /** Nothing has faded yet without it. */
  readonly faded: FadedRecord | undefined;
  readonly packs: ReadonlyMap<number, PackRecord>;
  /** By id. */
  readonly leases: ReadonlyMap<string, LeaseRecord>;
  readonly nextMapId: number;
  readonly nextPackId: number;
  /** The newest segment that has ever been mapped, 0 before the first; it may have been dropped. */
  readonly lastSegment: number;
  /** Everything up to this LSN is in a map; 0 before the first. */
  readonly mappedLsn: number;
}

type FieldCheck = (value: unknown) => boolean;
const count: FieldCheck = (value) => Number.isSafeInteger(value) && (value as number) >= 0;
const text: FieldCheck = (value) => typeof value === 'string' && value.length > 0;
const uuid: FieldCheck = (value) => typeof value === 'string' && isUuid(value);
const time: FieldCheck = (value) => typeof value === 'string' && tryParseTime(value) !== undefined;
const truth: FieldCheck = (value) => typeof value === 'boolean';
const object: FieldCheck = (value) =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const path: FieldCheck = (value) =>
  typeof value === 'string' && /^[^/\0][^\0]*$/.test(value) && !value.split('/').includes('..');
const listOf =
  (check: FieldCheck): FieldCheck =>
  (value) =>
    Array.isArray(value) && value.every(check);
const segmentName: FieldCheck = (value) =>
  object(value) &&
  uuid((value as Record<string, unknown>)['device']) &&
  count((value as Record<string, unknown>)['segment']);
const orNull =
  (check: FieldCheck): FieldCheck =>
  (value) =>
    value === null || check(value);

const RECORD_FIELDS: {
  readonly [K in ManifestRecord['kind']]: Readonly<
    Record<Exclude<keyof Extract<ManifestRecord, { kind: K }>, 'kind'>, FieldCheck>
  >;
} = {
  group: { group: uuid, name: text, definition: object },
  volume: {
    lsn: count,
    volume: count,
    name: text,
    sizeBytes: count,
    blockBytes: count,
    removed: truth,
  },
  segment: {
    segment: count,
    device: uuid,
    path,
    epoch: count,
    firstLsn: count,
    lastLsn: count,
    firstTime: time,
    lastTime: time,
    entries: count,
    dataBytes: count,
    fileBytes: count,
    sealedAt: time,
    reason: count,
  },
  map: {
    id: count,
    device: uuid,
    path,
    level: count,
    expiryClass: count,
    firstLsn: count,
    lastLsn: count,
    firstTime: time,
    lastTime: time,
    previous: count,
    firstChild: count,
    extents: count,
    dataSectors: count,
    fileBytes: count,
  },
  marker: {
    label: text,
    lsn: count,
    time,
    keepUntil: orNull((value) => value === 'forever' || time(value)),
  },
  unpin: { label: text },
  gap: {
    fromLsn: count,
    toLsn: orNull(count),
    from: time,
    to: orNull(time),
    reason: text,
    healed: truth,
  },
  policy: { policy: orNull(object), confirmed: truth },
  faded: { throughLsn: count, throughTime: time },
  pack: {
    pack: count,
    device: uuid,
    path,
    fileBytes: count,
    dataBytes: count,
    segments: listOf(segmentName),
  },
  drop: { maps: listOf(count), segments: listOf(count), packs: listOf(count) },
  lease: { id: text, lsn: count, holder: text },
  release: { id: text },
  numbers: { nextMap: count, nextPack: count, lastSegment: count, mappedLsn: count },
};

/** @returns what is wrong with a record, or nothing */
export function recordProblem(record: unknown): string | undefined {
  if (!object(record)) return 'a record that is no object';
  const fields = record as Record<string, unknown>;
  const kind = fields['kind'];
  if (typeof kind !== 'string' || !Object.hasOwn(RECORD_FIELDS, kind)) {
    return `a record of unknown kind ${JSON.stringify(kind)}`;
  }
  const checks = RECORD_FIELDS[kind as ManifestRecord['kind']] as Record<string, FieldCheck>;
  for (const [name, check] of Object.entries(checks)) {
    if (!check(fields[name])) return `field ${name} of a ${kind} record`;
  }
  return undefined;
}

/** The state that records are added to, one after the other. */
export class ManifestFold implements ManifestState {
  group: GroupRecord | undefined;
  readonly volumes: VolumeRecord[] = [];
  readonly segments = new Map<number, SegmentRecord>();
  readonly maps = new Map<number, MapRecord>();
  readonly markers = new Map<string, MarkerState>();
  readonly gaps: GapRecord[] = [];
  policy: PolicyRecord | undefined;
  faded: FadedRecord | undefined;
  readonly packs = new Map<number, PackRecord>();
  readonly leases = new Map<string, LeaseRecord>();
  nextMapId = 1;
  nextPackId = 1;
  lastSegment = 0;
  mappedLsn = 0;

  add(record: ManifestRecord): void {
    switch (record.kind) {
      case 'group':
        this.group = record;
        break;
      case 'volume':
        this.addVolume(record);
        break;
      case 'segment':
        this.segments.set(record.segment, record);
        this.lastSegment = Math.max(this.lastSegment, record.segment);
        this.mappedLsn = Math.max(this.mappedLsn, record.lastLsn);
        break;
      case 'map':
        this.maps.set(record.id, record);
        this.nextMapId = Math.max(this.nextMapId, record.id + 1);
        break;
      case 'pack':
        this.packs.set(record.pack, record);
        this.nextPackId = Math.max(this.nextPackId, record.pack + 1);
        break;
      case 'faded':
        this.faded = record;
        break;
      case 'drop':
        for (const map of record.maps) this.maps.delete(map);
        for (const segment of record.segments) this.segments.delete(segment);
        for (const pack of record.packs) this.packs.delete(pack);
        break;
      case 'lease':
        this.leases.set(record.id, record);
        break;
      case 'release':
        this.leases.delete(record.id);
        break;
      case 'numbers':
        this.nextMapId = Math.max(this.nextMapId, record.nextMap);
        this.nextPackId = Math.max(this.nextPackId, record.nextPack);
        this.lastSegment = Math.max(this.lastSegment, record.lastSegment);
        this.mappedLsn = Math.max(this.mappedLsn, record.mappedLsn);
        break;
      case 'marker':
        this.markers.set(record.label, { ...record, pinned: true });
        break;
      case 'unpin': {
        const marker = this.markers.get(record.label);
        if (marker) this.markers.set(record.label, { ...marker, pinned: false });
        break;
      }
      case 'gap': {
        const same = this.gaps.findIndex((gap) => gap.fromLsn === record.fromLsn);
        if (same >= 0) this.gaps[same] = record;
        else this.gaps.push(record);
        break;
      }
      case 'policy':
        this.policy = record;
        break;
    }
  }

  /** Records that add up to this state again. */
  *records(): Generator<ManifestRecord> {
    if (this.group) yield this.group;
    if (this.policy) yield this.policy;
    yield {
      kind: 'numbers',
      nextMap: this.nextMapId,
      nextPack: this.nextPackId,
      lastSegment: this.lastSegment,
      mappedLsn: this.mappedLsn,
    };
    if (this.faded) yield this.faded;
    yield* this.volumes;
    yield* this.segments.values();
    yield* this.maps.values();
    yield* this.packs.values();
    yield* this.leases.values();
    for (const { pinned, ...marker } of this.markers.values()) {
      yield marker;
      if (!pinned) yield { kind: 'unpin', label: marker.label };
    }
    yield* this.gaps;
  }

  /** The same volume at the same LSN twice: a task that was done again after a crash. */
  private addVolume(record: VolumeRecord): void {
    const same = this.volumes.findIndex(
      (volume) => volume.volume === record.volume && volume.lsn === record.lsn,
    );
    if (same >= 0) this.volumes[same] = record;
    else this.volumes.push(record);
  }
}

/** The volumes as they are at an LSN, in order of their numbers. */
export function volumesAt(state: ManifestState, lsn: number): VolumeGeometry[] {
  const newest = new Map<number, VolumeRecord>();
  for (const record of state.volumes) {
    if (record.lsn > lsn) continue;
    const known = newest.get(record.volume);
    if (!known || known.lsn <= record.lsn) newest.set(record.volume, record);
  }
  return [...newest.values()]
    .filter((record) => !record.removed)
    .map(({ volume, name, sizeBytes, blockBytes }) => ({ volume, name, sizeBytes, blockBytes }))
    .sort((a, b) => a.volume - b.volume);
}
