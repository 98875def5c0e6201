import assert from 'node:assert/strict';
import {describe, it} from 'node:test';
import {isErrdefs} from '../../../src/lib/errdefs.ts';
import {runSync} from '../../../src/lib/fs/spawn.ts';
import {is, onEnd, temporaryDirectory} from '../../helpers.ts';

const OPTIONS = {package: 'coreutils'};

describe('running a program', () => {
  it('gives status, output and error output, and passes input on', () => {
    const {status, stdout, stderr} = runSync('sh', ['-c', 'cat; echo no >&2; exit 3'], {...OPTIONS, input: Buffer.from([0, 255, 10])});
    assert.deepEqual([status, [...stdout], stderr], [3, [0, 255, 10], 'no\n']);
  });

  it('gives 128+n for a program that signal n ended', () => {
    assert.equal(runSync('sh', ['-c', 'kill -9 $$'], OPTIONS).status, 137);
  });

  it('lets a program leave input unread', () => {
    assert.equal(runSync('true', [], {...OPTIONS, input: Buffer.alloc(1 << 20)}).status, 0);
  });

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
      ['', 'LC_ALL=C', 'MORE=1', `PATH=${process.env.PATH}`],
    );
  });

  it('runs where it is told to', (t) => {
    const dir = temporaryDirectory(t);
    assert.equal(runSync('pwd', [], {...OPTIONS, cwd: dir}).stdout.toString(), `${dir}\n`);
  });
});
