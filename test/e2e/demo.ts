// SPDX-License-Identifier: Apache-2.0

/**
 * `npm run demo`: shows the main job on real input, and proves it. Exit code 0 only if every
 * comparison held, 1 if one did not or something failed, 2 for a wrong option, 130 after Ctrl-C.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { describeTime, Scenario, type ScenarioResult } from './scenario.ts';
import { Terminal } from './terminal.ts';

const USAGE = `usage: npm run demo -- [--keep] [--json] [--verbose] [--accel auto|kvm|tcg]

Boots a QEMU guest on a protected disk, lets it destroy its files, and gets them back.
--keep     leave the folder with disk, log and restored files, and say where it is
--json     the result as JSON on standard output; what happens goes to standard error
--verbose  also show what the guests print
--accel    how guests run; auto takes KVM where it really boots one
`;

const MIB = 1 << 20;
const SHAPE = {
  sizeBytes: 256 * MIB,
  files: 48,
  minBytes: 1,
  maxBytes: 2 * MIB,
  seed: 1,
  segmentBytes: 16 * MIB,
};

interface Options {
  keep: boolean;
  json: boolean;
  verbose: boolean;
  accel: 'auto' | 'kvm' | 'tcg';
}

function readOptions(): Options | string {
  try {
    const { values } = parseArgs({
      options: {
        keep: { type: 'boolean', default: false },
        json: { type: 'boolean', default: false },
        verbose: { type: 'boolean', default: false },
        accel: { type: 'string', default: 'auto' },
        help: { type: 'boolean', short: 'h', default: false },
      },
    });
    const { keep, json, verbose, accel, help } = values;
    if (help) return '';
    if (accel !== 'auto' && accel !== 'kvm' && accel !== 'tcg') {
      return `--accel is auto, kvm or tcg, not ${accel}`;
    }
    return { keep, json, verbose, accel };
  } catch (error) {
    return (error as Error).message;
  }
}

class Demo {
  readonly #options: Options;
  readonly #terminal: Terminal;
  readonly #folder = mkdtempSync(join(tmpdir(), 'everpoint-demo-'));
  readonly #scenario: Scenario;
  #ending: Promise<void> | undefined;

  constructor(options: Options) {
    this.#options = options;
    const out = options.json ? process.stderr : process.stdout;
    this.#terminal = new Terminal({ out, verbose: options.verbose });
    const shown = { job: 'guest', console: 'kernel', qemu: 'qemu' };
    this.#scenario = new Scenario(
      {
        ...SHAPE,
        folder: this.#folder,
        accel: options.accel,
        ...(options.verbose && {
          onGuestLine: (line) => this.#terminal.guestLine(shown[line.from], line.text),
        }),
      },
      this.#terminal,
    );
  }

  async run(): Promise<number> {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      // npm may deliver it twice; the second one finds the end under way.
      process.on(signal, () => void this.#interrupt(signal));
    }
    const terminal = this.#terminal;
    terminal.line();
    terminal.line(terminal.bold('Everpoint: a guest’s disk, protected, and put back as it was'));
    terminal.line();
    let result: ScenarioResult | undefined;
    let failure: unknown;
    try {
      result = await this.#scenario.run();
    } catch (error) {
      failure = error;
    }
    // After a signal the rest belongs to #interrupt, which ends the process.
    if (this.#ending !== undefined) return new Promise(() => undefined);
    if (result === undefined) this.#showFailure(failure);
    await this.#end();
    if (result !== undefined) this.#showVerdict(result);
    if (this.#options.json)
      process.stdout.write(`${JSON.stringify(this.#report(result, failure), null, 2)}\n`);
    return result?.held === true ? 0 : 1;
  }

  /** Ends what was started, then removes the folder or says where it is. */
  #end(): Promise<void> {
    this.#ending ??= (async () => {
      const { keep } = this.#options;
      try {
        await this.#scenario.close(!keep);
      } catch (error) {
        process.exitCode = 1;
        this.#terminal.line(`ending: ${(error as Error).message}`);
      }
      if (!keep) rmSync(this.#folder, { recursive: true, force: true });
    })();
    return this.#ending;
  }

  async #interrupt(signal: NodeJS.Signals): Promise<void> {
    if (this.#ending !== undefined) return;
    const ended = this.#end();
    this.#terminal.break();
    this.#terminal.line(`${signal}: ending the guest and the service`);
    await ended;
    this.#showFolder();
    process.exit(130);
  }

  #showVerdict(result: ScenarioResult): void {
    const { line, bold } = {
      line: (text?: string) => this.#terminal.line(text),
      bold: (text: string) => this.#terminal.bold(text),
    };
    const held = result.checks.filter((check) => check.held).length;
    line();
    for (const check of result.checks.filter((one) => !one.held)) {
      line(`  ${this.#terminal.checkLine(check)}`);
    }
    const words = result.held
      ? `Every comparison held: ${held} of ${result.checks.length}`
      : `NOT every comparison held: ${held} of ${result.checks.length}`;
    line(`${bold(words)}, in ${describeTime(result)}.`);
    this.#showFolder();
  }

  #showFailure(failure: unknown): void {
    const terminal = this.#terminal;
    terminal.break();
    terminal.line();
    terminal.line(terminal.bold('The demo failed before every comparison was made:'));
    terminal.line(failure instanceof Error ? failure.message : String(failure));
    const tail = this.#scenario.serviceTail();
    if (tail !== '') terminal.line(`The service said last:\n${tail}`);
    if (!this.#options.keep) terminal.line('To look at it afterwards: npm run demo -- --keep');
  }

  #showFolder(): void {
    if (!this.#options.keep) return;
    const state = join(this.#folder, 'state');
    this.#terminal.line(`Kept: ${this.#folder}`);
    this.#terminal.line(
      `To serve it again: EVERPOINT_STATE=${state} EVERPOINT_ROOTS=${this.#folder} npm start`,
    );
  }

  #report(result: ScenarioResult | undefined, failure: unknown): object {
    const kept = this.#options.keep ? { folder: this.#folder } : {};
    if (result !== undefined) return { ...result, ...kept };
    return {
      held: false,
      error: failure instanceof Error ? failure.message : String(failure),
      ...kept,
    };
  }
}

const options = readOptions();
if (typeof options === 'string') {
  if (options !== '') process.stderr.write(`${options}\n`);
  (options === '' ? process.stdout : process.stderr).write(USAGE);
  process.exit(options === '' ? 0 : 2);
}
const code = await new Demo(options).run();
process.exit(process.exitCode === undefined ? code : Math.max(code, Number(process.exitCode)));
