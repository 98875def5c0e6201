/** The layering of docs/DESIGN.md, held by reading every import of every file under src with the compiler's own parser. */
import assert from 'node:assert/strict';
import {readdirSync, readFileSync} from 'node:fs';
import {builtinModules} from 'node:module';
import {dirname, join, posix, relative} from 'node:path';
import {after, describe, it} from 'node:test';
import type {Node, SourceFile} from 'typescript/unstable/ast';
import {
  isCallExpression,
  isExportDeclaration,
  isExternalModuleReference,
  isIdentifier,
  isImportDeclaration,
  isImportTypeNode,
  isLiteralTypeNode,
  isMetaProperty,
  isModuleDeclaration,
  isNewExpression,
  isNoSubstitutionTemplateLiteral,
  isPropertyAccessExpression,
  isStringLiteral,
  isVariableStatement,
  SyntaxKind,
} from 'typescript/unstable/ast';
import {createVirtualFileSystem, type FileSystem} from 'typescript/unstable/fs';
import {API, type Project, SymbolFlags} from 'typescript/unstable/sync';

const ROOT = join(import.meta.dirname, '..');

const LIBRARY = ['client', 'store', 'remotes', 'archive', 'runtime', 'oci', 'fs', 'base'] as const;
type Room = 'program' | 'commands' | 'cli' | 'door' | (typeof LIBRARY)[number];

/** Whom each room may import besides itself. */
const MAY: Readonly<Record<Room, readonly Room[]>> = {
  program: ['commands', 'cli', 'door', 'client', 'oci', 'base'],
  commands: ['cli', 'door', 'client', 'oci', 'base'],
  cli: ['door', 'client', 'oci', 'base'],
  door: LIBRARY,
  client: ['store', 'remotes', 'archive', 'runtime', 'oci', 'fs', 'base'],
  store: ['oci', 'fs', 'base'],
  remotes: ['oci', 'fs', 'base'],
  archive: ['oci', 'fs', 'base'],
  runtime: ['oci', 'fs', 'base'],
  oci: ['base'],
  fs: ['base'],
  base: [],
};

/** The floors of the client, from the ground up: a folder imports from those before it only. The files beside the folders are one. */
const CLIENT_FLOORS = [
  'types',
  'workers',
  '',
  'signatures',
  'credentials',
  'pull',
  'archives',
  'registry',
  'copy',
  'tasks',
  'api',
  'push',
  'build',
  'container-files',
  'run',
  'space',
  'fsck',
  'index.ts',
] as const;

/** @param file below src/lib/client @returns how high it lies; -1 when nowhere */
function clientFloor(file: string): number {
  const [first, ...rest] = file.split('/').slice(3);
  return (CLIENT_FLOORS as readonly string[]).indexOf(first === 'index.ts' || rest.length > 0 ? first! : '');
}

/** The rooms through which each outside package comes in. No other package does; Node's own modules do anywhere, save those named. */
const OUTSIDE: Readonly<Record<string, readonly Room[]>> = {
  '@oclif/core': ['cli'],
  chalk: ['cli'],
  'cli-progress': ['cli'],
  'proper-lockfile': ['fs'],
  re2js: ['store'],
  'smol-toml': ['remotes', 'cli'],
  'tar-stream': ['archive'],
  undici: ['remotes'],
  yaml: ['client'],
  'node:child_process': ['fs'],
  // Made by scripts/build.ts.
  'berth:worker-code': ['client'],
};

/** What is read, but is no code of ours: the package's own description. */
const DATA: Readonly<Record<string, readonly Room[]>> = {'package.json': ['cli']};

/** What the package offers to others; what else lies directly in src starts the program. */
const DOORS = ['src/index.ts', 'src/oci.ts'];

/** Files beside the rooms of the library, which know nothing and which every room may know. */
const BASE = [
  'src/lib/base-directories.ts',
  'src/lib/berth-command.ts',
  'src/lib/duration.ts',
  'src/lib/errdefs.ts',
  'src/lib/user-namespace-identity.ts',
];

