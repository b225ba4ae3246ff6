// SPDX-License-Identifier: Apache-2.0
import {
  type CanActivate,
  type ExecutionContext,
  ForbiddenException,
  Inject,
  Injectable,
  UnauthorizedException,
} from '@nestjs/common';
import { Reflector } from '@nestjs/core';
import type { FastifyRequest } from 'fastify';
import { OPEN_ON_LOOPBACK_KEY, type Role, ROLE_KEY, roleAllows } from './roles.js';
import { type Principal, TokenService } from './token.service.js';

/** A request after the guard. */
export type AuthenticatedRequest = FastifyRequest & { principal?: Principal };

/** Lets a request through when its bearer's role allows the route. */
@Injectable()
export class AuthGuard implements CanActivate {
  constructor(
    @Inject(Reflector) private readonly reflector: Reflector,
    @Inject(TokenService) private readonly tokens: TokenService,
  ) {}

  canActivate(context: ExecutionContext): boolean {
    const targets = [context.getHandler(), context.getClass()];
    const request = context.switchToHttp().getRequest<AuthenticatedRequest>();
    const open = this.reflector.getAllAndOverride<boolean>(OPEN_ON_LOOPBACK_KEY, targets) ?? false;
    if (open && isLocal(request)) return true;
    request.principal = this.authenticate(request.headers.authorization);
    const needs = this.reflector.getAllAndOverride<Role>(ROLE_KEY, targets) ?? 'admin';
    if (!roleAllows(request.principal.role, needs)) {
      throw new ForbiddenException(
        `This needs the role ${needs}; the token has the role ${request.principal.role}.`,
      );
    }
    return true;
  }

  private authenticate(header: string | undefined): Principal {
    const token = /^Bearer +([^\s]+)$/i.exec(header ?? '')?.[1];
    if (token === undefined) {
      throw new UnauthorizedException('Send the header "Authorization: Bearer TOKEN".');
    }
    const principal = this.tokens.verify(token);
    if (principal === undefined) throw new UnauthorizedException('The token is not known.');
    return principal;
  }
}

/** Loopback, or a unix socket, whose file permissions said already who may connect. */
function isLocal(request: FastifyRequest): boolean {
  const address = request.socket.remoteAddress;
  if (address === undefined) return true;
  return address === '::1' || /^(::ffff:)?127\./.test(address);
}
