/** What is published works where nothing else is: without the checkout, without the network, the executable even without Node. */
import assert from 'node:assert/strict';
import {randomBytes} from 'node:crypto';
import {cpSync, existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {after, before, describe, it} from 'node:test';
import {build} from 'esbuild';
import {partsOf} from '../../scripts/build-order.ts';
import {ownTarget, TARGETS} from '../../scripts/targets.ts';
import {digestOf, startFakeRegistry} from '../fakes/registry.ts';
import {findProgram, requiresProgram, temporaryDirectory} from '../support/helpers.ts';
import {ARCHITECTURE} from '../support/layouts.ts';
import {file, tar} from '../support/tartest.ts';
import {executable, type Result, root, run} from './harness.ts';

const NAME = 'berth-oci';
const exeName = `${NAME}-${ownTarget().name}`;

async function must(program: string, args: readonly string[], options: Parameters<typeof run>[2]): Promise<Result> {
  const result = await run(program, args, {timeoutMs: 180_000, ...options});
  assert.equal(result.status, 0, `${program} ${args.join(' ')}: ${result.stderr}`);
  return result;
}

/** A PATH with only these programs on it. */
function path(dir: string, programs: Readonly<Record<string, string>>): string {
  mkdirSync(dir, {recursive: true});
  for (const [name, target] of Object.entries(programs)) symlinkSync(target, join(dir, name));
  return dir;
}

/** A program that pulls by the library. */
const CALLER = `import {openClient} from 'berth-oci';
async function main() {
  const [, , dir, ref, unpack] = process.argv;
  const client = openClient({root: dir + '/root', state: dir + '/state'});
  const {image} = await client.namespace('foo').pull(ref, {unpack: unpack === 'true', snapshotter: 'native'});
  await client.close();
  console.log(JSON.stringify(image));
}
void main();
`;

/** A program that uses the library, and prints what is not as it was before. */
const HOST = `import events from 'node:events';
import fs from 'node:fs';

const seen = () => {
  const found = new Map();
  const objects = {fs, promises: fs.promises, process, globalThis, emitter: events.EventEmitter.prototype, Promise, Array, Object, Error};
  for (const [name, object] of Object.entries(objects))
    for (const key of Reflect.ownKeys(object)) {
      const {value, get, set} = Object.getOwnPropertyDescriptor(object, key);
      found.set(name + '.' + String(key), typeof value === 'object' || typeof value === 'function' || value === undefined ? [value, get, set] : []);
    }
  for (const event of process.eventNames()) found.set('listeners of ' + String(event), process.listeners(event));
  return found;
};
// What is made when it is first read is read before.
for (const object of [fs, fs.promises, process, globalThis]) for (const key of Reflect.ownKeys(object)) try { object[key]; } catch {}
const before = seen();
const {openClient} = await import('berth-oci');
const client = openClient({root: process.argv[2] + '/root', state: process.argv[2] + '/state'});
await client.namespaces.create('foo', {a: 'b'});
await client.namespace('foo').pull(process.argv[3], {unpack: false});
await client.close();
const after = seen();
const same = (a, b) => a !== undefined && b !== undefined && a.length === b.length && a.every((value, i) => value === b[i]);
console.log(JSON.stringify([...new Set([...before.keys(), ...after.keys()])].filter((key) => !same(before.get(key), after.get(key)))));
`;

describe('package', () => {
  const dir = temporaryDirectory({after});
  const npmEnv = {
    // npm looks for Node on PATH.
    PATH: `${dirname(process.execPath)}:${process.env.PATH}`,
    npm_config_cache: join(dir, 'npm-cache'),
    npm_config_offline: 'true',
    npm_config_audit: 'false',
    npm_config_fund: 'false',
    npm_config_update_notifier: 'false',
  };
  let tarball: string;

  before(async () => {
    if (findProgram('npm') === undefined) return;
    const {stdout} = await must('npm', ['pack', '--json', join(root, 'dist/npm', NAME)], {cwd: dir, env: npmEnv});
    tarball = join(dir, JSON.parse(stdout)[0].filename);
  });

  const install = async (prefix: string): Promise<string> => {
    mkdirSync(prefix, {recursive: true});
    await must('npm', ['install', '--global', '--omit=optional', '--prefix', prefix, tarball], {cwd: prefix, env: npmEnv});
    return join(prefix, 'lib/node_modules');
  };
  const store = (name: string): Record<string, string> => ({BERTH_ROOT: join(dir, name, 'root'), BERTH_STATE: join(dir, name, 'state')});

  it('installed into an empty prefix runs on the Node of PATH', async (t) => {
    if (!requiresProgram(t, 'npm')) return;
    const prefix = join(dir, 'with-node');
    const modules = await install(prefix);
    assert.deepEqual(readdirSync(modules), [NAME]);
    assert.ok(!readdirSync(join(modules, NAME)).includes('node_modules'), 'it brings no other package along');
    const env = {...store('with-node'), PATH: path(join(dir, 'path-node'), {node: process.execPath, readlink: findProgram('readlink')!})};
    for (const name of ['ctr', 'dist', 'berth']) {
      const {stdout} = await must(join(prefix, 'bin', name), ['version'], {cwd: dir, env});
      assert.match(stdout, /Engine: +node /);
    }
    await must(join(prefix, 'bin/ctr'), ['namespaces', 'create', 'foo', 'a=b'], {cwd: dir, env});
    assert.equal((await must(join(prefix, 'bin/ctr'), ['ns', 'ls'], {cwd: dir, env})).stdout, 'NAME LABELS\nfoo  a=b\n');
  });

  it('with the executable beside it needs no Node', async (t) => {
    if (!requiresProgram(t, 'npm')) return;
    const prefix = join(dir, 'with-executable');
    const modules = await install(prefix);
    // As npm would: packing and unpacking its 110 MB takes longer than all the rest.
    cpSync(join(root, 'dist/npm', exeName), join(modules, exeName), {recursive: true});
    const env = {...store('with-executable'), PATH: path(join(dir, 'path-readlink'), {readlink: findProgram('readlink')!})};
    const {stdout} = await must(join(prefix, 'bin/dist'), ['version'], {cwd: dir, env});
    assert.match(stdout, /Engine: +bun /);
  });

  it('is built from what is there now: no part without those that it is made from', () => {
    assert.deepEqual(partsOf(['exe']), ['node', 'exe']);
    assert.deepEqual(partsOf(['npm']), ['node', 'types', 'exe', 'npm']);
    assert.deepEqual(partsOf(['all-exe']), ['node', 'all-exe']);
    assert.deepEqual(partsOf([]), ['node', 'types', 'exe', 'npm']);
    assert.throws(() => partsOf(['nope']), /unknown part nope/);
  });

  it('names the executables as optional, of its own version', () => {
    const manifest = JSON.parse(readFileSync(join(root, 'dist/npm', NAME, 'package.json'), 'utf8'));
    assert.deepEqual(
      manifest.optionalDependencies,
      Object.fromEntries(TARGETS.map((target) => [`${NAME}-${target.name}`, manifest.version])),
    );
    const optional = JSON.parse(readFileSync(join(root, 'dist/npm', exeName, 'package.json'), 'utf8'));
    assert.equal(optional.version, manifest.version);
    assert.deepEqual([optional.os, optional.cpu, optional.libc], [['linux'], [process.arch], [ownTarget().libc]]);
    for (const file of optional.files) assert.ok(existsSync(join(root, 'dist/npm', exeName, file)), file);
    assert.equal(manifest.dependencies, undefined);
    // Its types are in those of the library.
    assert.deepEqual(
      [manifest.peerDependencies, manifest.peerDependenciesMeta],
      [{'@types/node': '>=22'}, {'@types/node': {optional: true}}],
    );
  });

  it('has no path of the machine that built it', () => {
    const built = join(root, 'dist/node');
    for (const path of [executable, ...readdirSync(built).map((name) => join(built, name))])
      assert.ok(!readFileSync(path).includes(root), path);
  });

  it('carries the licences of what is bundled', () => {
    const entries = readFileSync(join(root, 'dist/npm', NAME, 'dist/node/THIRD-PARTY'), 'utf8').split(`${'-'.repeat(80)}\n\n`);
    for (const entry of entries) assert.match(entry, /^\S+ \d+\.\d+\.\d+\S*: \S+\n\n\S/);
    for (const name of ['@oclif/core', 'undici', 'proper-lockfile', 'chalk', 'cli-progress'])
      assert.ok(
        entries.some((entry) => entry.startsWith(`${name} `)),
        name,
      );
  });

  it('is a library with types, without the command line in it', async (t) => {
    if (!requiresProgram(t, 'npm')) return;
    const project = join(dir, 'project');
    mkdirSync(project);
    writeFileSync(join(project, 'package.json'), '{"type": "module", "private": true}\n');
    await must('npm', ['install', '--omit=optional', tarball], {cwd: project, env: npmEnv});
    writeFileSync(
      join(project, 'use.ts'),
      `import {openClient, type Client, type ImageRecord} from 'berth-oci';
import {ErrdefsError, exitStatus} from 'berth-oci/errdefs';
import {parseReference} from 'berth-oci/oci';

const client: Client = openClient({root: ${JSON.stringify(join(project, 'root'))}, state: ${JSON.stringify(join(project, 'state'))}});
await client.namespaces.create('foo', {a: 'b'});
const images: readonly ImageRecord[] = await client.namespace('foo').images.list();
const status: number = exitStatus(new ErrdefsError('not_found', 'x'));
await client.close();
console.log(JSON.stringify({images, status, reference: String(parseReference('redis') !== undefined)}));
`,
    );
    const {stdout} = await must(process.execPath, [join(project, 'use.ts')], {
      cwd: project,
      env: {NODE_V8_COVERAGE: join(project, 'coverage')},
    });
    assert.deepEqual(JSON.parse(stdout), {images: [], status: 5, reference: 'true'});
    const coverage = readdirSync(join(project, 'coverage')).map((name) => readFileSync(join(project, 'coverage', name), 'utf8'));
    assert.ok(coverage.some((text) => text.includes('/berth-oci/dist/node/index.js')));
    for (const text of coverage) assert.doesNotMatch(text, /oclif/);

    const tsc = [join(root, 'node_modules/.bin/tsc'), '--noEmit', '--strict', '--module', 'nodenext', '--target', 'es2024'];
    await must(
      process.execPath,
      [...tsc, '--ignoreConfig', '--types', 'node', '--typeRoots', join(root, 'node_modules/@types'), 'use.ts'],
      {cwd: project},
    );
  });

  for (const format of ['esm', 'cjs'] as const)
    it(`is found whole where a program bundles it, as ${format}`, async (t) => {
      if (!requiresProgram(t, 'npm')) return;
      const registry = await startFakeRegistry(t);
      const layer = tar(file('x', randomBytes(300_000)));
      registry.addImage('app', 'latest', [layer], {
        architecture: ARCHITECTURE,
        os: 'linux',
        rootfs: {type: 'layers', diff_ids: [digestOf(layer)]},
      });
      const caller = join(dir, 'project/caller.ts');
      writeFileSync(caller, CALLER);
      const alone = join(dir, `bundled-${format}`);
      const outfile = join(alone, format === 'esm' ? 'caller.mjs' : 'caller.cjs');
      await build({
        entryPoints: [caller],
        bundle: true,
        platform: 'node',
        format,
        outfile,
        logLevel: 'error',
        logOverride: {'empty-import-meta': 'silent'},
      });
      // Not ours, though it lies beside the bundle.
      writeFileSync(join(alone, 'worker.js'), 'throw new Error("not this one");');
      const {stdout} = await must(
        process.execPath,
        [outfile, join(alone, 'store'), `${registry.host}/app:latest`, String(process.getuid?.() === 0)],
        {
          cwd: alone,
        },
      );
      assert.equal(JSON.parse(stdout).name, `${registry.host}/app:latest`);
    });

  it('patches nothing of the program that it is part of: neither node:fs nor process, nor what is global', async (t) => {
    if (!requiresProgram(t, 'npm')) return;
    const registry = await startFakeRegistry(t);
    const layer = Buffer.alloc(100_000, 'x');
    const config = {architecture: ARCHITECTURE, os: 'linux', rootfs: {type: 'layers', diff_ids: [digestOf(layer)]}};
    registry.addImage('app', 'latest', [layer], config);
    writeFileSync(join(dir, 'project/host.ts'), HOST);
    const args = [join(dir, 'project/host.ts'), join(dir, 'host'), `${registry.host}/app:latest`];
    const {stdout} = await must(process.execPath, args, {cwd: join(dir, 'project')});
    // Locks are given back as the process ends.
    assert.deepEqual(JSON.parse(stdout), ['listeners of exit']);
  });

  it('keeps everything else private', async () => {
    const {stderr} = await run(process.execPath, ['--input-type=module', '-e', "await import('berth-oci/dist/node/main.js')"], {
      cwd: join(dir, 'project'),
    });
    assert.match(stderr, /ERR_PACKAGE_PATH_NOT_EXPORTED/);
  });

  it('its executable alone, copied to a machine with nothing else on PATH, works', async () => {
    const alone = join(dir, 'alone');
    mkdirSync(alone);
    cpSync(executable, join(alone, 'ctr'));
    const env = {...store('alone'), PATH: path(join(dir, 'path-empty'), {})};
    await must(join(alone, 'ctr'), ['namespaces', 'create', 'foo'], {cwd: alone, env});
    assert.equal((await must(join(alone, 'ctr'), ['ns', 'ls', '-q'], {cwd: alone, env})).stdout, 'foo\n');
    assert.match((await run(join(alone, 'ctr'), ['nope'], {cwd: alone, env})).stderr, /^ctr: unknown command/);
  });
});
