/**
 * CVE-2024-21626 (runc): WORKDIR /proc/self/fd/7 is a directory of the host, by a descriptor that the runtime left open. CVE-2026-55686
 * (podman): a WORKDIR with a link in it creates a directory of the host, or changes its owner.
 */
import assert from 'node:assert/strict';
import {mkdirSync, readdirSync, statSync, symlinkSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {newHarness, requiresRuntime} from '../lib/runtime/run-harness.ts';
import {is} from '../support/helpers.ts';

describe('a working directory', () => {
  for (const fd of ['3', '7', '8', '9'])
    it(`cannot be a descriptor: /proc/self/fd/${fd}`, async (t) => {
      if (!requiresRuntime(t)) return;
      const harness = newHarness(t);
      const image = {Env: ['PATH=/bin'], WorkingDir: `/proc/self/fd/${fd}`};
      await assert.rejects(harness.run({args: ['pwd']}, {image}), is('invalid_argument'));
    });

  for (const target of ['/proc/self/fd/8', '/proc/self/fd/8/../../..', 'proc/1/root', '/bin/../proc/thread-self/cwd'])
    it(`cannot be a descriptor through a link to ${target}`, async (t) => {
      if (!requiresRuntime(t)) return;
      const harness = newHarness(t);
      symlinkSync(target, join(harness.lower, 'link'));
      await assert.rejects(harness.run({args: ['pwd']}, {image: {Env: ['PATH=/bin'], WorkingDir: '/link'}}), is('invalid_argument'));
      await harness.assertNothingLeft();
    });

  it("cannot be a descriptor through the image's link at /proc", async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    symlinkSync('/tmp', join(harness.lower, 'proc/self'));
    symlinkSync('/proc/self/fd/8', join(harness.lower, 'link'));
    await assert.rejects(harness.run({args: ['pwd']}, {image: {Env: ['PATH=/bin'], WorkingDir: '/link'}}), is('invalid_argument'));
  });

  it('is created inside, in spite of links', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    const outside = join(harness.dir, 'outside');
    mkdirSync(outside, {mode: 0o700});
    symlinkSync(outside, join(harness.lower, 'absolute'));
    symlinkSync('../../../../../../..', join(harness.lower, 'tmp/up'));
    const before = statSync(outside);
    // runc does not follow a dangling link.
    await assert.rejects(harness.run({args: ['pwd'], cwd: '/absolute/made'}), is('unknown'));
    assert.equal((await harness.run({args: ['pwd'], cwd: `/tmp/up${outside}/made`})).exitStatus, 0);
    assert.equal((await harness.run({args: ['pwd'], cwd: '/absolute/other'})).exitStatus, 0);
    assert.deepEqual(readdirSync(outside), []);
    const after = statSync(outside);
    assert.deepEqual([after.uid, after.gid, after.mode, after.mtimeMs], [before.uid, before.gid, before.mode, before.mtimeMs]);
    await harness.assertNothingLeft();
  });
});
