/**
 * Builds all parts, or some, into dist/: `npm run build [-- PART…]`
 *
 *     node    dist/node: JavaScript for Node: the program, the library's entry points, the worker thread
 *     types   dist/types: the library's declarations
 *     exe     dist/berth-<target>: the program as one executable for this machine, compiled by Bun from dist/node, which is built first
 *     all-exe the same for every target of targets.ts
 *     npm     dist/npm/<package>: the published packages: the library and program, which names the executables as optional, and those
 *             executables that were built from this dist/node
 */
import {execFileSync} from 'node:child_process';
import {copyFileSync, cpSync, existsSync, linkSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync} from 'node:fs';
import {dirname, join, relative} from 'node:path';
import {type BuildOptions, build, type Metafile, type Plugin} from 'esbuild';
import {COMMANDS} from '../src/commands/index.ts';
import {type Part, partsOf} from './build-order.ts';
import {compileExecutable, WORKER} from './compile-executable.ts';
import {namedBuiltins, sharedCore, slimUndici, withoutPatches} from './esbuild-plugins.ts';
import {executableOf, ownTarget, TARGETS, type Target} from './targets.ts';

const root = join(import.meta.dirname, '..');
const own = ownTarget();
const dist = join(root, 'dist');
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Record<string, unknown> & {
  name: string;
  version: string;
  files: string[];
};

const executablePackage = ({name}: Target): string => `${manifest.name}-${name}`;

