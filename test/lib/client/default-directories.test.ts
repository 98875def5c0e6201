/** Default root and state directories, for any environment, and for directories of other users. */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {chmodSync, chownSync, existsSync, lchownSync, linkSync, mkdirSync, statSync, symlinkSync, writeFileSync} from 'node:fs';
import {isAbsolute, join} from 'node:path';
import {describe, it} from 'node:test';
import {assertState, findDirectories} from '../../../src/lib/client/default-directories.ts';
import {openClient} from '../../../src/lib/client/index.ts';
import {codeOf} from '../../../src/lib/errdefs.ts';
import {is, onEnd, requiresRoot, temporaryDirectory} from '../../support/helpers.ts';

const VARIABLES = ['BERTH_ROOT', 'BERTH_STATE', 'XDG_DATA_HOME', 'XDG_RUNTIME_DIR', 'HOME'] as const;
const VALUES = [undefined, '', 'relative', './relative', '/absolute'];

/** Every assignment of values to variables. */
function* environments(): Generator<NodeJS.ProcessEnv> {
  for (let n = 0; n < VALUES.length ** VARIABLES.length; n++) {
    const env: NodeJS.ProcessEnv = {};
    VARIABLES.forEach((name, i) => {
      const value = VALUES[Math.floor(n / VALUES.length ** i) % VALUES.length];
      if (value !== undefined) env[name] = value;
    });
    yield env;
  }
}

describe('root and state directories', () => {
  it('are absolute, and ignore empty variables', () => {
    for (const uid of [0, 1000])
      for (const env of environments()) {
        const found = findDirectories({}, env, uid);
        for (const path of [found.root, found.state, ...found.guarded]) assert.ok(isAbsolute(path), path);
        const set = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== ''));
        assert.deepEqual(findDirectories({}, set, uid), found, JSON.stringify(env));
        // Only BERTH_ROOT and BERTH_STATE may be relative to the working directory.
        const here = ['BERTH_ROOT', 'BERTH_STATE'].some((name) => env[name]?.includes('relative'));
        if (!here) assert.ok(!`${found.root} ${found.state}`.includes(process.cwd()), JSON.stringify({env, found}));
      }
  });

  it('are those of the caller; an empty path is refused', () => {
    const env = {BERTH_ROOT: '/r', BERTH_STATE: '/s'};
    assert.deepEqual(findDirectories({root: '/a', state: 'b'}, env, 0), {
      root: '/a',
      state: join(process.cwd(), 'b'),
      guarded: [join(process.cwd(), 'b')],
    });
    for (const given of [{root: ''}, {state: ''}]) assert.throws(() => findDirectories(given, env, 0), is('invalid_argument'));
    assert.throws(() => openClient({root: ''}), is('invalid_argument'));
  });

  it('do not follow a later change of the working directory', async (t) => {
    const dir = temporaryDirectory(t);
    const before = process.cwd();
    onEnd(t, () => process.chdir(before));
    process.chdir(dir);
    const client = openClient({root: 'root', state: 'state'});
    process.chdir('/');
    await client.namespaces.create('a');
    assert.ok(existsSync(join(dir, 'root/version')));
    await client.close();
  });
});

function make(path: string, mode: number, uid = 0, gid = 0): void {
  mkdirSync(path);
  chownSync(path, uid, gid);
  chmodSync(path, mode);
}

function plantLink(path: string, target: string): void {
  symlinkSync(target, path);
  lchownSync(path, 65_534, 65_534);
}

function opened(path: string): string {
  chmodSync(path, 0o777);
  return path;
}

/** Entries that another user may put in the place of a directory; `victim` is a directory of this user. */
const PLANTED: readonly [string, 'refused' | 'taken', (path: string, victim: string) => void][] = [
  ['nothing', 'taken', () => undefined],
  ['a directory of ours', 'taken', (path) => mkdirSync(path, {mode: 0o700})],
  ['one that others may read', 'taken', (path) => mkdirSync(path, {mode: 0o755})],
  ["another user's directory", 'refused', (path) => make(path, 0o700, 65_534)],
  ['one that all may write', 'refused', (path) => make(path, 0o777)],
  ['one that all may write, with the sticky bit', 'refused', (path) => make(path, 0o1777)],
  ["one that another user's group may write", 'refused', (path) => make(path, 0o770, 0, 65_534)],
  ["another user's link to a directory of ours", 'refused', (path, victim) => plantLink(path, victim)],
  ['a link of ours to a directory of ours', 'taken', (path, victim) => symlinkSync(victim, path)],
  ['a link of ours to one that all may write', 'refused', (path, victim) => symlinkSync(opened(victim), path)],
  ["another user's link to nothing", 'refused', (path) => plantLink(path, `${path}-nothing`)],
  ['a FIFO', 'refused', (path) => execFileSync('mkfifo', [path])],
  ['a file', 'refused', (path) => writeFileSync(path, '')],
  ['a hard link to a file', 'refused', (path, victim) => linkSync(join(victim, 'file'), path)],
];

describe('the state directory', () => {
  for (const [what, outcome, plant] of PLANTED)
    for (const place of ['the directory itself', 'its place in a shared directory'] as const)
      it(`${place}: ${what} is ${outcome}`, (t) => {
        if (!requiresRoot(t)) return;
        const dir = temporaryDirectory(t);
        const shared = join(dir, 'shared');
        mkdirSync(shared);
        chmodSync(shared, 0o1777);
        const victim = join(dir, 'victim');
        mkdirSync(victim, {mode: 0o700});
        writeFileSync(join(victim, 'file'), '');
        const outer = join(shared, 'berth-1');
        const state = join(outer, 'berth');
        if (place === 'the directory itself') mkdirSync(outer, {mode: 0o700});
        plant(place === 'the directory itself' ? state : outer, victim);
        const ask = (): string => assertState({root: '/', state, guarded: [outer, state]});
        if (outcome === 'refused') assert.throws(ask, (err) => ['permission_denied', 'failed_precondition'].includes(codeOf(err)));
        else {
          assert.equal(ask(), state);
          // No other user can replace it any more.
          assert.ok(existsSync(outer));
          assert.equal(statSync(outer).uid, 0);
        }
      });

  it('is checked by each command that uses it, before it is used', async (t) => {
    if (!requiresRoot(t)) return;
    const state = temporaryDirectory(t);
    chmodSync(state, 0o777);
    const client = openClient({root: temporaryDirectory(t), state});
    onEnd(t, () => client.close());
    await client.namespaces.create('a');
    const ns = client.namespace('a');
    for (const use of [() => ns.containers.delete('x'), () => client.gc(), () => client.prune(), () => client.check()])
      await assert.rejects(use(), is('permission_denied'));
    const check = (await client.doctor()).find(({name}) => name === 'run directory');
    assert.equal(check?.status, 'error');
    assert.match(check.hint!, /chmod/);
  });
});
