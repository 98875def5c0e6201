/**
 * Writes the reference of the library into dist/docs, by `npm run docs`: a page for each module that programs import, from the
 * docstrings in dist/types. test/architecture.test.ts holds that every exported name has one.
 */
import {mkdirSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {basename, join, relative} from 'node:path';
import {isVariableDeclaration, type Node} from 'typescript/unstable/ast';
import {API, type Project, SymbolFlags} from 'typescript/unstable/sync';

const root = join(import.meta.dirname, '..');
const out = join(root, 'dist/docs');

interface Entry {
  readonly name: string;
  /** Markdown. */
  readonly docs: string;
  readonly declaration: string;
}

/** Files of declarations, by the name under which programs import them. */
function modules(): ReadonlyMap<string, string> {
  const {name, exports} = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
    readonly name: string;
    readonly exports: Readonly<Record<string, string | {readonly types: string}>>;
  };
  return new Map(
    Object.entries(exports).flatMap(([path, target]) =>
      typeof target === 'string' ? [] : [[join(name, path), join(root, target.types)] as const],
    ),
  );
}

/** Exports of a module, sorted by name. */
function entriesOf(file: string, {checker, program}: Project): readonly Entry[] {
  const module = checker.getSymbolAtLocation(program.getSourceFile(file)!);
  if (module === undefined) throw new Error(`${file} exports nothing`);
  return checker
    .getExportsOfModule(module)
    .map((exported) => {
      const symbol = exported.flags & SymbolFlags.Alias ? checker.getAliasedSymbol(exported) : exported;
      const tags = checker.getJsDocTagsOfSymbol(symbol).map(({name, text = ''}) => `- *${name}* ${text.replace(/\s+/g, ' ')}\n`);
      return {
        name: exported.name,
        docs: `${checker.getDocumentationCommentOfSymbol(symbol).trim()}\n\n${tags.join('')}`.trim(),
        declaration: symbol.declarations.map((handle) => declarationText(handle.resolve()!)).join('\n'),
      };
    })
    .sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** A declaration as it is written: without its own docstring, with those of its members. */
function declarationText(node: Node): string {
  const statement = isVariableDeclaration(node) ? node.parent.parent : node;
  return statement.getText().replace(/^(?:export )?(?:declare )?/, '');
}

/** One entry, with links to the others of its page that its declaration names. */
function section({name, docs, declaration}: Entry, names: ReadonlySet<string>): string {
  const others = [...new Set(declaration.match(/\b[A-Za-z]\w*\b/g))].filter((word) => word !== name && names.has(word)).sort();
  const links = others.length === 0 ? '' : `\nSee ${others.map((other) => `[${other}](#${other.toLowerCase()})`).join(', ')}.\n`;
  return `## ${name}\n\n${docs}\n\n\`\`\`ts\n${declaration}\n\`\`\`\n${links}`;
}

rmSync(out, {recursive: true, force: true});
mkdirSync(out, {recursive: true});
const files = modules();
const config = join(out, 'tsconfig.json');
writeFileSync(config, JSON.stringify({extends: '../../tsconfig.json', files: [...files.values()], include: []}));
const api = new API({cwd: root});
const project = api.updateSnapshot({openProjects: [config]}).getProjects()[0]!;
for (const [name, file] of files) {
  const entries = entriesOf(file, project);
  const names = new Set(entries.map((entry) => entry.name));
  const page = join(out, `${basename(file, '.d.ts')}.md`);
  writeFileSync(page, `# ${name}\n\n${entries.map((entry) => section(entry, names)).join('\n')}`);
  process.stdout.write(`${relative(root, page)}: ${entries.length} names\n`);
}
api.close();
rmSync(config);