/** @param file such as `src/lib/oci/reference.ts` */
function roomOf(file: string): Room | undefined {
  if (DOORS.includes(file)) return 'door';
  if (BASE.includes(file)) return 'base';
  const [src, first, second, ...rest] = file.split('/');
  if (src !== 'src') return undefined;
  if (second === undefined) return 'program';
  if (first === 'lib' && second === 'client' && clientFloor(file) < 0) return undefined;
  if (first === 'lib') return rest.length === 0 ? undefined : LIBRARY.find((room) => room === second);
  return first === 'cli' || first === 'commands' ? first : undefined;
}

/** Why this import is not allowed; undefined when it is. @param specifier undefined: what is loaded cannot be read from the text */
function objection(file: string, specifier: string | undefined): string | undefined {
  const room = roomOf(file);
  if (room === undefined) return 'lies in no room';
  if (specifier === undefined) return 'loads what the text does not tell';
  if (/^(?:\/|file:)/.test(specifier)) return 'leads out of the house';
  if (specifier.startsWith('.')) {
    const path = posix.join(posix.dirname(file), specifier);
    if (DATA[path]?.includes(room)) return undefined;
    if (!path.endsWith('.ts')) return 'does not end in .ts';
    const target = roomOf(path);
    if (target === undefined) return 'leads out of the house';
    if (room === 'client' && target === 'client' && clientFloor(path) > clientFloor(file)) return 'leads to a floor above';
    return target === room || MAY[room].includes(target) ? undefined : `${room} must not know ${target}`;
  }
  const outside = /^(?:node:[^/]+|@[^/]+\/[^/]+|[^/]+)/.exec(specifier)![0];
  if (Object.hasOwn(OUTSIDE, outside)) return OUTSIDE[outside]!.includes(room) ? undefined : `${outside} has no door in ${room}`;
  return outside.startsWith('node:') && builtinModules.includes(outside.slice('node:'.length))
    ? undefined
    : `${outside} has no door at all`;
}

const literal = (node: Node | undefined): string | undefined =>
  node !== undefined && (isStringLiteral(node) || isNoSubstitutionTemplateLiteral(node)) ? node.text : undefined;

/** Ways to load a module by a name that is known only when the program runs. */
const LOADERS = ['require', 'createRequire', 'getBuiltinModule'];

/** Everything that a file loads: imports and re-exports, of types too, dynamic ones, workers, and Node's modules by name. */
function imports(source: SourceFile): readonly (string | undefined)[] {
  const found: (string | undefined)[] = [];
  const visit = (node: Node): void => {
    if (isImportDeclaration(node)) found.push(literal(node.moduleSpecifier));
    else if (isExportDeclaration(node)) {
      if (node.moduleSpecifier !== undefined) found.push(literal(node.moduleSpecifier));
    } else if (isExternalModuleReference(node)) found.push(literal(node.expression));
    else if (isImportTypeNode(node)) found.push(isLiteralTypeNode(node.argument) ? literal(node.argument.literal) : undefined);
    else if (isModuleDeclaration(node) && isStringLiteral(node.name)) found.push(node.name.text);
    else if (isCallExpression(node) && node.expression.kind === SyntaxKind.ImportKeyword) found.push(literal(node.arguments[0]));
    else if (isCallExpression(node) && isPropertyAccessExpression(node.expression) && node.expression.name.text === 'getBuiltinModule') {
      found.push(literal(node.arguments[0]));
      for (const argument of node.arguments) visit(argument);
      return;
    } else if (isNewExpression(node) && isIdentifier(node.expression)) {
      const [first, base] = node.arguments ?? [];
      const path = literal(first);
      const isHere = base !== undefined && isPropertyAccessExpression(base) && isMetaProperty(base.expression);
      const isCode = path !== undefined && /\.[cm]?[jt]s$/.test(path);
      if (isCode && (node.expression.text === 'Worker' || (node.expression.text === 'URL' && isHere))) found.push(path);
    } else if (isIdentifier(node) && LOADERS.includes(node.text)) found.push(undefined);
    node.forEachChild(visit);
  };
  visit(source);
  return found;
}

/**
 * The groups of files that import each other, directly or not (Tarjan's strongly connected components).
 *
 * @param edges imported files by importing file
 * @returns each group sorted, and the groups by their first file
 */
