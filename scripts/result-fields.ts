/**
 * Prints src/cli/result-fields.ts: the fields of what each command prints with `--json`, by the types of what the commands return.
 * A test compares.
 */
import {spawnSync} from 'node:child_process';
import {join} from 'node:path';
import {isCallExpression, isClassDeclaration, isMethodDeclaration, isPropertyAccessExpression, type Node} from 'typescript/unstable/ast';
import {API, type Checker, type Type, TypeFlags, type TypeReference} from 'typescript/unstable/sync';
import {COMMANDS} from '../src/commands/index.ts';

/** As in the file that is printed. */
type Shape = string | readonly Shape[] | {readonly [field: string]: Shape};

const root = join(import.meta.dirname, '..');
const ANYTHING = '*';
const NO_FIELDS = '';

/** Finds the shapes of types; `types` has those with a name. */
class Shapes {
  readonly types = new Map<string, Shape>();
  readonly #symbols = new Map<string, number>();
  readonly #checker: Checker;

  constructor(checker: Checker) {
    this.#checker = checker;
  }

  /** Of results, and of their items where they are lists. */
  ofItems(types: readonly Type[]): Shape {
    const isList = (type: Type): boolean => this.#checker.isArrayLikeType(type);
    const each = types.flatMap((type) => (type.isUnionType() ? type.getTypes() : [type]));
    return this.#any(each.flatMap((type) => (isList(type) ? this.#checker.getTypeArguments(type as TypeReference) : [type])));
  }

  of(type: Type): Shape {
    if ((type.flags & TypeFlags.AnyOrUnknown) !== 0) return ANYTHING;
    if (type.isUnionType()) return this.#any(type.getTypes());
    const isText = type.isIntersectionType() && type.getTypes().some(({flags}) => (flags & TypeFlags.Primitive) !== 0);
    if (isText || (type.flags & (TypeFlags.Object | TypeFlags.Intersection)) === 0) return NO_FIELDS;
    if (this.#checker.isArrayLikeType(type)) return {[ANYTHING]: this.#any(this.#checker.getTypeArguments(type as TypeReference))};
    const name = this.#nameOf(type);
    if (name === undefined) return type.isIntersectionType() ? this.#any(type.getTypes()) : this.#fields(type);
    if (!this.types.has(name)) {
      this.types.set(name, NO_FIELDS); // A type may be a field of itself.
      this.types.set(name, this.#fields(type));
    }
    return name;
  }

  /** Of one of several types, or of what is all of them. */
  #any(types: readonly Type[]): Shape {
    const shapes = new Map(types.map((type) => this.of(type)).map((shape) => [JSON.stringify(shape), shape]));
    shapes.delete(JSON.stringify(NO_FIELDS));
    return shapes.size < 2 ? ([...shapes.values()][0] ?? NO_FIELDS) : [...shapes.values()];
  }

  #fields(type: Type): Shape {
    const entries = this.#checker
      .getPropertiesOfType(type)
      .map((property) => [property.name, this.of(this.#checker.getTypeOfSymbol(property)!)] as const);
    const index = this.#checker.getIndexInfosOfType(type).map(({valueType}) => [ANYTHING, this.of(valueType)] as const);
    return Object.fromEntries([...entries, ...index]);
  }

  /** Of a type that is declared with a name, and is the same wherever it has it. */
  #nameOf(type: Type): string | undefined {
    const alias = type.getAliasSymbol();
    if (alias === undefined && !type.isClassOrInterface()) return undefined;
    if (type.getAliasTypeArguments().length > 0) return undefined;
    const {name, id} = alias ?? type.getSymbol()!;
    if ((this.#symbols.get(name) ?? id) !== id) throw new Error(`there are two types ${name}`);
    this.#symbols.set(name, id);
    return name;
  }
}

/** Types of what a command's module gives to `--json`: what `run` returns, and what goes to `printRecord`. */
function resultsOf(file: string, {checker, program}: {checker: Checker; program: {getSourceFile(name: string): Node | undefined}}): Type[] {
  const found: Type[] = [];
  const visit = (node: Node): void => {
    if (isMethodDeclaration(node) && isClassDeclaration(node.parent) && node.name.getText() === 'run') {
      const promise = checker.getReturnTypeOfSignature(checker.getSignatureFromDeclaration(node)!)!;
      found.push(...checker.getTypeArguments(promise as TypeReference));
    }
    if (isCallExpression(node) && isPropertyAccessExpression(node.expression) && node.expression.name.getText() === 'printRecord')
      found.push(checker.getTypeAtLocation(node.arguments[0]!)!);
    node.forEachChild(visit);
  };
  visit(program.getSourceFile(file)!);
  return found;
}

const api = new API({cwd: root});
const project = api.updateSnapshot({openProjects: [join(root, 'tsconfig.json')]}).getProjects()[0]!;
const shapes = new Shapes(project.checker);
const results = Object.fromEntries(
  Object.keys(COMMANDS.commands).map((id) => [
    id,
    shapes.ofItems(resultsOf(join(root, 'src/commands', `${id.replace(' ', '/')}.ts`), project)),
  ]),
);
api.close();

const source = `/** Fields of what commands print with \`--json\`. Written by scripts/result-fields.ts; change it there. */

/**
 * What has these fields, or those of one of several shapes, or the name of one of TYPES; empty for what has none, such as a text. \`*\` is anything,
 * and as a name each item of a list, or what somebody else gives names to.
 */
export type Shape = string | readonly Shape[] | {readonly [field: string]: Shape};

export const TYPES: Readonly<Record<string, Shape>> = ${JSON.stringify(Object.fromEntries([...shapes.types].sort()))};

/** By command; of a list, the shape of its items. */
export const RESULTS: Readonly<Record<string, Shape>> = ${JSON.stringify(results)};
`;
const biome = [join(root, 'node_modules/@biomejs/biome/bin/biome'), 'format', '--stdin-file-path', 'src/cli/result-fields.ts'];
const {status, stdout, stderr} = spawnSync(process.execPath, biome, {cwd: root, input: source, encoding: 'utf8'});
if (status !== 0) throw new Error(stderr);
process.stdout.write(stdout);
