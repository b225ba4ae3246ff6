// SPDX-License-Identifier: Apache-2.0
import { duration } from './format.ts';
import type { Check, Stage, Step } from './scenario.ts';

const WIDTH = 78;
const LIVE_MS = 120;
const SPINNER = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];

export interface TerminalOptions {
  out: NodeJS.WriteStream;
  /** Guest output will come in between: nothing is redrawn. */
  verbose: boolean;
}

/**
 * Shows steps to a person: on a terminal the line of the running step is drawn again with what it is
 * doing; elsewhere each line is written once.
 */
export class Terminal implements Stage {
  readonly #out: NodeJS.WriteStream;
  readonly #verbose: boolean;
  readonly #redraws: boolean;
  readonly #colours: boolean;
  #count = 0;
  #title = '';
  #live = '';
  #began = 0;
  #frame = 0;
  #timer: NodeJS.Timeout | undefined;
  #open = false;
  #broken = false;

  constructor(options: TerminalOptions) {
    this.#out = options.out;
    this.#verbose = options.verbose;
    const terminal = this.#out.isTTY === true && process.env['TERM'] !== 'dumb';
    this.#redraws = terminal && !options.verbose;
    this.#colours = terminal && (process.env['NO_COLOR'] ?? '') === '';
  }

  bold(text: string): string {
    return this.#colour('1', text);
  }

  line(text = ''): void {
    this.#out.write(`${text}\n`);
  }

  async step<T>(title: string, work: (step: Step) => Promise<T>): Promise<T> {
    const notes: string[] = [];
    this.#begin(title);
    try {
      const result = await work({
        live: (text) => {
          this.#live = text;
        },
        note: (text) => notes.push(this.#colour('2', text)),
        check: (check) => notes.push(this.checkLine(check)),
      });
      this.#end(notes, true);
      return result;
    } catch (error) {
      this.#end(notes, false);
      throw error;
    }
  }

  /** A guest's line; for --verbose. */
  guestLine(from: string, text: string): void {
    if (this.#broken) return;
    this.line(this.#colour('2', `      ${from.padEnd(8)}│ ${text}`));
  }

  checkLine(check: Check): string {
    return `${check.held ? this.#colour('32', '✓') : this.#colour('31', '✗')} ${check.text}`;
  }

  /** Leaves a half-drawn line as it is and goes to the next; steps say nothing more. */
  break(): void {
    clearInterval(this.#timer);
    if (this.#open) this.line();
    this.#open = false;
    this.#broken = true;
  }

  #begin(title: string): void {
    this.#count += 1;
    this.#title = title;
    this.#live = '';
    this.#began = performance.now();
    this.#open = true;
    if (this.#verbose) {
      this.line(this.#heading());
    } else {
      this.#out.write(this.#heading());
    }
    if (!this.#redraws) return;
    this.#draw();
    this.#timer = setInterval(() => this.#draw(), LIVE_MS);
    this.#timer.unref();
  }

  #heading(): string {
    return `${String(this.#count).padStart(2)}  ${this.#title}`;
  }

  #draw(): void {
    this.#frame = (this.#frame + 1) % SPINNER.length;
    const seconds = `${((performance.now() - this.#began) / 1000).toFixed(0)} s`;
    const tail = [this.#live, seconds].filter((part) => part !== '').join(', ');
    const room = Math.max(10, (this.#out.columns ?? 80) - this.#heading().length - 5);
    const shown = tail.length > room ? `${tail.slice(0, room - 1)}…` : tail;
    const spinner = this.#colour('36', SPINNER[this.#frame] ?? '');
    this.#out.write(`\r\x1b[K${this.#heading()}  ${spinner} ${this.#colour('2', shown)}`);
  }

  #end(notes: readonly string[], held: boolean): void {
    clearInterval(this.#timer);
    if (this.#broken) return;
    this.#open = false;
    const took = duration(performance.now() - this.#began);
    const time = (held ? took : `failed after ${took}`).padStart(8);
    const gap = ' '.repeat(Math.max(2, WIDTH - this.#heading().length - time.length));
    if (this.#verbose) this.line(`${' '.repeat(Math.max(4, WIDTH - time.length))}${time}`);
    else if (this.#redraws) this.line(`\r\x1b[K${this.bold(this.#heading())}${gap}${time}`);
    else this.line(`${gap}${time}`);
    for (const note of notes) this.line(`      ${note}`);
  }

  #colour(code: string, text: string): string {
    return this.#colours ? `\x1b[${code}m${text}\x1b[0m` : text;
  }
}