function circles(edges: ReadonlyMap<string, readonly string[]>): readonly (readonly string[])[] {
  const index = new Map<string, number>();
  const lowest = new Map<string, number>();
  const stack: string[] = [];
  const found: (readonly string[])[] = [];
  const visit = (file: string): void => {
    index.set(file, index.size);
    lowest.set(file, index.get(file)!);
    stack.push(file);
    for (const target of edges.get(file) ?? []) {
      if (!index.has(target)) visit(target);
      if (stack.includes(target)) lowest.set(file, Math.min(lowest.get(file)!, lowest.get(target)!));
    }
    if (lowest.get(file) !== index.get(file)) return;
    const group = stack.splice(stack.indexOf(file));
    if (group.length > 1 || edges.get(file)?.includes(file)) found.push(group.sort());
  };
  for (const file of edges.keys()) if (!index.has(file)) visit(file);
  return found.sort((a, b) => (a[0]! < b[0]! ? -1 : 1));
}

/**
 * Names that a file exports and that nothing under src uses, that file included. Tests are no users: what only they use lies in test/support.
 *
 * @param isPublic files all of whose names other programs may import
 */
function unused(files: ReadonlyMap<string, SourceFile>, isPublic: (file: string) => boolean): readonly string[] {
  const read = [...files].map(([file, source]) => {
    const words = new Map<string, number>();
    const visit = (node: Node): void => {
      if (isIdentifier(node)) words.set(node.text, (words.get(node.text) ?? 0) + 1);
      node.forEachChild(visit);
    };
    visit(source);
    const loads = imports(source).map((specifier) => posix.join(posix.dirname(file), specifier ?? ''));
    return {file, source, words, loads};
  });
  return read
    .filter(({file}) => !isPublic(file))
    .flatMap(({file, source, words}) =>
      exportedNames(source)
        .filter((name) => words.get(name) === 1 && !read.some((other) => other.loads.includes(file) && other.words.has(name)))
        .map((name) => `${file}: ${name}`),
    );
}

/** Files of which a file exports all names. */
const exportsAll = (source: SourceFile, file: string): readonly string[] =>
  source.statements.flatMap((node) =>
    isExportDeclaration(node) && node.exportClause === undefined ? posix.join(posix.dirname(file), literal(node.moduleSpecifier)!) : [],
  );

/** Names that a file declares and exports, without its default. */
function exportedNames(source: SourceFile): readonly string[] {
  return source.statements.flatMap((node) => {
    const modifiers = 'modifiers' in node ? ((node.modifiers as readonly Node[] | undefined) ?? []).map(({kind}) => kind) : [];
    if (!modifiers.includes(SyntaxKind.ExportKeyword) || modifiers.includes(SyntaxKind.DefaultKeyword)) return [];
    const declarations = isVariableStatement(node) ? node.declarationList.declarations : [node as Node & {readonly name?: Node}];
    return declarations.flatMap(({name}) => (name !== undefined && isIdentifier(name) ? name.text : []));
  });
}

/** Parses a project. @returns source of each file under its src, by path such as `src/index.ts` */
function parse(root: string, fs?: FileSystem): {readonly files: ReadonlyMap<string, SourceFile>; readonly project: Project; close(): void} {
  const api = new API({cwd: root, ...(fs === undefined ? {} : {fs})});
  const project = api.updateSnapshot({openProjects: [join(root, 'tsconfig.json')]}).getProjects()[0]!;
  const names = project.program.getSourceFileNames().filter((name) => name.startsWith(join(root, 'src/')));
  return {
    files: new Map(names.sort().map((name) => [relative(root, name), project.program.getSourceFile(name)!])),
    project,
    close: () => api.close(),
  };
}

