/** Roots that are not a whole machine's, on overlayfs as in most containers, or of a chroot: doctor gives advice, and the advice works. */
import assert from 'node:assert/strict';
import {mkdirSync, symlinkSync} from 'node:fs';
import {join} from 'node:path';
import {it} from 'node:test';
import {environment, type Result, root, run} from '../cli/harness.ts';
import {findProgram, requiresProgram, requiresRoot, temporaryDirectory} from '../support/helpers.ts';
import {publishedImages} from './fixtures.ts';

const published = publishedImages();

it('a root on overlayfs gives the same advice in doctor and run, and native works there', async (t) => {
  if (!requiresRoot(t) || !requiresProgram(t, 'runc', 'unshare', 'mount')) return;
  const image = await published(t, 'busybox');
  if (image === undefined) return;
  const dir = temporaryDirectory(t);
  for (const name of ['lower', 'upper', 'work', 'merged', 'state']) mkdirSync(join(dir, name));
  // The overlay ends with the last process in its namespace, so one script runs all commands.
  const mount = 'mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work merged';
  const ctr = async (script: string): Promise<Result> =>
    run(findProgram('unshare')!, ['--mount', '--propagation', 'private', 'sh', '-c', `cd ${dir} && ${mount} && ${script}`], {
      env: {
        ...environment(),
        BERTH_ROOT: join(dir, 'merged/root'),
        BERTH_STATE: join(dir, 'state'),
        ctr: join(root, 'bin/ctr'),
        ref: image.ref,
      },
    });
  const quiet = '--progress none';
  const failing = await ctr(
    `$ctr pull ${quiet} --snapshotter overlayfs $ref >&2; $ctr run --json --rm --snapshotter overlayfs $ref r true`,
  );
  assert.equal(failing.status, 125, failing.stderr);
  const line = failing.stderr.split('\n').findLast((text) => text.startsWith('{'))!;
  const {error} = JSON.parse(line) as {error: {kind: string; message: string; hint: string}};
  assert.equal(error.kind, 'failed_precondition');
  const doctor = await ctr('$ctr doctor --json');
  const mounts = (JSON.parse(doctor.stdout) as {name: string; detail: string; hint: string}[]).find(({name}) => name === 'mounts')!;
  assert.match(mounts.detail, /lies on overlayfs itself/);
  assert.deepEqual([error.message, error.hint], [`${mounts.detail}: failed precondition`, mounts.hint]);
  assert.match(mounts.hint, /--snapshotter native/);
  assert.ok(failing.stderr.includes(`lies on overlayfs; ${mounts.hint}\n`), `pull did not say it: ${failing.stderr}`);
  const native = await ctr(`$ctr pull ${quiet} --snapshotter native $ref >&2 && $ctr run --rm --snapshotter native $ref r echo works`);
  assert.deepEqual([native.status, native.stdout], [0, 'works\n'], native.stderr);
  assert.doesNotMatch(native.stderr, /overlayfs/);
});

it('a chroot needs its directory to be a mount point, as doctor says', async (t) => {
  if (!requiresRoot(t) || !requiresProgram(t, 'runc', 'unshare', 'mount')) return;
  const dir = temporaryDirectory(t);
  for (const name of ['usr', 'proc', 'dev', 'tmp', 'checkout']) mkdirSync(join(dir, name));
  for (const name of ['bin', 'lib', 'lib64', 'sbin']) symlinkSync(`usr/${name}`, join(dir, name));
  const mounts = async (before: string): Promise<{readonly status: string; readonly hint?: string}> => {
    const script = `cd ${dir} && ${before} && cd ${dir} && for p in usr dev; do mount --rbind /$p $p; done && mount -t proc proc proc \
      && mount --bind ${root} checkout && exec chroot . /checkout/bin/ctr doctor --json`;
    const {stdout, stderr} = await run(findProgram('unshare')!, ['--mount', '--propagation', 'private', 'sh', '-c', script], {
      env: {...environment(), BERTH_ROOT: '/tmp/root', BERTH_STATE: '/tmp/state'},
    });
    assert.match(stdout, /^\[/, stderr);
    return JSON.parse(stdout).find(({name}: {name: string}) => name === 'mounts');
  };
  const {status, hint} = await mounts('true');
  assert.equal(status, 'error');
  assert.match(hint!, /mount --bind DIR DIR/);
  assert.notEqual((await mounts(`mount --bind ${dir} ${dir}`)).status, 'error');
});
