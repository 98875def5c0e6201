/** What needs another kernel than a build machine may have, in a virtual machine: what berth's AppArmor profile forbids and allows. */
import assert from 'node:assert/strict';
import {writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {profileText} from '../../src/lib/runtime/apparmor.ts';
import {temporaryDirectory} from '../support/helpers.ts';
import {bootVirtualMachine, requiresVirtualMachine} from '../support/virtual-machine.ts';

/** A container of runc's, `a`, confined by the profile `own`, with the capability that mounting takes. */
const START = `
apparmor_parser --replace --skip-cache </exchange/profile
mkdir -p /tmp/bundle/rootfs/bin
cd /tmp/bundle
cp /usr/bin/busybox rootfs/bin
for name in sh sleep ping cat mount; do ln -sf busybox rootfs/bin/$name; done
runc spec
sed -i 's/"terminal": true/"terminal": false/
        s/"noNewPrivileges": true/"noNewPrivileges": true, "apparmorProfile": "own"/
        s/"sh"/"sleep", "1000"/
        s/"readonly": true/"readonly": false/
        s/"CAP_KILL",/"CAP_KILL", "CAP_NET_RAW", "CAP_SYS_ADMIN",/' config.json
runc run -d a </dev/null >/tmp/bundle/output 2>&1
runc exec a cat /proc/self/attr/current`;

/** Commands in the container, and whether they may. */
const COMMANDS: readonly (readonly [command: string, allowed: boolean])[] = [
  ['echo >/file', true],
  ['ping -c 1 -W 5 127.0.0.1', true],
  ['echo 0 >/proc/self/oom_score_adj', true],
  ['sleep 100 & kill $!', true],
  ['mount -t tmpfs tmpfs /bin', false],
  ['cat /proc/kcore', false],
  ['echo 1 >/proc/sys/kernel/panic', false],
];

describe('a virtual machine', () => {
  it("confines a container by berth's AppArmor profile, and leaves it what containers do", async (t) => {
    if (!requiresVirtualMachine(t)) return;
    const profile = join(temporaryDirectory(t), 'profile');
    writeFileSync(profile, profileText('own'));
    const machine = await bootVirtualMachine(t, {files: {profile}});
    assert.match(await machine.ok(START), /^own \(enforce\)$/m);
    for (const [command, allowed] of COMMANDS) {
      const {status, output} = await machine.run(`runc exec a sh -c '${command}'`);
      assert.equal(status === 0, allowed, `${command}: ${output}`);
    }
    // From outside, it is ended as any other.
    await machine.ok('runc kill a KILL; until runc delete a; do sleep 0.5; done');
  });
});
