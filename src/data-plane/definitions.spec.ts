// SPDX-License-Identifier: Apache-2.0

import * as fs from 'node:fs';
import * as path from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { sampleGroup, temporaryFolder } from '../../test/support/data-plane/sample.js';
import { decodeDefinition, DefinitionStore, encodeDefinition } from './definitions.js';

describe('definitions', () => {
  let temporary: ReturnType<typeof temporaryFolder>;
  let store: DefinitionStore;
  beforeEach(() => {
    temporary = temporaryFolder();
    store = new DefinitionStore(path.join(temporary.folder, 'groups'));
  });
  afterEach(() => {
    temporary.remove();
  });

  it('gives back what was stored, phase included', async () => {
    const one = sampleGroup(temporary.folder, 'one');
    const two = sampleGroup(temporary.folder, 'two', false);
    await store.write(one, 'creating');
    await store.write(two, 'live');
    expect(await store.load()).toEqual(
      [
        { id: one.id, phase: 'creating', definition: one },
        { id: two.id, phase: 'live', definition: two },
      ].sort((a, b) => (a.id < b.id ? -1 : 1)),
    );
    expect(fs.statSync(store.fileOf(one.id)).mode & 0o777).toBe(0o600);
    await store.remove(one.id);
    expect((await store.load()).map((stored) => stored.id)).toEqual([two.id]);
  });

  it('finds every single damaged byte of a file, and names the file', async () => {
    // A flipped bit in a stored path once opened the wrong disk: no byte may go unnoticed.
    const definition = sampleGroup(temporary.folder, 'one', false);
    const text = encodeDefinition(definition, 'live');
    let equal = 0;
    for (let at = 0; at < text.length; at += 1) {
      const broken =
        text.slice(0, at) + String.fromCharCode(text.charCodeAt(at) ^ 1) + text.slice(at + 1);
      try {
        // White space may turn into other white space, and nothing else may.
        const decoded = decodeDefinition(broken, definition.id, '/x.json');
        expect(decoded).toEqual({ phase: 'live', definition });
        equal += 1;
      } catch (error) {
        expect(error).toMatchObject({ file: '/x.json' });
        expect(['CORRUPTION', 'UNSUPPORTED']).toContain((error as { code: string }).code);
      }
    }
    expect(equal).toBeLessThan(text.length / 10);
  });

  it('reports a damaged file as such and still reads the others', async () => {
    const good = sampleGroup(temporary.folder, 'good', false);
    const bad = sampleGroup(temporary.folder, 'bad', false);
    await store.write(good, 'live');
    await store.write(bad, 'live');
    fs.truncateSync(store.fileOf(bad.id), 100);
    fs.writeFileSync(path.join(store.folder, '.x.json.1-a-1.tmp'), 'left over');
    const loaded = await store.load();
    expect(loaded).toHaveLength(2);
    expect(loaded.find((stored) => stored.id === good.id)).toMatchObject({ definition: good });
    expect(loaded.find((stored) => stored.id === bad.id)).toMatchObject({
      error: { code: 'CORRUPTION', file: store.fileOf(bad.id) },
    });
    expect(fs.readdirSync(store.folder)).toHaveLength(2);
  });

  it("refuses another version, another group's file and a huge one", async () => {
    const definition = sampleGroup(temporary.folder, 'one', false);
    const text = encodeDefinition(definition, 'live');
    const later = text.replace('"version": 1', '"version": 2');
    expect(() => decodeDefinition(later, definition.id, 'f')).toThrow(/version 2/);
    const other = '00000000-0000-4000-8000-000000000000';
    expect(() => decodeDefinition(text, other, 'f')).toThrow(/file of group/);
    await store.load();
    fs.writeFileSync(store.fileOf(other), '');
    fs.truncateSync(store.fileOf(other), 64 * 1024 * 1024);
    expect(await store.read(other)).toMatchObject({ error: { code: 'CORRUPTION' } });
  });

  it('reads the example of its format page', () => {
    const page = fs.readFileSync(new URL('./definitions-format.md', import.meta.url), 'utf8');
    const example = /```json\n([^`]*)```/.exec(page)?.[1] ?? '';
    const id = '6f1c2f0e-93a7-4c5e-8f55-0d6f3a1b2c4d';
    expect(decodeDefinition(example, id, 'page').definition.name).toBe('web-1');
  });
});
