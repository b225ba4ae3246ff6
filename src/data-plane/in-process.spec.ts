// SPDX-License-Identifier: Apache-2.0

import * as fs from 'node:fs';
import * as path from 'node:path';

import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import {
  fakeAddonPath,
  sampleGroup,
  temporaryFolder,
} from '../../test/support/data-plane/sample.js';
import { DefinitionStore } from './definitions.js';
import { InProcessDataPlane } from './in-process.js';
import { loadAddon } from './native.js';
import { definitionsDir, nativeDir } from './paths.js';
import type { DataPlaneEvent } from './port.js';

describe('InProcessDataPlane', () => {
  let temporary: ReturnType<typeof temporaryFolder>;
  let state: string;
  let store: DefinitionStore;
  const open: InProcessDataPlane[] = [];
  const make = async () => {
    const plane = new InProcessDataPlane({ state, addon: loadAddon(fakeAddonPath()) });
    open.push(plane);
    await (
      await plane.start()
    ).opened;
    return plane;
  };
  beforeEach(() => {
    temporary = temporaryFolder();
    state = path.join(temporary.folder, 'state');
    store = new DefinitionStore(definitionsDir(state));
  });
  afterEach(async () => {
    for (const plane of open.splice(0)) await plane.shutdown();
    temporary.remove();
  });

  it('creates a group, and opens it by itself the next time', async () => {
    const wanted = sampleGroup(temporary.folder, 'one');
    const first = await make();
    const created = await first.createGroup(wanted);
    expect(created).toMatchObject({ id: wanted.id, state: 'protected', epoch: 1 });
    expect(created.definition.volumes[0]?.primary).not.toHaveProperty('create');
    await first.shutdown();
    const again = await (await make()).listGroups();
    expect(again).toMatchObject([{ id: wanted.id, state: 'protected', epoch: 2 }]);
  });

  it('leaves nothing of a group whose creation failed', async () => {
    const wanted = sampleGroup(temporary.folder, 'fail-late');
    const plane = await make();
    await expect(plane.createGroup(wanted)).rejects.toMatchObject({ code: 'IO_ERROR' });
    expect(await plane.listGroups()).toEqual([]);
    expect(fs.readdirSync(definitionsDir(state))).toEqual([]);
    expect(fs.readdirSync(nativeDir(state))).toEqual([]);
    expect(fs.existsSync(wanted.volumes[0]!.primary.path)).toBe(false);
    wanted.name = 'works';
    expect(await plane.createGroup(wanted)).toMatchObject({ state: 'protected' });
  });

  it('never removes a primary that was there before', async () => {
    // Taking back a failed creation once meant: the file that was in the way was somebody's disk.
    const wanted = sampleGroup(temporary.folder, 'fail-late');
    const file = wanted.volumes[0]!.primary.path;
    fs.writeFileSync(file, 'precious');
    const plane = await make();
    await expect(plane.createGroup(wanted)).rejects.toMatchObject({ code: 'ALREADY_EXISTS' });
    expect(fs.readFileSync(file, 'utf8')).toBe('precious');
    const existing = sampleGroup(temporary.folder, 'fail-late', false);
    await expect(plane.createGroup(existing)).rejects.toMatchObject({ code: 'IO_ERROR' });
    expect(fs.readFileSync(file, 'utf8')).toBe('precious');
  });

  it('refuses a second group of the same id or name, and what is not there', async () => {
    const plane = await make();
    const one = sampleGroup(temporary.folder, 'one');
    await plane.createGroup(one);
    await expect(plane.createGroup(one)).rejects.toMatchObject({ code: 'ALREADY_EXISTS' });
    const twin = { ...sampleGroup(temporary.folder, 'two'), name: 'one' };
    await expect(plane.createGroup(twin)).rejects.toMatchObject({ code: 'ALREADY_EXISTS' });
    const missing = sampleGroup(temporary.folder, 'three', false);
    await expect(plane.createGroup(missing)).rejects.toMatchObject({ code: 'NOT_FOUND' });
    await expect(plane.seal(missing.id)).rejects.toMatchObject({ code: 'NOT_FOUND' });
  });

  it('shows a group with a damaged definition as failed, and serves the others', async () => {
    const first = await make();
    const good = sampleGroup(temporary.folder, 'good');
    const bad = sampleGroup(temporary.folder, 'bad');
    await first.createGroup(good);
    await first.createGroup(bad);
    await first.shutdown();
    const file = store.fileOf(bad.id);
    const text = fs.readFileSync(file, 'utf8');
    fs.writeFileSync(file, text.replace('"bad"', '"bat"'));

    const plane = await make();
    const failed = await plane.groupStatus(bad.id);
    expect(failed).toMatchObject({ state: 'failed', definition: { volumes: [] } });
    expect(failed.reason).toContain(file);
    expect(await plane.groupStatus(good.id)).toMatchObject({ state: 'protected' });
    await expect(plane.addMarker(bad.id, { label: 'x' })).rejects.toMatchObject({
      code: 'BUSY',
      retryable: false,
    });
    await expect(plane.reopenGroup(bad.id)).rejects.toMatchObject({ code: 'CORRUPTION' });
    expect(fs.existsSync(file)).toBe(true);

    fs.writeFileSync(file, text);
    const events: DataPlaneEvent[] = [];
    plane.onEvent((event) => events.push(event));
    expect(await plane.reopenGroup(bad.id)).toMatchObject({ state: 'protected', name: 'bad' });
    expect(events).toMatchObject([{ kind: 'state', group: bad.id, state: 'protected' }]);
  });

  it('shows a group whose primary is missing as failed, and opens it when it is back', async () => {
    const first = await make();
    const wanted = sampleGroup(temporary.folder, 'one');
    await first.createGroup(wanted);
    await first.shutdown();
    const file = wanted.volumes[0]!.primary.path;
    fs.renameSync(file, `${file}.away`);
    const plane = await make();
    expect(await plane.groupStatus(wanted.id)).toMatchObject({
      state: 'failed',
      volumes: [{ name: 'vda' }],
    });
    await expect(plane.reopenGroup(wanted.id)).rejects.toMatchObject({ code: 'NOT_FOUND' });
    fs.renameSync(`${file}.away`, file);
    expect(await plane.reopenGroup(wanted.id)).toMatchObject({ state: 'protected' });
  });

  it('lists groups as being opened while they are', async () => {
    const first = await make();
    const slow = sampleGroup(temporary.folder, 'slow-one');
    await first.createGroup(slow);
    await first.shutdown();
    const plane = new InProcessDataPlane({ state, addon: loadAddon(fakeAddonPath()) });
    open.push(plane);
    const { opened } = await plane.start();
    expect(await plane.groupStatus(slow.id)).toMatchObject({
      state: 'failed',
      reason: 'it is being opened',
    });
    await expect(plane.seal(slow.id)).rejects.toMatchObject({ code: 'BUSY', retryable: true });
    await opened;
    expect(await plane.groupStatus(slow.id)).toMatchObject({ state: 'protected' });
  });

  it('finishes a creation and a deletion that a crash cut off', async () => {
    const first = await make();
    const making = sampleGroup(temporary.folder, 'making');
    const made = sampleGroup(temporary.folder, 'made');
    const leaving = sampleGroup(temporary.folder, 'leaving');
    await first.createGroup(made);
    await first.createGroup(leaving);
    await first.shutdown();
    await store.write(making, 'creating');
    await store.write(made, 'creating');
    await store.write(leaving, 'deleting');
    const plane = await make();
    expect(await plane.groupStatus(making.id)).toMatchObject({ state: 'protected', epoch: 1 });
    expect(await plane.groupStatus(made.id)).toMatchObject({ state: 'protected', epoch: 2 });
    await expect(plane.groupStatus(leaving.id)).rejects.toMatchObject({ code: 'NOT_FOUND' });
    expect(fs.existsSync(path.join(nativeDir(state), leaving.id))).toBe(false);
    expect(await store.read(making.id)).toMatchObject({ phase: 'live' });
  });

  it('changes a group durably, and takes a change back that the addon refused', async () => {
    const first = await make();
    const wanted = sampleGroup(temporary.folder, 'one');
    await first.createGroup(wanted);
    const changed = await first.updateGroup(wanted.id, { ack: 'both', name: 'renamed' });
    expect(changed).toMatchObject({ name: 'renamed', definition: { ack: 'both' } });
    // A change of one setting must not put another one back to its default in the addon.
    const seen = vi.spyOn(loadAddon(fakeAddonPath()).DataPlane.prototype, 'updateGroup');
    await first.updateGroup(wanted.id, { flush: 'primary' });
    expect(seen.mock.lastCall?.[1]).toMatchObject({ ack: 'both', flush: 'primary' });
    const refused = first.updateGroup(wanted.id, { throttleMaxMs: 666 });
    await expect(refused).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    await first.shutdown();
    expect(await (await make()).groupStatus(wanted.id)).toMatchObject({
      name: 'renamed',
      definition: { ack: 'both', throttleMaxMs: 5000 },
    });
  });

  it('deletes a group but for its primary, and not under a connected front-end', async () => {
    const plane = await make();
    const busy = sampleGroup(temporary.folder, 'busy-one');
    await plane.createGroup(busy);
    await expect(plane.deleteGroup(busy.id, {})).rejects.toMatchObject({ code: 'BUSY' });
    await plane.deleteGroup(busy.id, { force: true });
    expect(await plane.listGroups()).toEqual([]);
    expect(fs.readdirSync(definitionsDir(state))).toEqual([]);
    expect(fs.existsSync(busy.volumes[0]!.primary.path)).toBe(true);
  });

  it('keeps code and hint of what the addon refuses', async () => {
    const plane = await make();
    const gap = sampleGroup(temporary.folder, 'gap-one');
    await plane.createGroup(gap);
    await expect(plane.syncLog(gap.id)).rejects.toMatchObject({
      code: 'CONFLICT',
      hint: 'wait for the resync',
      operation: 'sync log',
    });
  });

  it('closes once, however often it is asked to', async () => {
    const plane = await make();
    await Promise.all([plane.shutdown(), plane.shutdown()]);
    await plane.shutdown();
    await expect(plane.createGroup(sampleGroup(temporary.folder, 'late'))).rejects.toMatchObject({
      code: 'BUSY',
    });
  });
});
