/**
 * User, groups, capabilities and environment of a container.
 * CVE-2024-40635 and CVE-2026-46680 (containerd): a USER beyond 2³¹ wraps to root, or a number is looked up as a name. CVE-2023-25173
 * (containerd): supplementary groups without the primary one leave out a group that is denied. CVE-2022-24769 (moby, containerd):
 * inheritable capabilities. CVE-2026-57231 (podman): an Env entry without a value takes the host's.
 */
import assert from 'node:assert/strict';
import {writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {newHarness, requiresRuntime} from '../lib/runtime/run-harness.ts';
import {is, onEnd} from '../support/helpers.ts';

const image = (more: object) => ({image: {Env: ['PATH=/bin'], ...more}});

describe('an image', () => {
  for (const user of ['4294967296', '2147483648', '4294967295', '-1', '0:4294967296', '18446744073709551616'])
    it(`does not become root as ${user}`, async (t) => {
      if (!requiresRuntime(t)) return;
      const harness = newHarness(t);
      writeFileSync(join(harness.lower, 'etc/passwd'), `${user}:x:0:0::/:/bin/sh\n`);
      await assert.rejects(harness.run({args: ['id']}, image({User: user})), is('invalid_argument'));
    });

  it('does not become root by an account with a numeric name or an invalid ID', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    writeFileSync(join(harness.lower, 'etc/passwd'), '1000:x:0:0::/:/bin/sh\nnobody:x:none:none::/:/bin/sh\n');
    assert.equal((await harness.run({args: ['id', '-u']}, image({User: '1000'}))).stdout, '1000\n');
    await assert.rejects(harness.run({args: ['id']}, image({User: 'nobody'})), is('not_found'));
  });

  it('has its primary group among the supplementary ones', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    const groups = async (user: string): Promise<string> =>
      /^Groups:\s*(.*?)\s*$/m.exec((await harness.run({args: ['grep', 'Groups', '/proc/self/status']}, image({User: user}))).stdout)![1]!;
    assert.equal(await groups('guest'), '10 100');
    assert.equal(await groups('1234:5678'), '5678');
    assert.equal(await groups(''), '0 10');
  });

  it('inherits no capability', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    for (const options of [{}, {privileged: true}, {capAdd: ['ALL']}]) {
      const {stdout} = await harness.run({args: ['grep', '-E', 'Cap(Inh|Amb)', '/proc/self/status'], ...options});
      assert.equal(stdout, `CapInh:\t${'0'.repeat(16)}\nCapAmb:\t${'0'.repeat(16)}\n`);
    }
  });

  it('gains no privilege by a setuid program', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    assert.equal((await harness.run({args: ['grep', 'NoNewPrivs', '/proc/self/status']})).stdout, 'NoNewPrivs:\t1\n');
  });

  it("does not receive the host's environment", async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    process.env.BERTH_TEST_SECRET = 'secret';
    onEnd(t, () => delete process.env.BERTH_TEST_SECRET);
    const {stdout} = await harness.run(
      {args: ['env'], env: ['BERTH_TEST_SECRET']},
      image({Env: ['PATH=/bin', 'BERTH_TEST_SECRET', 'HOME']}),
    );
    assert.doesNotMatch(stdout, /secret|BERTH/i);
  });
});
