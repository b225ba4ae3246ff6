// SPDX-License-Identifier: Apache-2.0
import type { INestApplication } from '@nestjs/common';
import { DocumentBuilder, type OpenAPIObject, SwaggerModule } from '@nestjs/swagger';
import { packageVersion } from './info.service.js';

const DESCRIPTION = `Continuous data protection for the disks of virtual machines.

Times are RFC 3339 in UTC with nine digits; sizes are bytes; durations are a number and one of
s m h d w y (m is minutes). Where a path takes a group, policy or device, name and id both do.
Lists take \`?limit=&after=\`. Errors are problem bodies (RFC 9457); \`code\` is for programs.
Send \`Authorization: Bearer TOKEN\`; the first token is in \`<state>/admin.token\`.`;

/** Serves the page at /docs and the document at /docs/openapi.json; both are open. */
export function setUpOpenApi(app: INestApplication): OpenAPIObject {
  const config = new DocumentBuilder()
    .setTitle('Everpoint')
    .setDescription(DESCRIPTION)
    .setVersion(packageVersion())
    .setLicense('Apache-2.0', 'https://www.apache.org/licenses/LICENSE-2.0')
    .addBearerAuth()
    .build();
  const document = SwaggerModule.createDocument(app, config);
  SwaggerModule.setup('docs', app, document, { jsonDocumentUrl: 'docs/openapi.json' });
  return document;
}
