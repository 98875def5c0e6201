import assert from 'node:assert/strict';
import {mkdirSync, symlinkSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {isErrdefs} from '../../../src/lib/errdefs.ts';
import {requireProgram, run, runSync, searchPath} from '../../../src/lib/fs/spawn.ts';
import {is, onEnd, temporaryDirectory} from '../../support/helpers.ts';

const OPTIONS = {package: 'coreutils'};

describe('running a program', () => {
  it('takes no tar and no cp that are parts of busybox', (t) => {
    const dir = temporaryDirectory(t);
    writeFileSync(join(dir, 'busybox'), '', {mode: 0o755});
    for (const name of ['cp', 'sh', 'tar']) symlinkSync('busybox', join(dir, name));
    const path = process.env.PATH;
    onEnd(t, () => {
      process.env.PATH = path;
    });
    process.env.PATH = dir;
    for (const [name, from] of [
      ['cp', 'coreutils'],
      ['tar', 'tar'],
    ] as const)
      assert.throws(
        () => requireProgram(name, from),
        (err) => isErrdefs(err) && err.code === 'unavailable' && err.hint === `install the package ${from}`,
      );
    assert.equal(requireProgram('sh', 'dash'), join(dir, 'sh'));
  });

  for (const [name, start] of Object.entries({run, runSync})) {
    it(`returns status, stdout and stderr, and passes input on: ${name}`, async () => {
      const options = {...OPTIONS, input: Buffer.from([0, 255, 10])};
      const {status, stdout, stderr} = await start('sh', ['-c', 'cat; echo no >&2; exit 3'], options);
      assert.deepEqual([status, [...stdout], stderr], [3, [0, 255, 10], 'no\n']);
    });

    it(`has no input without one: ${name}`, async () => {
      assert.equal((await start('cat', [], OPTIONS)).stdout.length, 0);
    });

    it(`returns 128+n for a program that signal n ended: ${name}`, async () => {
      assert.equal((await start('sh', ['-c', 'kill -9 $$'], OPTIONS)).status, 137);
    });

    it(`lets a program leave input unread: ${name}`, async () => {
      assert.equal((await start('true', [], {...OPTIONS, input: Buffer.alloc(1 << 20)})).status, 0);
    });

    it(`kills a program that takes too long: ${name}`, async () => {
      await assert.rejects(async () => start('sleep', ['60'], {...OPTIONS, timeoutMs: 50}), is('deadline_exceeded'));
    });
  }

  it('says what to install when there is no such program', () => {
    assert.throws(
      () => runSync('no-such-program', [], {package: 'some-package'}),
      (err) => is('unavailable')(err) && isErrdefs(err) && err.hint === 'install the Debian package some-package',
    );
  });

  it('hands down no variable that could change what it does', (t) => {
    process.env.TAR_OPTIONS = '--no-such-option';
    onEnd(t, () => delete process.env.TAR_OPTIONS);
    assert.deepEqual(
      runSync('env', [], {...OPTIONS, env: {MORE: '1'}})
        .stdout.toString()
        .split('\n')
        .sort(),
      ['', 'LC_ALL=C', 'MORE=1', `PATH=${searchPath()}`],
    );
  });

  it('runs where it is told to', (t) => {
    const dir = temporaryDirectory(t);
    assert.equal(runSync('pwd', [], {...OPTIONS, cwd: dir}).stdout.toString(), `${dir}\n`);
  });

  it('leaves no timer behind, however the program ends or fails to start', async (t) => {
    const broken = join(temporaryDirectory(t), 'broken');
    writeFileSync(broken, '#!/no/such/interpreter\n', {mode: 0o755});
    const timers = (): number => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length;
    const before = timers();
    assert.equal((await run('true', [], {...OPTIONS, timeoutMs: 60_000})).status, 0);
    for (const program of ['no-such-program', broken]) await assert.rejects(run(program, [], {...OPTIONS, timeoutMs: 60_000}));
    assert.equal(timers(), before);
  });

  /** What PATH may hold besides absolute directories; `here` is relative to the current directory. */
  const RELATIVE = ['', '.', './', '..', 'here', './here', 'here/../here', '~'];

  it('never starts what lies in the current directory, whatever PATH says', async (t) => {
    const [dir, cwd, path] = [temporaryDirectory(t), process.cwd(), process.env.PATH];
    mkdirSync(join(dir, 'down/here'), {recursive: true});
    for (const place of ['.', 'down', 'down/here', 'down/~']) {
      mkdirSync(join(dir, place), {recursive: true});
      for (const program of ['sh', 'env', 'true']) writeFileSync(join(dir, place, program), '#!/bin/sh\necho planted\n', {mode: 0o755});
    }
    process.chdir(join(dir, 'down'));
    onEnd(t, () => {
      process.chdir(cwd);
      process.env.PATH = path;
    });
    for (const entry of RELATIVE)
      for (const value of [entry, `${entry}:${path}`, `${path}:${entry}`, `${entry}:${entry}`]) {
        process.env.PATH = value;
        // The program, and what it starts itself.
        assert.equal(runSync('sh', ['-c', 'env true; env sh -c :'], OPTIONS).stdout.toString(), '', `PATH=${value}`);
        assert.equal((await run('sh', ['-c', 'test -z "$(env true)"'], OPTIONS)).status, 0, `PATH=${value}`);
      }
  });
});