/** The commit of the checkout, if this is one. */
function revision(): string | undefined {
  try {
    return execFileSync('git', ['rev-parse', 'HEAD'], {cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore']}).trim();
  } catch {
    return undefined;
  }
}

/** `require` in the bundle: only Node's own modules are left to load. */
const REQUIRE = `const require = (id) => {
  const found = process.getBuiltinModule(id);
  if (found === undefined) throw Object.assign(new Error(\`Cannot find module '\${id}'\`), {code: 'MODULE_NOT_FOUND'});
  return found;
};`.replace(/\s+/g, ' ');

const COMMON = {
  absWorkingDir: root,
  bundle: true,
  platform: 'node',
  target: 'node22',
  // Identifiers are kept, so that stacks can be read.
  minifySyntax: true,
  minifyWhitespace: true,
  legalComments: 'none',
  logLevel: 'warning',
} as const satisfies BuildOptions;

/** The worker as the text of one script, for programs that bundle the library: they do not find files beside it. */
const workerCode: Plugin = {
  name: 'worker-code',
  setup({onResolve, onLoad}) {
    onResolve({filter: /^berth:worker-code$/}, ({path}) => ({path, namespace: 'worker-code'}));
    onLoad({filter: /.*/, namespace: 'worker-code'}, async () => {
      const plugins = [namedBuiltins, withoutPatches];
      const {outputFiles} = await build({
        ...COMMON,
        entryPoints: ['src/lib/client/workers/thread.ts'],
        format: 'cjs',
        write: false,
        plugins,
      });
      return {contents: outputFiles[0]!.text, loader: 'text'};
    });
  },
};

async function summaries(): Promise<Record<string, string>> {
  const entries = Object.entries(COMMANDS.commands).map(async ([id, load]) => [id, (await load()).default.summary] as const);
  return Object.fromEntries(await Promise.all(entries));
}

/** What every command line loads. */
const CLI_CORE = ['base-command.ts', 'run-command-line.ts'].map((name) => join(root, 'src/cli', name));

/** What each command loads that starts containers, or looks at those that run: a listing of tasks loads 130 kB more for it, and as long. */
const RUN_CORE = ['client/index.ts', 'client/run/run.ts', 'runtime/foreground-run.ts'].map((name) => join(root, 'src/lib', name));

async function buildNode(): Promise<void> {
  const outdir = join(dist, 'node');
  const built = `${outdir}.new`;
  rmSync(built, {recursive: true, force: true});
  const {metafile} = await build({
    ...COMMON,
    entryPoints: {
      main: 'src/main.ts',
      index: 'src/index.ts',
      errdefs: 'src/lib/errdefs.ts',
      oci: 'src/oci.ts',
      [WORKER]: 'src/lib/client/workers/thread.ts',
    },
    outdir: built,
    splitting: true,
    format: 'esm',
    metafile: true,
    banner: {js: REQUIRE},
    define: {
      // Bun writes this machine's path in its place, which nobody else has. oclif finds nothing there.
      __dirname: 'undefined',
      BERTH_WORKER: JSON.stringify(`./${WORKER}.js`),
      BERTH_BUILD: JSON.stringify({version: manifest.version, revision: revision()}),
      BERTH_SUMMARIES: JSON.stringify(await summaries()),
    },
    plugins: [
      namedBuiltins,
      withoutPatches,
      slimUndici,
      workerCode,
      sharedCore(join(root, 'src'), {
        // Of two starts without root the first loads little else; with this module a listing has one file less.
        [join(root, 'src/lib/client/enter-user-namespace.ts')]: [join(root, 'src/lib/oci/manifest.ts')],
        ...Object.fromEntries(['client/run', 'client/tasks', 'runtime'].map((name) => [join(root, 'src/lib', name), RUN_CORE])),
        [join(root, 'src/lib')]: [join(root, 'src/lib/client/index.ts')],
        [join(root, 'src/cli')]: CLI_CORE,
        [join(root, 'src/commands')]: CLI_CORE,
      }),
    ],
  });
  writeFileSync(join(built, 'THIRD-PARTY'), thirdParty(metafile));
  rmSync(outdir, {recursive: true, force: true});
  // Executables of other code.
  for (const target of TARGETS) if (target.name !== own.name) rmSync(join(dist, executableOf(target)), {force: true});
  renameSync(built, outdir);
}

/** Licences of the bundled packages, which must be distributed with them. */
function thirdParty(metafile: Metafile): string {
  const packages = new Set(
    Object.keys(metafile.inputs).flatMap((path) => /^(?:[^:]*\/)?node_modules\/(?:@[^/]+\/)?[^/]+/.exec(path)?.[0] ?? []),
  );
  return [...packages]
    .sort()
    .map((path) => {
      const {name, version, license} = JSON.parse(readFileSync(join(root, path, 'package.json'), 'utf8'));
      const file = readdirSync(join(root, path)).find((candidate) => /^licen[cs]e\b/i.test(candidate));
      return `${name} ${version}: ${license}\n\n${file === undefined ? '' : readFileSync(join(root, path, file), 'utf8').trim()}\n`;
    })
    .join(`\n${'-'.repeat(80)}\n\n`);
}

function buildTypes(): void {
  rmSync(join(dist, 'types'), {recursive: true, force: true});
  execFileSync(join(root, 'node_modules/.bin/tsc'), ['-p', join(root, 'scripts/tsconfig.types.json')], {stdio: 'inherit'});
}

const buildExecutable = (target: Target): void => compileExecutable(target, join(dist, executableOf(target)));

/** Makes the directories for `npm pack` and `npm publish`. */
function stage(): void {
  const staged = join(dist, 'npm');
  rmSync(staged, {recursive: true, force: true});
  const built = TARGETS.filter((target) => existsSync(join(dist, executableOf(target))));
  // Dependencies are bundled.
  const {scripts: _scripts, dependencies: _bundled, devDependencies: _tools, workspaces: _workspaces, ...published} = manifest;
  const packages = {
    [manifest.name]: {
      files: [...manifest.files, 'README.md', 'LICENSE'].filter((path) => existsSync(join(root, path))),
      manifest: {
        ...published,
        optionalDependencies: Object.fromEntries(TARGETS.map((target) => [executablePackage(target), manifest.version])),
      },
    },
    ...Object.fromEntries(
      built.map((target) => [
        executablePackage(target),
        {
          files: [],
          manifest: {
            name: executablePackage(target),
            version: manifest.version,
            description: `berth as one executable for linux on ${target.cpu} with ${target.libc}`,
            license: manifest.license,
            os: ['linux'],
            cpu: [target.cpu],
            libc: [target.libc],
            files: ['bin/berth', 'THIRD-PARTY'],
          },
        },
      ]),
    ),
  };
  for (const [name, {files, manifest: content}] of Object.entries(packages)) {
    for (const path of files) cpSync(join(root, path), join(staged, name, path), {recursive: true});
    mkdirSync(join(staged, name), {recursive: true});
    writeFileSync(join(staged, name, 'package.json'), `${JSON.stringify(content, null, 2)}\n`);
  }
  for (const target of built) {
    const binary = join(staged, executablePackage(target), 'bin/berth');
    mkdirSync(dirname(binary), {recursive: true});
    linkSync(join(dist, executableOf(target)), binary);
    copyFileSync(join(dist, 'node/THIRD-PARTY'), join(staged, executablePackage(target), 'THIRD-PARTY'));
  }
}

const MAKE: Readonly<Record<Part, () => void | Promise<void>>> = {
  node: buildNode,
  types: buildTypes,
  exe: () => buildExecutable(own),
  'all-exe': () => TARGETS.forEach(buildExecutable),
  npm: stage,
};

for (const part of partsOf(process.argv.slice(2))) {
  const start = performance.now();
  await MAKE[part]();
  process.stdout.write(`built ${part} in ${Math.round(performance.now() - start)} ms: ${relative(root, dist)}/\n`);
}
