// SPDX-License-Identifier: Apache-2.0

/**
 * Shell texts for the guest's standard work. Each ends with exit code 0 only if everything in it
 * went well, and unmounts what it mounted. They can be put one after the other with
 * {@link inSequence}. What they print for the host stands on lines of its own:
 * `@sum LABEL HASH PATH`.
 */

export interface MakeFilesOptions {
  device: string;
  files: number;
  minBytes: number;
  maxBytes: number;
  /** Sizes follow from it; the contents are the guest's own random bytes. */
  seed: number;
  /** Stands in the printed manifest lines. Default `made`. */
  label?: string;
  /** Leaves the file system mounted for the job that follows. */
  stayMounted?: boolean;
}

/** File name → sha256, as the guest computed it. */
export type Manifest = Map<string, string>;

export interface ManifestDifference {
  equal: boolean;
  missing: string[];
  changed: string[];
  extra: string[];
}

const MOUNT = '/mnt';
/** Lies on the protected disk itself and so travels with it into every restored copy. */
const MANIFEST = `${MOUNT}/MANIFEST.sha256`;
const FOLDERS = 4;

/** A word for the shell, whatever is in it. */
export function quote(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** A small generator with a seed (mulberry32); 0 ≤ value < 1. */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Names and sizes of the files that {@link makeFilesJob} writes. */
export function plannedFiles(options: MakeFilesOptions): Array<{ name: string; bytes: number }> {
  const random = seededRandom(options.seed);
  return Array.from({ length: options.files }, (_, n) => ({
    name: `dir-${n % FOLDERS}/file-${String(n).padStart(4, '0')}.bin`,
    bytes: options.minBytes + Math.floor(random() * (options.maxBytes - options.minBytes + 1)),
  }));
}

/** Runs the jobs one after the other; the first that fails ends it with that job's exit code. */
export function inSequence(...jobs: readonly string[]): string {
  return jobs.map((job) => `(\n${job}\n) || exit $?`).join('\n');
}

function mount(device: string, readOnly: boolean): string {
  // noload: a read-only look must not replay the journal, that is, not write.
  const how = readOnly ? '-o ro,noload' : '-o rw';
  return `mount -t ext4 ${how} ${quote(device)} ${MOUNT} || exit 10`;
}

/** Not `head -c`, which takes a stream byte by byte: seconds on an emulated CPU. */
function randomBytes(target: string, bytes: string, conversions = ''): string {
  const input = `if=/dev/urandom bs=64k count=${bytes} iflag=fullblock,count_bytes`;
  return `dd ${input} of=${target} conv=${conversions}fsync 2>/tmp/dd`;
}

const printSums = (label: string): string =>
  `(cd ${MOUNT} && find . -type f ! -path ./MANIFEST.sha256 ! -path './lost+found/*' | sort | ` +
  `xargs -r sha256sum) >/tmp/sums || exit 11\n` +
  `sed ${quote(`s/^/@sum ${label} /`)} /tmp/sums`;

/**
 * Makes an ext4 file system, writes files of random size and content, fsyncs each, keeps their
 * checksums on the disk and prints them.
 */
export function makeFilesJob(options: MakeFilesOptions): string {
  const files = plannedFiles(options);
  const writes = files.map(({ name, bytes }) => `make ${MOUNT}/${name} ${bytes} || exit 12`);
  return [
    `mkfs.ext4 -q -F ${quote(options.device)} || exit 13`,
    mount(options.device, false),
    `make() {`,
    `  ${randomBytes('"$1"', '"$2"')} || return 1`,
    `  [ "$(stat -c %s "$1")" = "$2" ] || { echo "short file $1"; cat /tmp/dd; return 1; }`,
    `}`,
    ...Array.from({ length: FOLDERS }, (_, n) => `mkdir ${MOUNT}/dir-${n} || exit 14`),
    ...writes,
    // From the disk, not from the page cache.
    'sync; echo 3 >/proc/sys/vm/drop_caches',
    printSums(options.label ?? 'made'),
    `cp /tmp/sums ${MANIFEST} && sync || exit 15`,
    `echo "made $(wc -l </tmp/sums) files, $(du -sk ${MOUNT} | cut -f1) KiB"`,
    ...(options.stayMounted === true ? [] : [`umount ${MOUNT} || exit 16`]),
  ].join('\n');
}

/**
 * Overwrites every second file in place, deletes the others and the manifest, writes another. With a
 * label, prints the checksums of what is left.
 */
export function destroyFilesJob(options: {
  device: string;
  alreadyMounted?: boolean;
  label?: string;
}): string {
  return [
    ...(options.alreadyMounted === true ? [] : [mount(options.device, false)]),
    `n=0; gone=0; over=0`,
    `find ${MOUNT} -type f -name '*.bin' | sort >/tmp/victims`,
    `while read -r victim; do`,
    `  n=$((n + 1))`,
    `  if [ $((n % 2)) = 0 ]; then rm "$victim" || exit 20; gone=$((gone + 1)); continue; fi`,
    `  size=$(stat -c %s "$victim")`,
    `  ${randomBytes('"$victim"', '"$size"', 'notrunc,')} || exit 21`,
    `  over=$((over + 1))`,
    `done </tmp/victims`,
    `rm -f ${MANIFEST}`,
    `${randomBytes(`${MOUNT}/rubbish`, '4194304')} || exit 22`,
    ...(options.label === undefined
      ? []
      : ['sync; echo 3 >/proc/sys/vm/drop_caches', printSums(options.label)]),
    `echo "destroyed: $over overwritten, $gone deleted"`,
    `umount ${MOUNT} || exit 23`,
  ].join('\n');
}

/**
 * Mounts the disk, computes every file's checksum anew, prints them and compares them with the
 * manifest that the guest left on the disk. Exit code 30: there is no manifest, 31: they differ.
 */
export function verifyFilesJob(options: {
  device: string;
  label?: string;
  readOnly?: boolean;
}): string {
  return [
    mount(options.device, options.readOnly ?? false),
    printSums(options.label ?? 'found'),
    `code=0`,
    `if [ ! -s ${MANIFEST} ]; then echo "no manifest on the disk"; code=30`,
    `elif cmp -s ${MANIFEST} /tmp/sums; then echo "all $(wc -l </tmp/sums) files as the manifest says"`,
    `else echo "files differ from the manifest:"; diff ${MANIFEST} /tmp/sums | sed 's/^/  /'; code=31; fi`,
    `umount ${MOUNT} || exit 33`,
    `exit $code`,
  ].join('\n');
}

/** Says `pause NAME` and waits until the host says something (`Guest.say`). */
export function pauseJob(name: string): string {
  return [`echo "pause ${name}"`, `read -r answer </dev/ttyS1 || exit 60`].join('\n');
}

/** Mounts and unmounts, so that ext4 replays its journal, as after any power cut. */
export function replayJournalJob(options: { device: string }): string {
  return [mount(options.device, false), `umount ${MOUNT} || exit 17`].join('\n');
}

/** Checks the file system without changing it. Exit code 40 where e2fsck finds anything. */
export function fsckJob(options: { device: string }): string {
  return `e2fsck -f -n ${quote(options.device)} || { echo "e2fsck code $?"; exit 40; }`;
}

export interface LoadOptions {
  device: string;
  /** Size of the part that is written. */
  bytes: number;
  /** Where it starts; a multiple of 4096. */
  offset?: number;
  seed: number;
  /** Each makes one request at a time: the queue depth. Default 4. */
  threads?: number;
  /** Longest request in 4 KiB blocks. Default 8. */
  maxBlocks?: number;
  seconds?: number;
  /** Requests per thread; with neither this nor `seconds`: 10 s. */
  ops?: number;
  flushEvery?: number;
  verifyEvery?: number;
  tickMs?: number;
}

function loadShape(options: LoadOptions): string[] {
  const pairs: Array<[string, number | undefined]> = [
    ['--bytes', options.bytes],
    ['--offset', options.offset],
    ['--seed', options.seed],
    ['--threads', options.threads],
    ['--max-blocks', options.maxBlocks],
  ];
  return pairs.flatMap(([name, value]) => (value === undefined ? [] : [name, String(value)]));
}

/** Arguments of `disk-load run`. */
export function loadRunArgs(options: LoadOptions): string[] {
  const seconds = options.seconds ?? (options.ops === undefined ? 10 : undefined);
  const pairs: Array<[string, number | undefined]> = [
    ['--seconds', seconds],
    ['--ops', options.ops],
    ['--flush-every', options.flushEvery],
    ['--verify-every', options.verifyEvery],
    ['--tick-ms', options.tickMs],
  ];
  const times = pairs.flatMap(([name, value]) => (value === undefined ? [] : [name, `${value}`]));
  return ['run', '--target', options.device, ...loadShape(options), ...times];
}

/** How strict a check is about each thread's newest request. */
export type LoadCheckMode =
  /** Exactly the first n requests of each thread, whole: what a recovery point must be. */
  | 'prefix'
  /** The same, but the last one may be there in part: a primary after a crash of the back-end. */
  | 'torn-last'
  /** Any mix not older than the last flush: a primary after a power cut. */
  | 'loose';

/** Arguments of `disk-load check`, for the guest's disk or, on the host, for an image of it. */
export function loadCheckArgs(
  options: LoadOptions,
  flushed: ReadonlyMap<number, number> = new Map(),
  mode: LoadCheckMode = 'prefix',
): string[] {
  const list = [...flushed].map(([thread, op]) => `${thread}:${op}`).join(',');
  return [
    ...['check', '--target', options.device, ...loadShape(options)],
    ...(list === '' ? [] : ['--flushed', list]),
    ...(mode === 'prefix' ? [] : [`--${mode}`]),
  ];
}

/** Writes, flushes and reads back for a while; fails on the first sign of an I/O error. */
export function loadJob(options: LoadOptions): string {
  return `disk-load ${loadRunArgs(options).map(quote).join(' ')} || exit 50`;
}

/** Checks in the guest what {@link loadJob} wrote, maybe in an earlier boot. */
export function loadCheckJob(
  options: LoadOptions,
  flushed?: ReadonlyMap<number, number>,
  mode?: LoadCheckMode,
): string {
  return `disk-load ${loadCheckArgs(options, flushed, mode).map(quote).join(' ')} || exit 51`;
}

/**
 * The same kind of load by fio, for guests booted with `extraTools: ['fio']`. fio's libraries make
 * the initramfs ten times as big: give such a guest 1024 MB.
 */
export function fioVerifyJob(options: {
  device: string;
  bytes: number;
  seconds: number;
  depth?: number;
  engine?: 'libaio' | 'io_uring' | 'psync';
}): string {
  const args = [
    '--name=verify',
    `--filename=${options.device}`,
    `--size=${options.bytes}`,
    `--ioengine=${options.engine ?? 'libaio'}`,
    `--iodepth=${options.depth ?? 8}`,
    ...['--direct=1', '--rw=randwrite', '--bsrange=4k-64k', '--fsync=64', '--thread'],
    ...['--verify=crc32c', '--verify_fatal=1', '--do_verify=1', '--output-format=normal'],
    `--runtime=${options.seconds}`,
  ];
  return `fio ${args.map(quote).join(' ')} || exit 52`;
}

/** The checksums that a job printed under `label`. */
export function parseManifest(lines: readonly string[], label: string): Manifest {
  const manifest: Manifest = new Map();
  for (const line of lines) {
    const found = /^@sum (\S+) ([0-9a-f]{64}) {2}(.+)$/.exec(line);
    if (found?.[1] === label) manifest.set(found[3] as string, found[2] as string);
  }
  return manifest;
}

/** How `found` differs from `expected`. Two empty manifests are not equal: they prove nothing. */
export function compareManifests(expected: Manifest, found: Manifest): ManifestDifference {
  const missing = [...expected.keys()].filter((name) => !found.has(name));
  const extra = [...found.keys()].filter((name) => !expected.has(name));
  const changed = [...expected].filter(
    ([name, hash]) => found.has(name) && found.get(name) !== hash,
  );
  return {
    equal: expected.size > 0 && missing.length + extra.length + changed.length === 0,
    missing,
    changed: changed.map(([name]) => name),
    extra,
  };
}

/** What a load's lines say so far; they may be taken while it runs. */
export interface LoadProgress {
  /** Thread → its newest request known to be flushed. */
  flushed: Map<number, number>;
  /** Longest request, open ones included, that any tick saw. */
  longestMs: number;
  ops: number;
  /** Lines that tell of an I/O error or of a wrong block. */
  errors: string[];
  /** Set by the load's last line. */
  ended: boolean;
}

export function parseLoad(lines: readonly string[]): LoadProgress {
  const progress: LoadProgress = {
    flushed: new Map(),
    longestMs: 0,
    ops: 0,
    errors: [],
    ended: false,
  };
  for (const line of lines) {
    const flushed = /^flushed t=(\d+) op=(\d+)$/.exec(line);
    if (flushed) progress.flushed.set(Number(flushed[1]), Number(flushed[2]));
    const tick = /^tick ms=\d+ ops=(\d+) .*longest-ms=([\d.]+)$/.exec(line);
    if (tick) {
      progress.ops = Number(tick[1]);
      progress.longestMs = Math.max(progress.longestMs, Number(tick[2]));
    }
    const end = /^load end ops=(\d+) /.exec(line);
    if (end) {
      progress.ops = Number(end[1]);
      progress.ended = true;
    }
    if (/^(io-error|mismatch|bad) /.test(line)) progress.errors.push(line);
  }
  return progress;
}
