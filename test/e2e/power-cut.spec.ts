// SPDX-License-Identifier: Apache-2.0
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { runGuest, startGuest } from '../support/guest/guest.ts';
import {
  compareManifests,
  fsckJob,
  inSequence,
  parseManifest,
  replayJournalJob,
  type Manifest,
} from '../support/guest/jobs.ts';
import { Service } from '../support/service.ts';
import { call, restore, type GroupAnswer, type PointAnswer } from './rest.ts';

const QUEUES = 2;

/** Writes and fsyncs files until it is killed; a checksum is printed once its file is on the disk. */
const WRITE_FOREVER = `
mkfs.ext4 -q -F /dev/vda && mount -t ext4 -o sync /dev/vda /mnt || exit 10
n=0
while :; do
  f=./file-$n
  (cd /mnt && dd if=/dev/urandom of=$f bs=4k count=$((n % 9 + 1)) conv=fsync 2>/dev/null && sync &&
    sha256sum $f | sed 's/^/@sum synced /') || exit 11
  n=$((n + 1))
done
`;

/** Checksums of all files of one disk. */
function sumsOf(device: string, label: string): string {
  return `
mount -t ext4 -o ro,noload ${device} /mnt || exit 12
(cd /mnt && find . -type f | xargs -r sha256sum) | sed 's/^/@sum ${label} /'
umount /mnt || exit 13
`;
}

/** What of `synced` is missing or different. Files that are in `found` alone came later. */
function lost(synced: Manifest, found: Manifest): string[] {
  const { missing, changed } = compareManifests(synced, found);
  return [...missing, ...changed];
}

describe('a disk that was in full use', () => {
  let service: Service;
  beforeEach(async () => {
    service = await Service.start();
  });
  afterEach(async () => {
    await service.stop();
  });

  it('is clean at a marker, and holds everything that was synced before it', async () => {
    const primary = join(service.folder, 'primary.raw');
    const group = await call<GroupAnswer>(service, 'POST', '/v1/groups', {
      name: 'busy',
      volumes: [
        {
          name: 'vda',
          primary: { kind: 'file', path: primary, sizeBytes: 64 << 20, create: true },
          baseline: 'none',
          exports: [{ kind: 'vhost-user-blk', queues: QUEUES }],
        },
      ],
    });
    const qemuArgs = group.volumes[0]?.exports[0]?.qemuArgs ?? [];
    const guest = await startGuest({
      disks: [{ qemuArgs, queues: QUEUES }],
      script: WRITE_FOREVER,
    });
    const synced = (): Manifest =>
      parseManifest(
        guest.lines.map((line) => line.text),
        'synced',
      );
    let beforeMarker: Manifest;
    let beforeCut: Manifest;
    let marker: PointAnswer;
    try {
      await guest.waitForLine(/ \.\/file-9$/, 60_000);
      beforeMarker = synced();
      // The guest writes on while the marker is made.
      marker = await call<PointAnswer>(service, 'POST', '/v1/groups/busy/markers', {
        label: 'now',
      });
      await guest.waitForLine(/ \.\/file-19$/, 60_000);
      beforeCut = synced();
    } finally {
      guest.kill();
      await guest.exited;
    }
    const files = { marker: join(service.folder, 'm.raw'), latest: join(service.folder, 'l.raw') };
    const target = (path: string) => [{ volume: 'vda', path }];
    const atMarker = await restore(service, 'busy', 'marker:now', target(files.marker));
    const atLatest = await restore(service, 'busy', 'latest', target(files.latest));
    expect(atMarker.lsn).toBe(marker.lsn);
    expect(atLatest.lsn).toBeGreaterThan(marker.lsn);

    const look = (device: string, label: string): string =>
      inSequence(replayJournalJob({ device }), fsckJob({ device }), sumsOf(device, label));
    const looked = await runGuest({
      disks: [{ file: files.marker }, { file: files.latest }],
      script: inSequence(look('/dev/vda', 'marker'), look('/dev/vdb', 'latest')),
    });
    expect(looked.exitCode, looked.output.join('\n')).toBe(0);
    expect(beforeMarker.size).toBeGreaterThanOrEqual(10);
    expect(lost(beforeMarker, parseManifest(looked.output, 'marker'))).toEqual([]);
    expect(lost(beforeCut, parseManifest(looked.output, 'latest'))).toEqual([]);
    // The marker is a moment, not the end: what was written long after it is not there.
    expect(parseManifest(looked.output, 'marker').has('./file-19')).toBe(false);
  });
});
