import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {existsSync, mkdirSync, readFileSync, statSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {ErrdefsError} from '../src/lib/errdefs.ts';
import {findProgram, is, onEnd, requiresProgram, requiresRoot, type Scope, slow, temporaryDirectory} from './support/helpers.ts';

/** A scope that ends when it is told to. */
function scope(): Scope & {end(): Promise<void>} {
  const hooks: (() => void | Promise<void>)[] = [];
  return {
    after: (fn) => {
      hooks.push(fn);
    },
    end: async () => {
      for (const hook of hooks) await hook();
    },
  };
}

/** Sets a variable of the environment until the test ends. */
function setenv(t: TestContext, name: string, value: string | undefined): void {
  const before = process.env[name];
  const set = (v: string | undefined): void => {
    if (v === undefined) delete process.env[name];
    else process.env[name] = v;
  };
  set(value);
  onEnd(t, () => set(before));
}

/** What a need does to a test: `true` to go on, else the reason that it skips with. */
function outcome(need: (t: {skip(reason?: string): void}) => boolean): true | string {
  let skipped: string | undefined;
  const goesOn = need({
    skip: (reason) => {
      skipped = reason;
    },
  });
  return goesOn || (skipped ?? 'no reason');
}

describe('needs', () => {
  it('let a test go on when they are met', () => {
    assert.equal(
      outcome((t) => requiresProgram(t, 'sh', 'tar')),
      true,
    );
  });

  it('skip with the reason and its remedy', (t) => {
    setenv(t, 'CI', undefined);
    setenv(t, 'PATH', '/nowhere');
    assert.equal(
      outcome((s) => requiresProgram(s, 'tar', 'skopeo', 'setfattr')),
      'needs tar, skopeo, setfattr (apt-get install tar skopeo attr)',
    );
    t.mock.method(process as {getuid(): number}, 'getuid', () => 1000);
    assert.equal(outcome(requiresRoot), 'needs root');
  });

  it('fail with the reason under CI=true', (t) => {
    setenv(t, 'CI', 'true');
    setenv(t, 'PATH', '/nowhere');
    assert.throws(() => outcome((s) => requiresProgram(s, 'skopeo')), /needs skopeo .*CI=true insists/);
    t.mock.method(process as {getuid(): number}, 'getuid', () => 1000);
    assert.throws(() => outcome(requiresRoot), /needs root, and CI=true insists/);
  });

  it('refuse a program that a new machine would lack, though this one has it', () => {
    assert.notEqual(findProgram('ls'), undefined);
    assert.throws(() => outcome((s) => requiresProgram(s, 'ls')), /^Error: ls: scripts\/setup.sh does not install it/);
  });

  it('leave slow tests out only under --short, and then under CI=true as well', (t) => {
    setenv(t, 'CI', 'true');
    setenv(t, 'BERTH_TEST_SHORT', undefined);
    assert.equal(outcome(slow), true);
    setenv(t, 'BERTH_TEST_SHORT', '1');
    assert.equal(outcome(slow), 'slow, left out by --short');
  });

  it('are told of by variables that `npm test` lets through: it drops what a user has set for the command', () => {
    const script = readFileSync(join(import.meta.dirname, '../scripts/test.ts'), 'utf8');
    const told = /options\.torture\) process\.env\.(\w+) = '1'/.exec(script)?.[1];
    const says = (env: object): string =>
      execFileSync(process.execPath, ['-e', 'import("./support/helpers.ts").then(({TORTURE}) => console.log(TORTURE))'], {
        cwd: import.meta.dirname,
        env: {...process.env, ...env},
        encoding: 'utf8',
      });
    assert.equal(says({[told!]: '1'}), 'true\n', 'what the script sets is what tests look at');
    assert.equal(says({[told!]: ''}), 'false\n');
    const pattern = String.raw`process\.env\.BERTH_\w+|\bBERTH_\w+(?=[^=]*\} = process\.env)`;
    const read = execFileSync('grep', ['-rohP', pattern, import.meta.dirname], {encoding: 'utf8'});
    for (const name of new Set(read.trim().split('\n'))) assert.match(name, /BERTH_TEST_/, `${name} does not reach a test`);
  });
});

describe('a temporary directory', () => {
  it('is private, and gone with all that is in it when its scope ends', async () => {
    const s = scope();
    const dir = temporaryDirectory(s);
    assert.equal(statSync(dir).mode & 0o7777, 0o700);
    mkdirSync(join(dir, 'a/b'), {recursive: true});
    await s.end();
    assert.equal(existsSync(dir), false);
  });

  it('fails the test that leaves a mount in it, and does not delete what is behind the mount', async (t) => {
    if (!requiresRoot(t)) return;
    const behind = temporaryDirectory(t);
    writeFileSync(join(behind, 'precious'), '');
    const s = scope();
    const dir = temporaryDirectory(s);
    mkdirSync(join(dir, 'a mount'));
    execFileSync('mount', ['--bind', behind, join(dir, 'a mount')]);
    await assert.rejects(s.end(), /mounts left behind/);
    assert.equal(existsSync(join(behind, 'precious')), true);
    assert.equal(existsSync(dir), false);
  });
});

describe('the end of a scope', () => {
  it('undoes what was done last first, and all of it, whatever fails', async () => {
    const s = scope();
    const done: string[] = [];
    onEnd(s, () => done.push('first'));
    onEnd(s, async () => {
      await Promise.resolve();
      done.push('second');
      throw new Error('second failed');
    });
    onEnd(s, () => {
      done.push('third');
      throw new Error('third failed');
    });
    await assert.rejects(s.end(), /third failed\n.*second failed/);
    assert.deepEqual(done, ['third', 'second', 'first']);
  });

  it('is one that may come again', async () => {
    const hooks: (() => unknown)[] = [];
    const again: Scope = {after: (fn) => void hooks.push(fn)};
    const done: number[] = [];
    for (let round = 0; round < 2; round++) {
      onEnd(again, () => done.push(round));
      for (const hook of hooks.splice(0)) await hook();
    }
    assert.deepEqual(done, [0, 1]);
  });
});

describe('is', () => {
  it('accepts an error of the class and shows one of another', () => {
    assert.equal(is('not_found')(new ErrdefsError('not_found', 'image "a"')), true);
    assert.throws(
      () => is('not_found')(new ErrdefsError('conflict', 'image "a"')),
      /expected an error of class not_found, got conflict: .*image "a"/,
    );
    assert.throws(() => is('not_found')(new TypeError('a bug')), /got unknown: TypeError: a bug/);
  });
});
