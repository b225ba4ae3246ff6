// SPDX-License-Identifier: Apache-2.0

/** How `everpoint-dataplane` ends. A supervisor starts it again after everything but EXIT_OK. */
export const EXIT_OK = 0;
export const EXIT_FAILED = 1;
export const EXIT_USAGE = 2;
/** Another data plane holds the state folder. */
export const EXIT_LOCKED = 3;
