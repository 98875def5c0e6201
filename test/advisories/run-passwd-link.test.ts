/**
 * CVE-2024-9676 (podman): an image's /etc/passwd or /etc/group is a link to a file of the host, or a pipe or device that blocks the reader
 * or never ends. CVE-2026-47262 (containerd): it is huge.
 */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {rmSync, symlinkSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {newHarness, type RunHarness, requiresRuntime} from '../lib/runtime/run-harness.ts';
import {is, requiresProgram} from '../support/helpers.ts';

/** An account file beside the image, which no look-up may find. */
const canary = (harness: RunHarness): string => {
  const file = join(harness.dir, 'canary');
  writeFileSync(file, 'victim:x:7:7::/:/bin/sh\n');
  return file;
};

describe('the accounts of an image', () => {
  for (const file of ['etc/passwd', 'etc/group'])
    for (const [name, target] of [
      ['an absolute link', canary],
      ['a relative link', () => '../../../../../../../../canary'],
      ['a link into /proc', (harness: RunHarness) => `/proc/self/root${canary(harness)}`],
    ] as const)
      it(`are not read through ${name}: ${file}`, async (t) => {
        if (!requiresRuntime(t)) return;
        const harness = newHarness(t);
        rmSync(join(harness.lower, file));
        symlinkSync(target(harness), join(harness.lower, file));
        await assert.rejects(harness.run({args: ['id'], user: file === 'etc/passwd' ? 'victim' : '0:victim'}), is('not_found'));
        await harness.assertNothingLeft();
      });

  it('are read through a link that stays inside, as on NixOS', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    rmSync(join(harness.lower, 'etc/passwd'));
    symlinkSync('/tmp/../etc/../accounts', join(harness.lower, 'etc/passwd'));
    writeFileSync(join(harness.lower, 'accounts'), 'inside:x:8:9::/:/bin/sh\n');
    assert.equal((await harness.run({args: ['id', '-u'], user: 'inside'})).stdout, '8\n');
  });

  for (const [name, arrange] of [
    ['a pipe', (file: string) => execFileSync('mkfifo', [file])],
    ['a device', (file: string) => execFileSync('mknod', [file, 'c', '1', '5'])],
    ['larger than any', (file: string) => execFileSync('truncate', ['--size=1T', file])],
  ] as const)
    it(`are rejected if the file is ${name}`, async (t) => {
      if (!requiresRuntime(t) || !requiresProgram(t, 'mkfifo', 'mknod', 'truncate')) return;
      const harness = newHarness(t);
      rmSync(join(harness.lower, 'etc/passwd'));
      arrange(join(harness.lower, 'etc/passwd'));
      await assert.rejects(harness.run({args: ['id'], user: 'guest'}), is('failed_precondition'));
      await harness.assertNothingLeft();
    });
});