describe('the house', () => {
  const {files, project, close} = parse(ROOT);
  after(close);

  it('is read whole, and every file lies in a room', () => {
    const there = readdirSync(join(ROOT, 'src'), {recursive: true, withFileTypes: true}).filter((entry) => entry.isFile());
    const names = there.map((entry) => relative(ROOT, join(entry.parentPath, entry.name)));
    assert.deepEqual([...files.keys()], names.sort());
    assert.deepEqual(
      names.filter((file) => roomOf(file) === undefined),
      [],
    );
  });

  it('imports downwards only, and each outside package through its door', () => {
    const found = [...files].flatMap(([file, source]) =>
      imports(source).map((specifier) => ({file, specifier, objection: objection(file, specifier)})),
    );
    assert.deepEqual(
      found.filter((one) => one.objection !== undefined),
      [],
    );
    assert.ok(found.length > files.size, 'the reading found hardly any import');
  });

  it('has no circle of files, types included', () => {
    const edges = new Map(
      [...files].map(([file, source]) => [
        file,
        imports(source).flatMap((specifier) => (specifier?.startsWith('.') ? posix.join(posix.dirname(file), specifier) : [])),
      ]),
    );
    assert.deepEqual(circles(edges), []);
  });

  it('exports no name that nothing uses', () => {
    assert.deepEqual(
      unused(files, (file) => file === 'src/lib/errdefs.ts' || DOORS.some((door) => exportsAll(files.get(door)!, door).includes(file))),
      [],
    );
  });

  it('has a docstring for each name that other programs may import', () => {
    const {checker} = project;
    const names = [...DOORS, 'src/lib/errdefs.ts'].flatMap((door) =>
      checker.getExportsOfModule(checker.getSymbolAtLocation(files.get(door)!)!).map((exported) => {
        const symbol = exported.flags & SymbolFlags.Alias ? checker.getAliasedSymbol(exported) : exported;
        const hasDocs = checker.getDocumentationCommentOfSymbol(symbol) !== '' || checker.getJsDocTagsOfSymbol(symbol).length > 0;
        return {name: `${door}: ${exported.name}`, hasDocs};
      }),
    );
    assert.ok(names.length > 100);
    assert.deepEqual(
      names.filter(({hasDocs}) => !hasDocs).map(({name}) => name),
      [],
    );
  });

  it('has doors that only pass on what lib has', () => {
    for (const door of DOORS) {
      const others = files
        .get(door)!
        .statements.filter((node) => !isExportDeclaration(node) || !literal(node.moduleSpecifier)?.startsWith('./lib/'));
      assert.deepEqual(
        others.map((node) => node.getText(files.get(door)!)),
        [],
        door,
      );
    }
  });
});

