/** Relative directories in options are resolved against the working directory, also for programs that a command starts. */
import assert from 'node:assert/strict';
import {mkdirSync, readdirSync} from 'node:fs';
import {join} from 'node:path';
import {it} from 'node:test';
import {commandLine, forEachEngine} from '../cli/harness.ts';
import {requiresProgram, requiresRoot, temporaryDirectory} from '../support/helpers.ts';
import {assertNoRuns, publishedImages} from './fixtures.ts';

const published = publishedImages();

forEachEngine('a store and a state directory by relative names', (engine) => {
  const snapshotter = engine === 'node' ? 'overlayfs' : 'erofs';
  it(`can be pulled into, run from and checked, from any working directory, ${snapshotter}`, async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'runc', 'unshare', 'mount')) return;
    const image = await published(t, 'busybox');
    if (image === undefined) return;
    const ctr = commandLine(t, engine);
    const top = temporaryDirectory(t);
    mkdirSync(join(top, 'below'));
    const here = {cwd: top, env: {BERTH_ROOT: 'root', BERTH_STATE: 'state'}};
    const below = {cwd: join(top, 'below'), env: {BERTH_ROOT: '../root', BERTH_STATE: '../state'}};
    await ctr.ok(['pull', '--progress', 'none', '--snapshotter', snapshotter, image.ref], here);
    for (const [i, at] of [here, below].entries()) {
      const words = ['run', '--snapshotter', snapshotter];
      assert.equal(await ctr.ok([...words, '--rm', image.ref, `r${i}`, 'echo', 'hello'], at), 'hello\n');
      assert.equal((await ctr([...words, image.ref, `k${i}`, 'sh', '-c', 'exit 7'], at)).status, 7);
    }
    assert.equal(await ctr.ok(['containers', 'rm', 'k0', 'k1'], below), 'k0\nk1\n');
    assert.match(await ctr.ok(['check', '--deep', '--progress', 'none'], here), /: nothing wrong\n$/);
    assert.deepEqual(readdirSync(top).sort(), ['below', 'root', 'state']);
    assert.deepEqual(readdirSync(join(top, 'below')), []);
    assertNoRuns(join(top, 'state'));
  });
});
