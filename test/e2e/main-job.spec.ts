// SPDX-License-Identifier: Apache-2.0
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Scenario, type Stage } from './scenario.ts';

/** What `npm run demo` shows, in small: three boots. */
describe('the main job', () => {
  let folder: string;
  let scenario: Scenario | undefined;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'ep-e2e-'));
  });
  afterEach(async () => {
    await scenario?.close(true);
    rmSync(folder, { recursive: true, force: true });
  });

  it('gives a guest its destroyed files back', async () => {
    const titles: string[] = [];
    const stage: Stage = {
      step: (title, work) => {
        titles.push(title);
        const nothing = (): void => undefined;
        return work({ live: nothing, note: nothing, check: nothing });
      },
    };
    scenario = new Scenario(
      {
        folder,
        sizeBytes: 64 << 20,
        files: 16,
        minBytes: 1,
        maxBytes: 1 << 20,
        seed: 7,
        segmentBytes: 8 << 20,
      },
      stage,
    );
    const result = await scenario.run();
    const failed = result.checks.filter((check) => !check.held).map((check) => check.text);
    expect(failed).toEqual([]);
    expect(result.held).toBe(true);
    expect(result.checks).toHaveLength(13);
    expect(result.steps.map((step) => step.title)).toEqual(titles);
    // The restores were made from maps and log together, not from the log alone.
    expect(result.log.maps).toBeGreaterThan(0);
    expect(result.log.mapEntries).toBeGreaterThan(0);
    expect(result.atEnd.lsn).toBeGreaterThan(result.marker.lsn);
    expect(result.atEnd.writeBytes).toBeGreaterThan(result.disk.fileBytes);
  });
});
