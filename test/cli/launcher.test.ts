import assert from 'node:assert/strict';
import {chmodSync, cpSync, mkdirSync, readFileSync, symlinkSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {findProgram, requiresRoot, type Scope, temporaryDirectory} from '../support/helpers.ts';
import {executable, root, run} from './harness.ts';

const NAMES = ['ctr', 'dist', 'berth'] as const;
const exeName = `berth-linux-${process.arch}`;
const exePackage = `berth-oci-linux-${process.arch}`;

/** A program that tells how it was started. */
function teller(file: string, what: string): void {
  mkdirSync(join(file, '..'), {recursive: true});
  writeFileSync(file, `#!/bin/sh\necho "${what} $BERTH_PROGRAM: $*"\n`);
  chmodSync(file, 0o755);
}

/** A package with the launcher and nothing else. */
function bare(scope: Scope): string {
  const dir = join(temporaryDirectory(scope), 'node_modules/berth');
  mkdirSync(join(dir, 'bin'), {recursive: true});
  for (const name of NAMES) cpSync(join(root, 'bin', name), join(dir, 'bin', name));
  return dir;
}

/** A PATH on which there is only what the launcher itself may use. */
function lonelyPath(scope: Scope): string {
  const dir = temporaryDirectory(scope);
  for (const name of ['readlink']) symlinkSync(findProgram(name)!, join(dir, name));
  return dir;
}

describe('launcher', () => {
  it('is the same under its three names', () => {
    const [first, ...others] = NAMES.map((name) => readFileSync(join(root, 'bin', name), 'utf8'));
    for (const other of others) assert.equal(other, first);
  });

  for (const name of NAMES)
    it(`tells the program that it is called ${name}, and its words as they are`, async (t) => {
      const dir = bare(t);
      teller(join(dir, 'dist', exeName), 'exe');
      const {stdout} = await run(join(dir, 'bin', name), ['a b', '', '*', '--', '$x'], {env: {PATH: lonelyPath(t)}});
      assert.equal(stdout, `exe ${name}: a b  * -- $x\n`);
    });

  const places: readonly [string, (dir: string) => string][] = [
    ['built beside it', (dir) => join(dir, 'dist', exeName)],
    ['in the package that npm put into its own modules', (dir) => join(dir, 'node_modules', exePackage, 'bin/berth')],
    ['in the package that npm put beside it', (dir) => join(dir, '..', exePackage, 'bin/berth')],
  ];
  for (const [where, place] of places)
    it(`finds the executable ${where}`, async (t) => {
      const dir = bare(t);
      teller(place(dir), 'exe');
      assert.equal((await run(join(dir, 'bin/ctr'), [], {env: {PATH: lonelyPath(t)}})).stdout, 'exe ctr: \n');
    });

  it('gives the engine only settings that change something', async () => {
    const found = readFileSync(join(root, 'bin/ctr'), 'utf8').matchAll(/\bBUN_JSC_(\w+)=/g);
    const set = [...new Set([...found].map(([, name]) => name!))].sort();
    const {stderr} = await run(join(root, 'bin/ctr'), ['run', '--help'], {env: {BUN_JSC_dumpOptions: '1'}});
    const changed = [...stderr.matchAll(/^ {3}(\w+)=(\S+) \(default: (\S+)\)$/gm)].filter(([, , value, usual]) => value !== usual);
    assert.notEqual(set.length, 0);
    assert.deepEqual(changed.flatMap(([, name]) => (name === 'dumpOptions' ? [] : name!)).sort(), set);
  });

  for (const [line, growth] of [
    ['copy a b', '2'],
    ['-n space sync list', '2'],
    ['pull copy', '0.5'],
    ['push image', '0.5'],
  ] as const)
    it(`lets the heap grow by ${growth}: ${line}`, async (t) => {
      const dir = bare(t);
      teller(join(dir, 'dist', exeName), 'heap=$BUN_JSC_heapGrowthMaxIncrease');
      const {stdout} = await run(join(dir, 'bin/ctr'), line.split(' '), {env: {PATH: lonelyPath(t)}});
      assert.equal(stdout, `heap=${growth} ctr: ${line}\n`);
    });

  for (const [line, isCompiled] of [
    ['run --rm image name true', false],
    ['-n space --root /x run image', false],
    ['tasks exec name true', false],
    ['tasks start -d name', false],
    ['run --pull missing image', true],
    ['-n space run --rm --pull=always image', true],
    ['pull run', true],
    ['images import run', true],
    ['tasks logs -f name', true],
    ['version', true],
    ['', true],
  ] as const)
    it(`${isCompiled ? 'lets' : 'does not let'} the engine compile: ${line}`, async (t) => {
      const dir = bare(t);
      teller(join(dir, 'dist', exeName), 'jit=$BUN_JSC_useJIT');
      const {stdout} = await run(join(dir, 'bin/ctr'), line === '' ? [] : line.split(' '), {env: {PATH: lonelyPath(t)}});
      assert.equal(stdout, `jit=${isCompiled ? '' : '0'} ctr: ${line}\n`);
    });

  it('finds its package through symbolic links, as npm makes them', async (t) => {
    const dir = bare(t);
    teller(join(dir, 'dist', exeName), 'exe');
    const bin = temporaryDirectory(t);
    symlinkSync(join(dir, 'bin/ctr'), join(bin, 'first'));
    symlinkSync('first', join(bin, 'ctr'));
    assert.equal((await run(join(bin, 'ctr'), ['x'], {env: {PATH: lonelyPath(t)}})).stdout, 'exe ctr: x\n');
  });

  it("runs on the package's Node rather than PATH's", async (t) => {
    const dir = bare(t);
    const path = lonelyPath(t);
    writeFileSync(join(dir, 'package.json'), '{}');
    mkdirSync(join(dir, 'dist/node'), {recursive: true});
    writeFileSync(join(dir, 'dist/node/main.js'), '');
    teller(join(path, 'node'), 'path');
    assert.equal((await run(join(dir, 'bin/ctr'), ['x'], {env: {PATH: path}})).stdout, `path ctr: ${dir}/bin/../dist/node/main.js x\n`);
    teller(join(dir, 'node_modules/.bin/node'), 'own');
    assert.equal((await run(join(dir, 'bin/ctr'), ['x'], {env: {PATH: path}})).stdout, `own ctr: ${dir}/bin/../dist/node/main.js x\n`);
  });

  for (const entries of [':', '.:', ':.:', 'planted:', '::planted:', './planted:planted/../planted:', ''])
    it(`starts nothing from the current directory with PATH ${JSON.stringify(`${entries}…`)}`, async (t) => {
      const dir = bare(t);
      writeFileSync(join(dir, 'package.json'), '{}');
      mkdirSync(join(dir, 'dist/node'), {recursive: true});
      writeFileSync(join(dir, 'dist/node/main.js'), '');
      const [cwd, good] = [temporaryDirectory(t), lonelyPath(t)];
      teller(join(good, 'node'), 'good');
      for (const place of ['.', 'planted']) for (const name of ['node', 'readlink']) teller(join(cwd, place, name), 'planted');
      const link = join(cwd, 'ctr');
      symlinkSync(join(dir, 'bin/ctr'), link);
      const {stdout} = await run(link, ['x'], {cwd, env: {PATH: `${entries}${good}`}});
      assert.equal(stdout, `good ctr: ${dir}/bin/../dist/node/main.js x\n`);
      assert.equal((await run(link, ['x'], {cwd, env: {PATH: `${good}:${entries}`}})).stdout, stdout);
    });

  it('passes over the executable when it is asked for Node', async (t) => {
    const dir = bare(t);
    const path = lonelyPath(t);
    teller(join(dir, 'dist', exeName), 'exe');
    mkdirSync(join(dir, 'dist/node'), {recursive: true});
    writeFileSync(join(dir, 'dist/node/main.js'), '');
    teller(join(path, 'node'), 'node');
    assert.match((await run(join(dir, 'bin/ctr'), [], {env: {PATH: path, BERTH_ENGINE: 'node'}})).stdout, /^node ctr: /);
  });

  it('runs a checkout that is not built from source', async (t) => {
    const dir = bare(t);
    teller(join(dir, 'node_modules/.bin/node'), 'node');
    assert.match((await run(join(dir, 'bin/ctr'), ['x'], {env: {PATH: lonelyPath(t)}})).stdout, /^node ctr: .*\/src\/main\.ts x\n$/);
  });

  it('says in one line what is missing', async (t) => {
    const dir = bare(t);
    const nothing = await run(join(dir, 'bin/dist'), [], {env: {PATH: lonelyPath(t)}});
    assert.equal(nothing.status, 14);
    assert.match(nothing.stderr, /^dist: not built: run "npm ci && npm run build" in [^\n]*\n$/);
    mkdirSync(join(dir, 'dist/node'), {recursive: true});
    writeFileSync(join(dir, 'dist/node/main.js'), '');
    const noNode = await run(join(dir, 'bin/dist'), [], {env: {PATH: lonelyPath(t)}});
    assert.deepEqual(
      [noNode.status, noNode.stderr],
      [14, 'dist: Node 22.19 or newer is needed, or the package berth-oci-linux-<cpu> (on Alpine: with -musl, and libstdc++)\n'],
    );
  });
});

describe('the program', () => {
  it('says what to do where /proc is not mounted, as in a fresh chroot', async (t) => {
    if (!requiresRoot(t)) return;
    const script = 'mount -t tmpfs none /proc; exec "$1" version';
    const {status, stdout, stderr} = await run('unshare', ['-m', 'sh', '-ec', script, 'sh', join(root, 'bin/ctr')]);
    assert.deepEqual([status, stdout], [9, '']);
    assert.equal(stderr, 'ctr: /proc is not mounted: failed precondition\nhint: mount -t proc proc /proc\n');
  });

  it('leaves no trace of the launcher in what it starts', async (t) => {
    // The container runtime is the one thing that every command line may start; here it only tells its environment.
    const path = temporaryDirectory(t);
    const told = join(path, 'told');
    writeFileSync(join(path, 'runc'), `#!/bin/sh\nenv >> ${told}\n`);
    chmodSync(join(path, 'runc'), 0o755);
    const env = {PATH: `${path}:${process.env.PATH}`, BERTH_ROOT: join(path, 'root'), BERTH_STATE: join(path, 'state')};
    await run(join(root, 'bin/ctr'), ['doctor'], {env});
    assert.doesNotMatch(readFileSync(told, 'utf8'), /^BERTH_(PROGRAM|ENGINE)=/m);
  });

  it('called by its own name is berth, and by a link whatever the link is called', async (t) => {
    const dir = temporaryDirectory(t);
    symlinkSync(executable, join(dir, 'dist'));
    assert.match((await run(executable, ['nope'])).stderr, /^berth: unknown command/);
    assert.match((await run(join(dir, 'dist'), ['nope'])).stderr, /^dist: unknown command/);
  });

  it('does not read settings from the directory it runs in', async (t) => {
    const cwd = temporaryDirectory(t);
    writeFileSync(join(cwd, '.env'), 'CONTAINERD_NAMESPACE=foreign\n');
    writeFileSync(join(cwd, 'bunfig.toml'), 'preload = ["./preload.ts"]\n');
    writeFileSync(join(cwd, 'preload.ts'), 'console.log("preloaded");\n');
    const {stdout, stderr} = await run(executable, ['--root', join(cwd, 'root'), 'images', 'rm', 'x'], {cwd});
    assert.equal(stdout, '');
    assert.match(stderr, /in namespace "default": not found/);
  });
});
