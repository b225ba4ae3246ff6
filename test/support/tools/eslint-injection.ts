// SPDX-License-Identifier: Apache-2.0
//
// An ESLint rule against a silent failure: Nest injects, and class-validator checks, by the class that
// emitDecoratorMetadata leaves in the built file. `import type` leaves `Object` there instead, and no
// compiler complains: the service gets nothing, the body goes in unchecked.
import { AST_NODE_TYPES, type TSESTree } from '@typescript-eslint/utils';
import type { Rule, Scope } from 'eslint';

function typeName(parameter: TSESTree.Parameter): TSESTree.Identifier | undefined {
  const target =
    parameter.type === AST_NODE_TYPES.TSParameterProperty ? parameter.parameter : parameter;
  const binding = target.type === AST_NODE_TYPES.AssignmentPattern ? target.left : target;
  const type = binding.typeAnnotation?.typeAnnotation;
  return type?.type === AST_NODE_TYPES.TSTypeReference &&
    type.typeName.type === AST_NODE_TYPES.Identifier
    ? type.typeName
    : undefined;
}

function importedAsType(scope: Scope.Scope | null, name: string): boolean {
  for (let at = scope; at !== null; at = at.upper) {
    const variable = at.set.get(name);
    if (variable === undefined) continue;
    return variable.defs.some((definition) => {
      if (definition.type !== 'ImportBinding') return false;
      const specifier = definition.node as unknown as TSESTree.ImportClause;
      const statement = definition.parent as unknown as TSESTree.ImportDeclaration;
      const single =
        specifier.type === AST_NODE_TYPES.ImportSpecifier && specifier.importKind === 'type';
      return single || statement.importKind === 'type';
    });
  }
  return false;
}

/** Forbids `import type` for classes that a decorated constructor or parameter needs at run time. */
export const noTypeOnlyInjection: Rule.RuleModule = {
  meta: {
    type: 'problem',
    schema: [],
    messages: {
      typeOnly:
        "{{name}} is imported as a type, so nothing of it is left for Nest's injection or validation: import the class itself.",
    },
  },
  create(context) {
    function check(parameters: TSESTree.Parameter[], scope: Scope.Scope): void {
      for (const parameter of parameters) {
        const name = typeName(parameter);
        if (name === undefined || !importedAsType(scope, name.name)) continue;
        context.report({
          loc: name.loc,
          messageId: 'typeOnly',
          data: { name: name.name },
        });
      }
    }
    return {
      MethodDefinition(node: Rule.Node) {
        const method = node as unknown as TSESTree.MethodDefinition;
        const scope = context.sourceCode.getScope(node);
        const { params } = method.value;
        if (method.kind !== 'constructor') {
          // @Body() body: CreateGroupDto. An undecorated parameter is nobody's business but ours.
          check(
            params.filter((parameter) => parameter.decorators.length > 0),
            scope,
          );
        } else if (method.parent.parent.decorators.length > 0) {
          // @Inject(TOKEN) says by itself what is wanted; everything else is found by its class.
          check(
            params.filter((parameter) => parameter.decorators.length === 0),
            scope,
          );
        }
      },
    };
  },
};
