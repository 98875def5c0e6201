/**
 * Builds into dist/, by `npm run build [-- PART…]`, all parts or some of:
 *
 *     node    dist/node: JavaScript for Node: the program, the library's doors, the worker thread
 *     types   dist/types: the library's declarations
 *     exe     dist/berth-linux-<cpu>: the program as one executable, compiled by Bun from dist/node
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
import {build, type Metafile} from 'esbuild';
import {lazyOclif, sparingBuiltins} from './lazy.ts';

const root = join(import.meta.dirname, '..');
const dist = join(root, 'dist');
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Record<string, unknown> & {
  version: string;
  files: string[];
};

/** CPUs as Node calls them, and the Bun that compiles for each. */
const BUNS: Readonly<Record<string, string>> = {x64: '@oven/bun-linux-x64', arm64: '@oven/bun-linux-aarch64'};
const executable = `berth-linux-${process.arch}`;

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

async function buildNode(): Promise<void> {
  const outdir = join(dist, 'node');
  const built = `${outdir}.new`;
  rmSync(built, {recursive: true, force: true});
  const {metafile} = await build({
    absWorkingDir: root,
    entryPoints: {
      main: 'src/main.ts',
      index: 'src/index.ts',
      errdefs: 'src/lib/errdefs.ts',
      oci: 'src/oci.ts',
      worker: 'src/lib/client/worker.ts',
    },
    outdir: built,
    bundle: true,
    splitting: true,
    platform: 'node',
    format: 'esm',
    target: 'node22',
    // Names stay, so that stacks can be read.
    minifySyntax: true,
    minifyWhitespace: true,
    legalComments: 'none',
    metafile: true,
    banner: {js: REQUIRE},
    define: {BERTH_WORKER: '"./worker.js"', BERTH_BUILD: JSON.stringify({version: manifest.version, revision: revision()})},
    // proper-lockfile is given its file system; that it loads another one, patched, costs every change 2 ms.
    alias: {'graceful-fs': 'node:fs'},
    plugins: [lazyOclif, sparingBuiltins],
    logLevel: 'warning',
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
      ...[join(dist, 'node/main.js'), join(dist, 'node/worker.js')],
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
    berth: {
      files: [...manifest.files, 'README.md', 'LICENSE'].filter((path) => existsSync(join(root, path))),
      manifest: {
        ...published,
        optionalDependencies: Object.fromEntries(Object.keys(BUNS).map((cpu) => [`berth-linux-${cpu}`, manifest.version])),
      },
    },
    [executable]: {
      files: [],
      manifest: {
        name: executable,
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
  const binary = join(staged, executable, 'bin/berth');
  mkdirSync(dirname(binary), {recursive: true});
  linkSync(join(dist, executable), binary);
  copyFileSync(join(dist, 'node/THIRD-PARTY'), join(staged, executable, 'THIRD-PARTY'));
}

const PARTS: Readonly<Record<string, () => void | Promise<void>>> = {node: buildNode, types: buildTypes, exe: buildExecutable, npm: stage};

const asked = process.argv.slice(2);
const unknown = asked.filter((part) => !Object.hasOwn(PARTS, part));
if (unknown.length > 0) throw new Error(`unknown part ${unknown.join(', ')}; there are ${Object.keys(PARTS).join(', ')}`);
for (const part of asked.length === 0 ? Object.keys(PARTS) : asked) {
  const start = performance.now();
  await PARTS[part]!();
  process.stdout.write(`built ${part} in ${Math.round(performance.now() - start)} ms: ${relative(root, dist)}/\n`);
}
