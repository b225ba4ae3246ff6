// SPDX-License-Identifier: Apache-2.0

import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { formatTime } from '../common/time.js';
import { type CopyPlace, ManifestCopies } from './manifest-copies.js';
import { encodeManifest, Manifest, type ManifestRecord } from './manifest.js';

const GROUP = '11111111-2222-4333-8444-555555555555';
const DEVICE = 'aaaaaaaa-0000-4000-8000-000000000001';
const time = formatTime(1_700_000_000_123_456_789n);

function marker(label: string): ManifestRecord {
  return { kind: 'marker', label, lsn: label.length, time, keepUntil: null };
}

function segment(number: number): ManifestRecord {
  return {
    kind: 'segment',
    segment: number,
    device: DEVICE,
    path: `log/2026-03-01/${number}.eplog`,
    epoch: 1,
    firstLsn: number * 10,
    lastLsn: number * 10 + 9,
    firstTime: time,
    lastTime: time,
    entries: 10,
    dataBytes: 0,
    fileBytes: 8192,
    sealedAt: time,
    reason: 1,
  };
}

let folder: string;
let files: [string, string];
let places: [CopyPlace, CopyPlace];
/** Why nothing may be made in a place; by its number. */
let refusals: (string | undefined)[];
let told: string[];
let open: ManifestCopies[];
const options = { onTrouble: (_file: string, message: string) => told.push(message) };

beforeEach(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'everpoint-copies-'));
  files = [path.join(folder, 'a', 'manifest'), path.join(folder, 'b', 'manifest')];
  refusals = [];
  told = [];
  open = [];
  const place = (at: 0 | 1): CopyPlace => ({
    file: files[at],
    refusal: () => Promise.resolve(refusals[at]),
  });
  places = [place(0), place(1)];
});
afterEach(async () => {
  for (const one of open) await one.close();
  fs.rmSync(folder, { recursive: true, force: true });
});

async function create(): Promise<ManifestCopies> {
  const made = await ManifestCopies.create(places, GROUP, options);
  open.push(made);
  return made;
}

async function reopen(): Promise<ManifestCopies> {
  for (const one of open.splice(0)) await one.close();
  const opened = await ManifestCopies.open(places, GROUP, options);
  open.push(opened);
  return opened;
}

const bytes = (at: 0 | 1) => fs.readFileSync(files[at]);
const labels = (copies: ManifestCopies) => [...copies.state.markers.keys()];

