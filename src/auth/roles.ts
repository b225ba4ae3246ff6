// SPDX-License-Identifier: Apache-2.0
import { SetMetadata } from '@nestjs/common';

/** From least to most: each may do what those before it may. */
export const ROLES = ['viewer', 'operator', 'admin'] as const;
export type Role = (typeof ROLES)[number];

export const ROLE_KEY = 'everpoint:role';
export const OPEN_ON_LOOPBACK_KEY = 'everpoint:open-on-loopback';

/** The least role that may call a route. A route without this asks for `admin`. */
export const RequireRole = (role: Role) => SetMetadata(ROLE_KEY, role);

/** A caller on this machine needs no token. Everyone else needs one like on any other route. */
export const OpenOnLoopback = () => SetMetadata(OPEN_ON_LOOPBACK_KEY, true);

/** Whether somebody with role `has` may do what asks for `needs`. */
export function roleAllows(has: Role, needs: Role): boolean {
  return ROLES.indexOf(has) >= ROLES.indexOf(needs);
}
