// SPDX-License-Identifier: Apache-2.0
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import {
  chmodSync,
  closeSync,
  fsyncSync,
  openSync,
  readFileSync,
  renameSync,
  writeSync,
} from 'node:fs';
import path from 'node:path';
import { Inject, Injectable, Logger, type OnModuleInit } from '@nestjs/common';
import { Settings } from '../config/configuration.js';
import type { Role } from './roles.js';

/** Who calls. */
export interface Principal {
  name: string;
  role: Role;
}

export const ADMIN_TOKEN_FILE = 'admin.token';

/** Only hashes are held, so that neither a heap dump nor a log line of this object has a token. */
interface StoredToken {
  principal: Principal;
  sha256: Buffer;
}

/** Keeps the tokens and says who a bearer is. */
@Injectable()
export class TokenService implements OnModuleInit {
  private readonly logger = new Logger(TokenService.name);
  private readonly tokens: StoredToken[] = [];

  constructor(@Inject(Settings) private readonly settings: Settings) {}

  onModuleInit(): void {
    const token = this.readOrMakeAdminToken();
    this.tokens.push({ principal: { name: 'admin', role: 'admin' }, sha256: sha256(token) });
  }

  /** The file that holds the admin token. */
  get adminTokenFile(): string {
    return path.join(this.settings.state, ADMIN_TOKEN_FILE);
  }

  /** Whether there is a token that can be used; part of readiness. */
  get ready(): boolean {
    return this.tokens.length > 0;
  }

  /** Who a token belongs to. Takes the same time whichever token is near. */
  verify(token: string): Principal | undefined {
    const given = sha256(token);
    let found: Principal | undefined;
    for (const stored of this.tokens) {
      if (timingSafeEqual(given, stored.sha256)) found = stored.principal;
    }
    return found;
  }

  /** Accepts one more token until the service ends. */
  accept(token: string, principal: Principal): void {
    this.tokens.push({ principal, sha256: sha256(token) });
  }

  private readOrMakeAdminToken(): string {
    const file = this.adminTokenFile;
    try {
      const token = readFileSync(file, 'utf8').trim();
      if (token.length < 16) {
        throw new Error(`${file} holds no usable token; remove it to have a new one made`);
      }
      chmodSync(file, 0o600);
      return token;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    }
    const token = `ep_${randomBytes(32).toString('base64url')}`;
    const temporary = `${file}.new`;
    const fd = openSync(temporary, 'w', 0o600);
    try {
      writeSync(fd, `${token}\n`);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(temporary, file);
    this.logger.log(`wrote the admin token to ${file}`);
    return token;
  }
}

function sha256(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}