describe('the copies of a manifest', () => {
  it('are equal, byte for byte', async () => {
    const copies = await create();
    await Promise.all(['a', 'bb', 'ccc'].map((label) => copies.commit([marker(label)])));
    expect(bytes(0).equals(bytes(1))).toBe(true);
    expect(
      bytes(0).equals(
        encodeManifest(
          GROUP,
          ['a', 'bb', 'ccc'].map((one) => [marker(one)]),
        ),
      ),
    ).toBe(true);
    expect(copies.troubles.size).toBe(0);
    await expect(ManifestCopies.create(places, GROUP)).rejects.toMatchObject({
      code: 'ALREADY_EXISTS',
    });
  });

  const harm: [string, (file: string) => void][] = [
    ['lost', (file) => fs.rmSync(file)],
    ['lost with its folder', (file) => fs.rmSync(path.dirname(file), { recursive: true })],
    ['torn', (file) => fs.truncateSync(file, fs.statSync(file).size - 7)],
    ['a commit behind', (file) => fs.writeFileSync(file, encodeManifest(GROUP, [[marker('a')]]))],
    [
      'damaged',
      (file) => {
        const content = fs.readFileSync(file);
        content[100]! ^= 0x20;
        fs.writeFileSync(file, content);
      },
    ],
  ];
  for (const at of [0, 1] as const) {
    it.each(harm)(
      `number ${at + 1}, when it is %s, is made anew from the other`,
      async (_, spoil) => {
        const copies = await create();
        await copies.commit([marker('a')]);
        await copies.commit([marker('bb')]);
        await copies.close();
        const whole = bytes(0);
        spoil(files[at]);
        const opened = await reopen();
        expect(labels(opened)).toEqual(['a', 'bb']);
        expect(opened.troubles.size).toBe(0);
        expect(bytes(0).equals(whole) && bytes(1).equals(whole)).toBe(true);
        await opened.commit([marker('ccc')]);
        expect(bytes(0).equals(bytes(1))).toBe(true);
        expect(fs.readdirSync(path.dirname(files[at]))).toEqual(['manifest']);
      },
    );
  }

  it('go on without one whose device is away, and bring it along when it is back', async () => {
    const copies = await create();
    await copies.commit([marker('a')]);
    await copies.close();
    fs.renameSync(path.dirname(files[0]), path.join(folder, 'away'));
    refusals[0] = 'the disk is not mounted';
    const alone = await reopen();
    await alone.commit([marker('bb')]);
    expect([...alone.troubles]).toEqual([[files[0], 'the disk is not mounted']]);
    // Nothing is made where another disk may be mounted any moment.
    expect(fs.existsSync(path.dirname(files[0]))).toBe(false);
    fs.renameSync(path.join(folder, 'away'), path.dirname(files[0]));
    refusals[0] = undefined;
    const again = await reopen();
    expect(labels(again)).toEqual(['a', 'bb']);
    expect(bytes(0).equals(bytes(1))).toBe(true);
  });

  it('heal after an error while they are open', async () => {
    const copies = await create();
    await copies.commit([marker('a')]);
    // What an error of the device does to the file that is open: nothing more can be written to it.
    const broken = breakCopy(copies, 1);
    await copies.commit([marker('bb')]);
    expect(copies.troubles.get(files[1])).toMatch(/no space left/);
    expect(told).toHaveLength(1);
    expect(labels(copies)).toEqual(['a', 'bb']);
    expect((await Manifest.read(files[1])).markers.size).toBe(1);
    broken.restore();
    await copies.commit([marker('ccc')]);
    // Not at once: a device that fails is not tried with every commit.
    expect(copies.troubles.size).toBe(1);
    const opened = await reopen();
    expect(opened.troubles.size).toBe(0);
    expect(bytes(0).equals(bytes(1))).toBe(true);
  });

  it('leave one behind whose device hangs', async () => {
    for (const one of open.splice(0)) await one.close();
    const copies = await ManifestCopies.create(places, GROUP, { ...options, patienceMs: 50 });
    open.push(copies);
    let answer: (() => void) | undefined;
    const hung = new Promise<void>((resolve) => (answer = resolve));
    breakCopy(copies, 0, () => hung);
    await copies.commit([marker('a')]);
    expect(copies.troubles.get(files[0])).toMatch(/does not answer/);
    expect(labels(copies)).toEqual(['a']);
    await copies.commit([marker('bb')]);
    answer?.();
    expect(labels(await reopen())).toEqual(['a', 'bb']);
    expect(bytes(0).equals(bytes(1))).toBe(true);
  });

  it('are refused when neither can be written', async () => {
    const copies = await create();
    breakCopy(copies, 0);
    breakCopy(copies, 1);
    await expect(copies.commit([marker('a')])).rejects.toThrow(/no space left/);
    expect(labels(await reopen())).toEqual([]);
  });

  it('that went their own ways: the one with more of the log counts, the other is kept', async () => {
    for (const at of [0, 1] as const) fs.mkdirSync(path.dirname(files[at]));
    fs.writeFileSync(files[0], encodeManifest(GROUP, [[segment(1)], [marker('long ago')]]));
    const ahead = encodeManifest(GROUP, [[segment(1)], [segment(2)]]);
    fs.writeFileSync(files[1], ahead);
    const opened = await reopen();
    expect([...opened.state.segments.keys()]).toEqual([1, 2]);
    expect(bytes(0).equals(ahead)).toBe(true);
    expect((await Manifest.read(`${files[0]}.aside`)).markers.size).toBe(1);
    expect(told).toEqual([expect.stringMatching(/its own way/)]);
  });

  it('are not opened when there is none, none is good, or one is of a newer program', async () => {
    await expect(reopen()).rejects.toMatchObject({ code: 'NOT_FOUND' });
    fs.mkdirSync(path.dirname(files[1]));
    fs.writeFileSync(files[1], 'nonsense');
    await expect(reopen()).rejects.toMatchObject({ code: 'CORRUPTION' });
    const copies = await create().catch(() => undefined);
    expect(copies).toBeUndefined();
    fs.mkdirSync(path.dirname(files[0]), { recursive: true });
    fs.writeFileSync(files[0], encodeManifest(GROUP, [[marker('a')]]));
    const future = encodeManifest(GROUP, [[{ kind: 'tape' } as unknown as ManifestRecord]]);
    fs.writeFileSync(files[1], future);
    await expect(reopen()).rejects.toMatchObject({ code: 'UNSUPPORTED' });
    expect(bytes(1).equals(future)).toBe(true);
  });

  it('are read without a change', async () => {
    const copies = await create();
    await copies.commit([marker('a')]);
    await copies.close();
    fs.writeFileSync(files[0], encodeManifest(GROUP, []));
    const behind = bytes(0);
    expect((await ManifestCopies.read(files, GROUP)).markers.size).toBe(1);
    expect(bytes(0).equals(behind)).toBe(true);
  });
});

/** Has commits to one copy fail, or do what they are told. */
function breakCopy(
  copies: ManifestCopies,
  at: 0 | 1,
  commit: () => Promise<void> = () => Promise.reject(new Error('no space left')),
): { restore: () => void } {
  const list = (copies as unknown as { copies: { manifest: Manifest }[] }).copies;
  const { manifest } = list[at]!;
  manifest.commit = commit;
  return { restore: () => Reflect.deleteProperty(manifest, 'commit') };
}
