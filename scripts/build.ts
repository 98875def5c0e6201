/**
 * Builds into dist/, by `npm run build [-- PART…]`, all parts or some of:
 *
 *     node    dist/node: JavaScript for Node: the program, the library's doors, the worker thread
 *     types   dist/types: the library's declarations
 *     exe     dist/berth-linux-<cpu>: the program as one executable, compiled by Bun from dist/node, which is built first
 *     npm     dist/npm/<package>: what is published: the package, and one for the executable that it names as optional
 */
import {execFileSync} from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import {dirname, join, relative} from 'node:path';
import {type BuildOptions, build, type Metafile, type Plugin} from 'esbuild';
import {lazyOclif, sparingBuiltins} from './lazy.ts';
import {type Part, partsOf} from './parts.ts';

const root = join(import.meta.dirname, '..');
const dist = join(root, 'dist');
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Record<string, unknown> & {
  name: string;
  version: string;
  files: string[];
};

/** CPUs as Node calls them, and the Bun that compiles for each. */
const BUNS: Readonly<Record<string, string>> = {x64: '@oven/bun-linux-x64', arm64: '@oven/bun-linux-aarch64'};
const executable = `berth-linux-${process.arch}`;
/** The package of the executable for a CPU. */
const executablePackage = (cpu: string): string => `${manifest.name}-linux-${cpu}`;

/** Commit that is being built, when it is built from a checkout. */
function revision(): string | undefined {
  try {
    return execFileSync('git', ['rev-parse', 'HEAD'], {cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore']}).trim();
  } catch {
    return undefined;
  }
}

/** What is left of `require` after bundling asks for Node's own modules only. */
const REQUIRE = `const require = (id) => {
  const found = process.getBuiltinModule(id);
  if (found === undefined) throw Object.assign(new Error(\`Cannot find module '\${id}'\`), {code: 'MODULE_NOT_FOUND'});
  return found;
};`.replace(/\s+/g, ' ');

const WORKER = 'berth-worker';

const COMMON = {
  absWorkingDir: root,
  bundle: true,
  platform: 'node',
  target: 'node22',
  // Names stay, so that stacks can be read.
  minifySyntax: true,
  minifyWhitespace: true,
  legalComments: 'none',
  logLevel: 'warning',
} as const satisfies BuildOptions;

/**
 * proper-lockfile without what changes the program that it is part of. It is given its file system, so that the one which it loads for
 * others (graceful-fs, which patches node:fs, and costs every change 2 ms) is not needed; and it only wants to know of an
 * exit, for which signal-exit replaces process.emit and process.reallyExit.
 */
const unpatched: Plugin = {
  name: 'unpatched',
  setup({onResolve, onLoad}) {
    onResolve({filter: /^graceful-fs$/}, () => ({path: 'node:fs', external: true}));
    onResolve({filter: /^signal-exit$/}, ({path}) => ({path, namespace: 'unpatched'}));
    onLoad({filter: /.*/, namespace: 'unpatched'}, () => ({contents: `module.exports = (fn) => process.on('exit', () => fn());`}));
  },
};

/** The worker as one script, for programs that bundle the library: files beside it are not found there. */
const workerCode: Plugin = {
  name: 'worker-code',
  setup({onResolve, onLoad}) {
    onResolve({filter: /^berth:worker-code$/}, ({path}) => ({path, namespace: 'worker-code'}));
    onLoad({filter: /.*/, namespace: 'worker-code'}, async () => {
      const plugins = [sparingBuiltins, unpatched];
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
      // The name is ours alone: in a program that bundles the library another file may lie where this one is looked for.
      [WORKER]: 'src/lib/client/workers/thread.ts',
    },
    outdir: built,
    splitting: true,
    format: 'esm',
    metafile: true,
    banner: {js: REQUIRE},
    define: {
      BERTH_WORKER: JSON.stringify(`./${WORKER}.js`),
      BERTH_BUILD: JSON.stringify({version: manifest.version, revision: revision()}),
    },
    plugins: [lazyOclif, sparingBuiltins, unpatched, workerCode],
  });
  writeFileSync(join(built, 'THIRD-PARTY'), thirdParty(metafile));
  rmSync(outdir, {recursive: true, force: true});
  renameSync(built, outdir);
}

/** The licences of what is bundled, which all of them ask to be kept. */
function thirdParty(metafile: Metafile): string {
  const packages = new Set(
    Object.keys(metafile.inputs).flatMap((path) => /^(?:.*\/)?node_modules\/(?:@[^/]+\/)?[^/]+/.exec(path)?.[0] ?? []),
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

function buildExecutable(): void {
  const bun = BUNS[process.arch];
  if (bun === undefined) throw new Error(`there is no Bun for ${process.arch}`);
  const outfile = join(dist, executable);
  execFileSync(
    join(root, 'node_modules', bun, 'bin/bun'),
    [
      ...['build', '--compile', '--splitting', '--minify', '--bytecode', '--format=esm'],
      // In one piece all of it would be read at start, and every module of Bun that any of it imports.
      // A directory's files must not decide what the command does in it.
      ...['--no-compile-autoload-dotenv', '--no-compile-autoload-bunfig'],
      ...[join(dist, 'node/main.js'), join(dist, `node/${WORKER}.js`)],
      ...['--outfile', outfile],
    ],
    {stdio: ['ignore', 'ignore', 'inherit']},
  );
  chmodSync(outfile, 0o755);
}

/** Directories that `npm pack` and `npm publish` take as they are. */
function stage(): void {
  const staged = join(dist, 'npm');
  rmSync(staged, {recursive: true, force: true});
  // Everything is bundled, so the published package needs no other.
  const {scripts: _scripts, dependencies: _bundled, devDependencies: _tools, workspaces: _workspaces, ...published} = manifest;
  const packages = {
    [manifest.name]: {
      files: [...manifest.files, 'README.md', 'LICENSE'].filter((path) => existsSync(join(root, path))),
      manifest: {
        ...published,
        optionalDependencies: Object.fromEntries(Object.keys(BUNS).map((cpu) => [executablePackage(cpu), manifest.version])),
      },
    },
    [executablePackage(process.arch)]: {
      files: [],
      manifest: {
        name: executablePackage(process.arch),
        version: manifest.version,
        description: `berth as one executable for linux on ${process.arch}`,
        license: manifest.license,
        os: ['linux'],
        cpu: [process.arch],
        libc: ['glibc'],
        files: ['bin/berth', 'THIRD-PARTY'],
      },
    },
  };
  for (const [name, {files, manifest: content}] of Object.entries(packages)) {
    for (const path of files) cpSync(join(root, path), join(staged, name, path), {recursive: true});
    mkdirSync(join(staged, name), {recursive: true});
    writeFileSync(join(staged, name, 'package.json'), `${JSON.stringify(content, null, 2)}\n`);
  }
  const binary = join(staged, executablePackage(process.arch), 'bin/berth');
  mkdirSync(dirname(binary), {recursive: true});
  linkSync(join(dist, executable), binary);
  copyFileSync(join(dist, 'node/THIRD-PARTY'), join(staged, executablePackage(process.arch), 'THIRD-PARTY'));
}

const MAKE: Readonly<Record<Part, () => void | Promise<void>>> = {node: buildNode, types: buildTypes, exe: buildExecutable, npm: stage};

for (const part of partsOf(process.argv.slice(2))) {
  const start = performance.now();
  await MAKE[part]();
  process.stdout.write(`built ${part} in ${Math.round(performance.now() - start)} ms: ${relative(root, dist)}/\n`);
}
