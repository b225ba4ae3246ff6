// SPDX-License-Identifier: Apache-2.0
import { ProblemError } from '../common/rest/problem.js';

/** The service cannot be used yet; answered with 503. */
export class NotReadyError extends ProblemError {
  constructor(missing: string[]) {
    super(
      'BUSY',
      `Not ready: ${missing.join('; ')}.`,
      { operation: 'check readiness' },
      { missing },
    );
  }
}
