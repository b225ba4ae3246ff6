// SPDX-License-Identifier: Apache-2.0

/**
 * fio in the guest: random writes with fsync, round after round, each verified (crc32c) against the
 * disk. The guest must be booted with {@link FIO_GUEST}.
 */

import { quote } from './jobs.ts';

/** fio's libraries make the initramfs ten times as big. */
export const FIO_GUEST = { extraTools: ['fio'], memoryMb: 768 };

export interface FioRoundsOptions {
  device: string;
  /** Written, and then read, in each round. */
  bytes: number;
  seed: number;
  /** No further round begins after so long; the host may say `stop` before. */
  seconds: number;
  depth?: number;
  /** Writes between two fsyncs. Default 16. */
  fsyncEvery?: number;
  /** Default: 4k to 64k. */
  blockSizes?: string;
}

/** One round, in fio's own words. Times are seen by the guest. */
export interface FioRound {
  round: number;
  exitCode: number;
  /** fio's errno; 84 (EILSEQ): what was read is not what was written. */
  error: number;
  writes: number;
  reads: number;
  fsyncs: number;
  writeMaxMs: number;
  readMaxMs: number;
  fsyncMaxMs: number;
}

/** Rounds until the time is over or the host says something (`Guest.say`). Exit code 52: fio failed. */
export function fioRoundsJob(options: FioRoundsOptions): string {
  const args = [
    '--name=verify',
    `--filename=${options.device}`,
    `--size=${options.bytes}`,
    `--iodepth=${options.depth ?? 8}`,
    `--bsrange=${options.blockSizes ?? '4k-64k'}`,
    `--fsync=${options.fsyncEvery ?? 16}`,
    ...['--ioengine=libaio', '--direct=1', '--rw=randwrite', '--thread', '--end_fsync=1'],
    ...['--verify=crc32c', '--verify_fatal=1', '--do_verify=1'],
    ...['--output-format=json', '--output=/tmp/fio.json', '--eta=never'],
    ...['--clat_percentiles=0', '--lat_percentiles=0', '--slat_percentiles=0'],
  ];
  return [
    `(read -r word </dev/ttyS1; : >/tmp/stop) &`,
    `uptime() { cut -d. -f1 /proc/uptime; }`,
    `begin=$(uptime); round=0`,
    `while [ ! -e /tmp/stop ] && [ $(($(uptime) - begin)) -lt ${options.seconds} ]; do`,
    `  round=$((round + 1))`,
    `  fio ${args.map(quote).join(' ')} --randseed=$((${options.seed} + round)) </dev/null >/tmp/fio.err 2>&1`,
    `  code=$?`,
    // One line, however fio lays it out: the host takes it as a whole or not at all.
    `  echo "@fio $round $code $(tr -d ' \\n' </tmp/fio.json)"`,
    `  [ $code = 0 ] || { cat /tmp/fio.err; exit 52; }`,
    `done`,
    `echo "fio: $round rounds"`,
  ].join('\n');
}

interface FioTimes {
  total_ios: number;
  clat_ns: { max: number };
}

interface FioReport {
  jobs: {
    error: number;
    write: FioTimes;
    read: FioTimes;
    sync: { total_ios: number; lat_ns: { max: number } };
  }[];
}

/** The rounds that ended so far. Throws on a line that is not fio's report. */
export function parseFioRounds(lines: readonly string[]): FioRound[] {
  return lines.flatMap((line) => {
    const found = /^@fio (\d+) (\d+) (.*)$/.exec(line);
    if (!found) return [];
    const [, round, exitCode, text = ''] = found;
    // A word of warning may stand before the report.
    const report = JSON.parse(text.slice(text.indexOf('{'))) as FioReport;
    const [job] = report.jobs;
    if (job === undefined) throw new RangeError(`a report without a job: ${text.slice(0, 200)}`);
    return {
      round: Number(round),
      exitCode: Number(exitCode),
      error: job.error,
      writes: job.write.total_ios,
      reads: job.read.total_ios,
      fsyncs: job.sync.total_ios,
      writeMaxMs: job.write.clat_ns.max / 1e6,
      readMaxMs: job.read.clat_ns.max / 1e6,
      fsyncMaxMs: job.sync.lat_ns.max / 1e6,
    };
  });
}