describe('who names an image, or makes a container of one', () => {
  it("asks the namespace's policy: assertAllowed of client/signatures before, assertStill in the transaction", () => {
    const files = readdirSync(join(ROOT, 'src/lib/client'), {recursive: true, encoding: 'utf8'}).filter((file) => file.endsWith('.ts'));
    const naming = files
      .map((file) => ({file, text: readFileSync(join(ROOT, 'src/lib/client', file), 'utf8')}))
      // They change the record of a container that exists, and nothing that the policy is about.
      .filter(
        ({file, text}) => !['change-container.ts', 'tasks/checkpoint.ts'].includes(file) && /\b(?:images|containers)\.put\(/.test(text),
      );
    assert.ok(naming.length > 3, 'the search finds hardly anything');
    /** With what it imports from its own folder. */
    const whole = ({file, text}: {file: string; text: string}): string =>
      [
        text,
        ...[...text.matchAll(/from '\.\/([\w-]+\.ts)'/g)].map(([, name]) =>
          readFileSync(join(ROOT, 'src/lib/client', dirname(file), name!), 'utf8'),
        ),
      ].join();
    assert.deepEqual(
      naming
        .map((one) => ({...one, text: whole(one)}))
        .filter(({text}) => !/\bassertAllowed\(/.test(text) || !/\bassertStill\(/.test(text))
        .map(({file}) => file),
      [],
    );
  });
});

/** Where the machine's clock is asked, and what for. It may be set at any moment: how long something takes, or waits, is not its to say. */
const WALL_CLOCK: Readonly<Record<string, string>> = {
  'cli/value-parsers.ts': 'a time that is given as a duration before now',
  'commands/content/active.ts': 'ages of dates in a table',
  'commands/content/ls.ts': 'ages of dates in a table',
  'lib/client/api/host-mounts.ts': 'when a lease expires',
  'lib/client/api/leases.ts': 'when a lease expires',
  'lib/client/credentials/token-store.ts': 'what has expired',
  'lib/client/fsck/inspect-store.ts': 'what has expired, and ages of files',
  'lib/client/pull/content-leases.ts': 'when a lease expires',
  'lib/client/space/prune.ts': 'what has expired, and ages of records',
  'lib/fs/lock.ts': 'what processes tell each other: tickets, and times of files',
  'lib/fs/process.ts': 'names that sort by age',
  'lib/remotes/auth.ts': 'the end of a token that processes share',
  'lib/remotes/cool-downs.ts': 'the end of a cool-down that processes share',
  'lib/remotes/errors.ts': 'a date for people',
  'lib/remotes/retry.ts': 'a date in Retry-After',
  'lib/runtime/read-conmon-log.ts': 'the time until which a log is asked for',
  'lib/store/gc.ts': 'what has expired',
  'lib/store/journal.ts': 'ages of files',
  'lib/store/layer-store.ts': 'ages of files',
  'lib/store/store.ts': 'what has expired',
};

describe("the machine's clock", () => {
  it('is asked for dates, and not for durations', () => {
    const asking = readdirSync(join(ROOT, 'src'), {recursive: true, encoding: 'utf8'})
      .filter((file) => file.endsWith('.ts') && /\bDate\.now\b/.test(readFileSync(join(ROOT, 'src', file), 'utf8')))
      .sort();
    assert.deepEqual(asking, Object.keys(WALL_CLOCK).sort(), 'durations go by performance.now(); what is a date has a row here');
  });
});

describe('the rules', () => {
  const ROWS: readonly (readonly [file: string, specifier: string | undefined, objection: string | undefined])[] = [
    ['src/main.ts', './commands/index.ts', undefined],
    ['src/main.ts', './lib/store/store.ts', 'program must not know store'],
    ['src/commands/images/ls.ts', '../../cli/base-command.ts', undefined],
    ['src/commands/images/ls.ts', '../pull.ts', undefined],
    ['src/commands/pull.ts', '../index.ts', undefined],
    ['src/commands/pull.ts', '../lib/client/types/index.ts', undefined],
    ['src/commands/pull.ts', '../lib/errdefs.ts', undefined],
    ['src/commands/pull.ts', '../lib/store/records.ts', 'commands must not know store'],
    ['src/commands/pull.ts', '../main.ts', 'commands must not know program'],
    ['src/cli/base-command.ts', '../commands/pull.ts', 'cli must not know commands'],
    ['src/cli/base-command.ts', '../lib/oci/platform.ts', undefined],
    ['src/cli/base-command.ts', '../lib/remotes/index.ts', 'cli must not know remotes'],
    ['src/cli/base-command.ts', '../lib/fs/lock.ts', 'cli must not know fs'],
    ['src/index.ts', './lib/client/index.ts', undefined],
    ['src/index.ts', './cli/base-command.ts', 'door must not know cli'],
    ['src/lib/client/pull/pull.ts', '../../../index.ts', 'client must not know door'],
    ['src/lib/client/pull/pull.ts', '../../../cli/progress.ts', 'client must not know cli'],
    ['src/lib/client/pull/pull.ts', '../../archive/tar.ts', undefined],
    ['src/lib/client/pull/x.ts', '../workers/y.ts', undefined],
    ['src/lib/client/pull/x.ts', '../types/index.ts', undefined],
    ['src/lib/client/pull/x.ts', './y.ts', undefined],
    ['src/lib/client/pull/x.ts', '../run/y.ts', 'leads to a floor above'],
    ['src/lib/client/types/x.ts', '../api/y.ts', 'leads to a floor above'],
    ['src/lib/client/fsck/x.ts', '../index.ts', 'leads to a floor above'],
    ['src/lib/client/other/x.ts', 'node:fs', 'lies in no room'],
    ['src/lib/store/gc.ts', './sub/deep.ts', undefined],
    ['src/lib/store/gc.ts', '../client/types/index.ts', 'store must not know client'],
    ...(['store', 'remotes', 'archive', 'runtime'] as const).flatMap((from) =>
      (['store', 'remotes', 'archive', 'runtime'] as const).map(
        (to) => [`src/lib/${from}/x.ts`, `../${to}/y.ts`, from === to ? undefined : `${from} must not know ${to}`] as const,
      ),
    ),
    ['src/lib/store/gc.ts', '../fs/durable.ts', undefined],
    ['src/lib/oci/manifest.ts', '../errdefs.ts', undefined],
    ['src/lib/oci/manifest.ts', '../fs/durable.ts', 'oci must not know fs'],
    ['src/lib/fs/lock.ts', '../oci/descriptor.ts', 'fs must not know oci'],
    ['src/lib/errdefs.ts', './oci/descriptor.ts', 'base must not know oci'],
    ['src/lib/store/gc.ts', './layout', 'does not end in .ts'],
    ['src/lib/store/gc.ts', './layout.js', 'does not end in .ts'],
    ['src/lib/store/gc.ts', '.', 'does not end in .ts'],
    ['src/cli/build-info.ts', '../../package.json', undefined],
    ['src/lib/client/index.ts', '../../../package.json', 'does not end in .ts'],
    ['src/cli/build-info.ts', './table.json', 'does not end in .ts'],
    ['src/cli/build-info.ts', 'file:///etc/x.ts', 'leads out of the house'],
    ['src/cli/build-info.ts', '../../test/helpers.ts', 'leads out of the house'],
    ['src/cli/build-info.ts', '../lib/other.ts', 'leads out of the house'],
    ['src/cli/build-info.ts', '/etc/x.ts', 'leads out of the house'],
    ['src/lib/other.ts', 'node:fs', 'lies in no room'],
    ['src/lib/other/x.ts', 'node:fs', 'lies in no room'],
    ['src/other/x.ts', 'node:fs', 'lies in no room'],
    ['src/lib/oci/x.ts', undefined, 'loads what the text does not tell'],
    ['src/lib/oci/x.ts', 'node:fs/promises', undefined],
    ['src/lib/oci/x.ts', 'fs', 'fs has no door at all'],
    ['src/lib/oci/x.ts', 'node:nothing', 'node:nothing has no door at all'],
    ['src/lib/oci/x.ts', 'left-pad', 'left-pad has no door at all'],
    ['src/lib/oci/x.ts', '#internal', '#internal has no door at all'],
    ['src/lib/client/x.ts', 'bun:ffi', 'bun:ffi has no door at all'],
    ['src/lib/client/x.ts', 'undici', 'undici has no door in client'],
    ['src/lib/client/x.ts', 'undici/types/agent.d.ts', 'undici has no door in client'],
    ['src/lib/remotes/x.ts', 'undici/lib/dispatcher/agent.js', undefined],
    ['src/lib/client/x.ts', 'node:child_process', 'node:child_process has no door in client'],
    ['src/lib/client/x.ts', '@oclif/core/flags', '@oclif/core has no door in client'],
    ['src/cli/x.ts', '@oclif/core/flags', undefined],
    ['src/cli/x.ts', '@oclif/plugin-help', '@oclif/plugin-help has no door at all'],
    ['src/commands/x.ts', 'chalk', 'chalk has no door in commands'],
  ];
  for (const [file, specifier, expected] of ROWS)
    it(`${file} → ${specifier}: ${expected ?? 'may'}`, () => assert.equal(objection(file, specifier), expected));

  for (const [outside, rooms] of Object.entries(OUTSIDE))
    it(`${outside} comes in through ${rooms.join(' and ')} only`, () => {
      for (const room of Object.keys(MAY) as Room[]) {
        const file = {
          door: 'src/index.ts',
          program: 'src/main.ts',
          base: 'src/lib/errdefs.ts',
          cli: 'src/cli/x.ts',
          commands: 'src/commands/x.ts',
        };
        const at = room in file ? file[room as keyof typeof file] : `src/lib/${room}/x.ts`;
        assert.equal(objection(at, outside) === undefined, rooms.includes(room), room);
      }
    });
});

describe('circles', () => {
  const of = (edges: Readonly<Record<string, readonly string[]>>) => circles(new Map(Object.entries(edges)));

  it('are found, whatever their length, and shared files join them', () => {
    assert.deepEqual(of({a: ['b', 'x'], b: ['c'], c: ['a']}), [['a', 'b', 'c']]);
    assert.deepEqual(of({a: ['a']}), [['a']]);
    assert.deepEqual(of({a: ['b'], b: ['a', 'c'], c: ['b'], d: ['e'], e: ['d', 'a']}), [
      ['a', 'b', 'c'],
      ['d', 'e'],
    ]);
  });

  it('are not found where two paths lead to one file', () => {
    assert.deepEqual(of({a: ['b', 'c'], b: ['d'], c: ['d'], d: []}), []);
  });

  it('are found among random files as by following every path', () => {
    let state = 1;
    const below = (n: number): number => {
      state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
      return (state >>> 8) % n;
    };
    for (let round = 0; round < 200; round++) {
      const names = Array.from({length: 1 + below(7)}, (_, i) => `f${i}`);
      const edges = Object.fromEntries(names.map((name) => [name, names.filter(() => below(5) === 0)]));
      const reach = (from: string, seen = new Set<string>()): Set<string> => {
        for (const next of edges[from]!) if (!seen.has(next)) reach(next, seen.add(next));
        return seen;
      };
      const inCircle = names.filter((name) => reach(name).has(name));
      const groups = inCircle.map((name) => inCircle.filter((other) => reach(name).has(other) && reach(other).has(name)));
      const expected = [...new Set(groups.map((group) => group.join()))].sort().map((group) => group.split(','));
      assert.deepEqual(of(edges), expected, JSON.stringify(edges));
    }
  });
});

describe('the reading', () => {
  it('sees every way to load something, and nothing in comments and strings', () => {
    const text = `
      /* import 'comment' */ // import 'comment'
      const quoted = "import 'string'", pattern = /import 'regex'/, template = \`import 'template' \${import('in-template')}\`;
      import 'bare';
      import a, {type B} from 'default';
      import type {C} from 'type';
      import * as d from 'star';
      import e = require('equals');
      export * from 'reexport';
      export type {F} from 'type-reexport';
      export {a, quoted, pattern, template};
      export const g = await import('dynamic'), h = await import(\`dynamic-template\`);
      export const computed = await import(quoted + '.ts');
      export type I = import('import-type').J<typeof import('typeof')>;
      export type K = {l: Array<import('deep-type').M>};
      declare module 'augmented' { import type {N} from 'nested'; }
      export const worker = [new Worker('./worker.ts'), new Worker(new URL('./url.ts', import.meta.url))];
      export const data = new URL('./data.json', import.meta.url);
      export const builtin = process.getBuiltinModule('node:zlib'), hidden = process.getBuiltinModule(quoted);
      export const {getBuiltinModule} = process;
      export const required = require('cjs');
      export const made = (await import('node:module')).createRequire(import.meta.url)('made');
    `;
    const {files, close} = parse('/', createVirtualFileSystem({'/tsconfig.json': '{"include": ["src"]}', '/src/x.ts': text}));
    after(close);
    assert.deepEqual(imports(files.get('src/x.ts')!), [
      'in-template',
      'bare',
      'default',
      'type',
      'star',
      'equals',
      'reexport',
      'type-reexport',
      'dynamic',
      'dynamic-template',
      undefined,
      'import-type',
      'typeof',
      'deep-type',
      'augmented',
      'nested',
      './worker.ts',
      './url.ts',
      'node:zlib',
      undefined,
      undefined,
      undefined,
      'node:module',
      undefined,
    ]);
  });

  it('finds exported names that nothing uses', () => {
    const source = {
      '/src/a.ts': `export const used = 1, alone = 2; export function inside() {} inside(); export type Alone = 1; export class Shown {}
        export const late = 3, elsewhere = 4; /** alone, Alone */ export const text = 'alone Alone';`,
      '/src/b.ts': `import {used} from './a.ts'; export * from './c.ts'; const {late} = await import('./a.ts'); export {Shown} from './a.ts'; use(used, late);`,
      '/src/c.ts': 'export const elsewhere = 5; export const shown = 6;',
    };
    const {files, close} = parse('/', createVirtualFileSystem({'/tsconfig.json': '{"include": ["src"]}', ...source}));
    after(close);
    assert.deepEqual(exportsAll(files.get('src/b.ts')!, 'src/b.ts'), ['src/c.ts']);
    assert.deepEqual(
      unused(files, (file) => file === 'src/c.ts'),
      ['alone', 'Alone', 'elsewhere', 'text'].map((name) => `src/a.ts: ${name}`),
    );
  });
});
