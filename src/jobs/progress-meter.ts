// SPDX-License-Identifier: Apache-2.0
import type { JobProgress } from '../catalog/job.repository.js';

/** Speed is that of about the last this many seconds. */
const WINDOW_S = 10;

/** Turns counts into progress with a speed and an end in sight. */
export class ProgressMeter {
  private perSecond = 0;
  private lastDone = 0;
  private lastAt: number;

  constructor(private readonly now: () => number = () => performance.now()) {
    this.lastAt = now();
  }

  update(done: number, total: number, unit: string): JobProgress {
    const at = this.now();
    const seconds = (at - this.lastAt) / 1000;
    if (seconds >= 0.05) {
      const speed = Math.max(0, done - this.lastDone) / seconds;
      const weight = this.perSecond === 0 ? 1 : 1 - Math.exp(-seconds / WINDOW_S);
      this.perSecond += (speed - this.perSecond) * weight;
      this.lastDone = done;
      this.lastAt = at;
    }
    const left = Math.max(0, total - done);
    const etaSeconds = this.perSecond > 0 ? Math.ceil(left / this.perSecond) : null;
    return { done, total, unit, perSecond: Math.round(this.perSecond), etaSeconds };
  }
}
