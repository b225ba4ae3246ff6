// SPDX-License-Identifier: Apache-2.0
import { Linter } from 'eslint';
import tseslint from 'typescript-eslint';
import { describe, expect, it } from 'vitest';
import { noTypeOnlyInjection } from './eslint-injection.ts';

function lint(code: string): Array<string | undefined> {
  const messages = new Linter().verify(code, {
    plugins: { everpoint: { rules: { injection: noTypeOnlyInjection } } },
    languageOptions: { parser: tseslint.parser },
    rules: { 'everpoint/injection': 'error' },
  });
  return messages.map((message) => message.messageId ?? message.message);
}

const service = (imports: string, parameter: string): string =>
  `${imports}\n@Injectable() class Service { constructor(${parameter}) {} }`;
const controller = (imports: string, parameter: string): string =>
  `${imports}\n@Controller() class Groups { @Post() create(${parameter}) {} }`;

describe('a class that is needed at run time', () => {
  it.each([
    service("import type { Dep } from './dep.js';", 'private readonly dep: Dep'),
    service("import { type Dep } from './dep.js';", 'dep: Dep'),
    service("import type Dep from './dep.js';", '@Inject(X) x: string, dep: Dep'),
    controller("import type { Dto } from './dto.js';", '@Body() body: Dto'),
  ])('is not imported as a type: %s', (code) => {
    expect(lint(code)).toEqual(['typeOnly']);
  });

  it.each([
    service("import { Dep } from './dep.js';", 'private readonly dep: Dep'),
    service("import type { Port } from './port.js';", '@Inject(PORT) private readonly port: Port'),
    controller("import { Dto } from './dto.js';", '@Body() body: Dto'),
    controller("import type { Row } from './row.js';", 'row: Row'),
    "import type { Dep } from './dep.js';\nclass Plain { constructor(dep: Dep) {} }",
  ])('may be imported so: %s', (code) => {
    expect(lint(code)).toEqual([]);
  });
});
