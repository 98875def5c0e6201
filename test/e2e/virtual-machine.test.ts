/** What needs another kernel than a build machine may have, in a virtual machine: limits by cgroups of version 2, AppArmor. */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {profileText} from '../../src/lib/runtime/apparmor.ts';
import {executable} from '../cli/harness.ts';
import {requiresImage} from '../support/cached-images.ts';
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

/** A container's flags, and what the kernel's files then say of its cgroup. */
const LIMITS =
  '--memory 64M --memory-reservation 32M --memory-swap 96M --cpus 0.5 --cpu-shares 512 --pids-limit 50 --cpuset-cpus 0 --cpuset-mems 0';
const FILES: Readonly<Record<string, string>> = {
  'memory.max': '67108864',
  'memory.low': '33554432',
  'memory.swap.max': '33554432',
  'cpu.max': '50000 100000',
  'cpu.weight': '20',
  'pids.max': '50',
  'cpuset.cpus': '0',
  'cpuset.mems': '0',
};
const CHANGES = '--memory 128M --memory-swap 160M --cpus 0.25 --pids-limit 30';
const CHANGED = {...FILES, 'memory.max': '134217728', 'cpu.max': '25000 100000', 'pids.max': '30'};

/** Of `limited`, whose first process is `sleep`. */
const SHOW = `cgroup=/sys/fs/cgroup$(sed s/0::// /proc/$(pgrep -x sleep)/cgroup)
for file in ${Object.keys(FILES).join(' ')}; do echo "$file=$(cat $cgroup/$file)"; done`;
const lines = (files: Readonly<Record<string, string>>): string =>
  Object.entries(files)
    .map(([name, value]) => `${name}=${value}\n`)
    .join('');

describe('a virtual machine', () => {
  it('limits containers by cgroups of version 2, and leaves none', async (t) => {
    if (!requiresVirtualMachine(t)) return;
    const layout = requiresImage(t, 'busybox')?.layout;
    if (layout === undefined) return;
    const directory = temporaryDirectory(t);
    const ctr = join(directory, 'ctr');
    writeFileSync(ctr, '#!/bin/sh\nBERTH_PROGRAM=ctr exec /exchange/berth "$@"\n', {mode: 0o755});
    const archive = join(directory, 'archive');
    execFileSync('tar', ['-C', layout, '-cf', archive, 'blobs', 'index.json', 'oci-layout']);
    const machine = await bootVirtualMachine(t, {files: {berth: executable, ctr, archive}});
    await machine.ok('ctr images import --progress none /exchange/archive');
    await machine.ok(`ctr run -d ${LIMITS} $(ctr images ls -q) limited sleep 1000`);
    assert.equal(await machine.ok(SHOW), lines(FILES));
    await machine.ok(`ctr containers update ${CHANGES} limited`);
    assert.equal(await machine.ok(SHOW), lines(CHANGED));
    assert.match(await machine.ok('ctr tasks metrics limited'), /^memory\.usage_limit +134217728$/m);
    assert.equal(await machine.ok('ctr tasks pause limited >/tmp/said; cat /sys/fs/cgroup/default/limited*/cgroup.freeze'), '1\n');
    await machine.ok('ctr tasks resume limited; ctr containers rm -f limited; ! ls -d /sys/fs/cgroup/default/limited*');
  });

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
