/**
 * Access of a container to the host.
 * CVE-2019-5736 (runc): overwrites the runtime by way of /proc/self/exe. CVE-2021-30465 (runc): a link in place of a volume mounts it over
 * the host. CVE-2024-25621 (containerd): state directories that other users may enter. CVE-2025-31133 and -52881 (runc): masked paths and
 * writable /proc.
 */
import assert from 'node:assert/strict';
import {createHash} from 'node:crypto';
import {chmodSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {findRuntime} from '../../src/lib/runtime/oci-runtime.ts';
import {eventually, newHarness, requiresRuntime} from '../lib/runtime/run-harness.ts';

const fingerprint = (file: string): string => createHash('sha256').update(readFileSync(file)).digest('hex');

describe('a container', () => {
  it('cannot overwrite the runtime', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    const before = fingerprint(findRuntime().path);
    writeFileSync(join(harness.lower, 'bin/self'), '#!/proc/self/exe\n', {mode: 0o755});
    writeFileSync(join(harness.lower, 'bin/attack'), '#!/bin/sh\nfor exe in /proc/[0-9]*/exe; do echo overwritten > $exe; done\nexit 0\n', {
      mode: 0o755,
    });
    await harness.run({args: ['self']}).catch(() => undefined);
    await harness.run({args: ['/proc/self/exe']}).catch(() => undefined);
    assert.equal((await harness.run({args: ['attack']})).exitStatus, 0);
    assert.equal(fingerprint(findRuntime().path), before);
    await harness.assertNothingLeft();
  });

  it('has its mounts inside, in spite of links', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    const [outside, volume] = [join(harness.dir, 'outside'), join(harness.dir, 'volume')];
    for (const dir of [outside, volume]) mkdirSync(dir);
    writeFileSync(join(volume, 'file'), 'volume\n');
    symlinkSync(outside, join(harness.lower, 'absolute'));
    symlinkSync('../../../../../..', join(harness.lower, 'tmp/up'));
    for (const destination of ['/absolute', '/absolute/deep', `/tmp/up${outside}`]) {
      const mounts = [{type: 'bind', source: volume, destination, options: []}];
      assert.equal((await harness.run({args: ['cat', `${destination}/file`], mounts})).stdout, 'volume\n', destination);
    }
    assert.deepEqual(readdirSync(outside), []);
    assert.ok(!readFileSync('/proc/self/mountinfo', 'utf8').includes(harness.dir));
  });

  it('has state that other users cannot read', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    chmodSync(harness.stateDir, 0o755);
    const run = harness.run(harness.waiting());
    await eventually(
      'start',
      () => readdirSync(harness.stateDir).includes('bundles') && readdirSync(join(harness.stateDir, 'bundles')).includes('c'),
    );
    for (const dir of ['bundles', 'runtime', 'bundles/c']) assert.equal(statSync(join(harness.stateDir, dir)).mode & 0o777, 0o700, dir);
    harness.open();
    await run;
  });

  it('can neither read masked paths nor write read-only ones', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    // Masked paths must not be bound to the image's own /dev/null.
    writeFileSync(join(harness.lower, 'dev/null'), 'not null');
    const script = [
      'for f in kcore keys latency_stats timer_list sched_debug; do test -s /proc/$f && echo readable $f; done',
      'for f in /proc/sys/kernel/hostname /proc/sysrq-trigger /sys/kernel/uevent_helper /proc/irq/0/smp_affinity; do (echo x > $f) 2> /tmp/err && echo writable $f; done',
      'head -c 1 /proc/kcore | wc -c',
    ];
    assert.equal((await harness.run({args: ['sh', '-c', script.join('\n')]})).stdout, '0\n');
  });
});
