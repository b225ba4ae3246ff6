// SPDX-License-Identifier: Apache-2.0
import eslint from '@eslint/js';
import { defineConfig, globalIgnores } from 'eslint/config';
import tseslint from 'typescript-eslint';
import { noTypeOnlyInjection } from './test/support/tools/eslint-injection.ts';

const ADDON_RULE = {
  selector: String.raw`Literal[value=/\.node$/], TemplateElement[value.raw=/\.node$/]`,
  message: 'Only src/data-plane/native.ts loads the addon; import that.',
};
const STRIPPABLE = [
  {
    selector: 'TSEnumDeclaration, TSParameterProperty, Decorator, TSExportAssignment',
    message: 'Node runs this file by stripping types; this syntax needs a compiler.',
  },
];

export default defineConfig(
  globalIgnores(['build/', 'dist/', 'var/', 'node_modules/', '**/fixtures/']),
  eslint.configs.recommended,
  {
    files: ['**/*.ts'],
    extends: [tseslint.configs.recommendedTypeChecked],
    languageOptions: {
      parserOptions: {
        project: ['./tsconfig.json', './test/tsconfig.json'],
        tsconfigRootDir: import.meta.dirname,
      },
    },
    plugins: { everpoint: { rules: { 'no-type-only-injection': noTypeOnlyInjection } } },
    rules: {
      'everpoint/no-type-only-injection': 'error',
      eqeqeq: 'error',
      'no-restricted-syntax': ['error', ADDON_RULE],
      'prefer-const': 'error',
      // Leaves files with decorators alone, where the rule above decides.
      '@typescript-eslint/consistent-type-imports': [
        'error',
        { fixStyle: 'inline-type-imports', disallowTypeAnnotations: false },
      ],
      '@typescript-eslint/no-explicit-any': 'error',
      '@typescript-eslint/no-unused-vars': [
        'error',
        { argsIgnorePattern: '^_', varsIgnorePattern: '^_', caughtErrors: 'none' },
      ],
      '@typescript-eslint/restrict-template-expressions': [
        'error',
        { allowNumber: true, allowBoolean: true },
      ],
      '@typescript-eslint/switch-exhaustiveness-check': [
        'error',
        { considerDefaultExhaustiveForUnions: true },
      ],
      // An interface may be asynchronous where one implementation has nothing to wait for.
      '@typescript-eslint/require-await': 'off',
    },
  },
  {
    files: ['src/**/*.ts'],
    ignores: ['src/cli/**', '**/*.spec.ts'],
    rules: { 'no-console': 'error' },
  },
  {
    files: ['src/data-plane/native.ts'],
    rules: { 'no-restricted-syntax': 'off' },
  },
  {
    // Tests may name the addon's file: that it loads is what some of them test.
    files: ['test/**/*.ts', 'bench/**/*.ts'],
    rules: { 'no-restricted-syntax': ['error', ...STRIPPABLE] },
  },
  {
    files: ['**/*.spec.ts'],
    rules: {
      'no-restricted-syntax': 'off',
      // expect(mock.method) and casts of parsed answers are what specs are made of.
      '@typescript-eslint/unbound-method': 'off',
      '@typescript-eslint/no-unsafe-assignment': 'off',
      '@typescript-eslint/no-unsafe-member-access': 'off',
    },
  },
  {
    files: ['**/*.js', '**/*.mjs'],
    languageOptions: { globals: { process: 'readonly', console: 'readonly' } },
  },
);
