/** Every command for a user without root. */
import assert from 'node:assert/strict';
import {existsSync, mkdirSync, readdirSync, rmdirSync, statSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {userNamespaceNeed} from '../../src/cli/user-namespace-needs.ts';
import {COMMANDS} from '../../src/commands/index.ts';
import {commandLine, forEachEngine, run} from '../cli/harness.ts';
import {requiresImage} from '../support/cached-images.ts';
import {onEnd, requiresProgram, type Skippable, temporaryDirectory} from '../support/helpers.ts';
import {type OrdinaryUser, ordinaryUser, requiresOrdinaryUser, type UserOptions} from '../support/ordinary-user.ts';
import {pushImage, type Registry, sharedRegistry} from '../support/registry.ts';

const registry = sharedRegistry();
const requires = (t: Skippable): boolean => requiresOrdinaryUser(t) && requiresProgram(t, 'runc', 'conmon');

/** @returns its reference; `undefined` if it cannot be had here */
async function published(
  t: Skippable,
  name: 'busybox' | 'redis' | 'awkward',
): Promise<{readonly ref: string; readonly r: Registry} | undefined> {
  const image = requiresImage(t, name);
  const r = await registry(t);
  if (image === undefined || r === undefined) return undefined;
  await pushImage(r, `${name}:1`, image.layout);
  return {ref: `${r.host}/${name}:1`, r};
}

const storeOf = (user: OrdinaryUser): string => join(user.home, '.local/share/berth');

/**
 * Type, mode, owner, size, time, link target and extended attributes of each entry, and a checksum of each file. The root's time is that
 * of the extraction where layers are extracted and none of them carries it.
 */
const LISTING = `cd "$1" && find . -printf '%p %y %m %U:%G %T@ %l %s\\n' | sed 's/\\( d .*\\) [0-9]*$/\\1/; s/^\\(\\. d .*\\) [0-9.]* $/\\1/' | sort
find . -type f -print0 | sort -z | xargs -0 sha256sum
find . -print0 | sort -z | xargs -0 getfattr -h -d -m '^(user|security\\.capability)' --absolute-names 2>/dev/null`;

forEachEngine('a user without root', (engine) => {
  it('pulls, runs, executes, stops and removes', async (t) => {
    if (!requires(t)) return;
    const image = await published(t, 'busybox');
    if (image === undefined) return;
    const {ref} = image;
    const user = ordinaryUser(t, engine);
    await user.ok(['pull', '-q', '--plain-http', ref]);
    assert.equal(await user.ok(['run', '--rm', ref, 'f1', 'id', '-u']), '0\n');
    assert.equal(await user.ok(['run', '--rm', '--user', '65534:65534', ref, 'f2', 'id', '-u']), '65534\n');
    assert.equal((await user.berth(['run', '--rm', '--net-host', ref, 'f3', 'sh', '-c', 'exit 7'])).status, 7);
    assert.equal(await user.ok(['run', '--rm', '--ipc', 'host', '--uts', 'host', '--net-host', ref, 'f3', 'echo', 'ran']), 'ran\n');
    await user.ok([
      'run',
      '-d',
      ref,
      'd1',
      'sh',
      '-c',
      'trap exit TERM; touch /root/made; chown 33 /root/made; echo up; while :; do sleep 0.1; done',
    ]);
    assert.equal(await user.ok(['exec', 'd1', 'stat', '-c', '%u', '/root']), '0\n');
    assert.match(await user.ok(['ps']), /d1 .*RUNNING/);
    assert.match(await user.ok(['logs', 'd1']), /up/);
    for (const args of [
      ['diff', 'd1'],
      ['commit', 'd1', 'made:1'],
      ['tasks', 'pause', 'd1'],
    ]) {
      const {status, stderr} = await user.berth(args);
      assert.match(stderr, /"d1" cannot be paused without root: failed precondition\nhint: stop it instead: berth tasks stop d1\n/);
      assert.equal(status, 9, args.join(' '));
    }
    const ps = JSON.parse(await user.ok(['tasks', 'ps', '--json', 'd1'])) as {command: string[]}[];
    assert.deepEqual(ps[0]?.command[0], 'sh');
    for (const args of [
      ['tasks', 'metrics', 'd1'],
      ['tasks', 'stats', '--no-stream', 'd1'],
    ]) {
      const {status, stderr} = await user.berth(args);
      assert.match(stderr, /nothing is counted for task "d1"/);
      assert.equal(status, 9, args.join(' '));
    }
    await user.ok(['cp', 'd1:/root/made', join(user.home, 'made')]);
    await user.ok(['stop', 'd1']);
    assert.match(await user.ok(['diff', 'd1']), /^C \/root\nA \/root\/made$/m);
    await user.ok(['commit', 'd1', 'made:1']);
    assert.equal(await user.ok(['run', '--rm', 'made:1', 'f4', 'stat', '-c', '%u', '/root/made']), '33\n');
    await user.ok(['rm', 'd1']);
    // What does not hear SIGTERM is ended with all that it has started.
    const deaf = ['sh', '-c', 'trap "" TERM; sleep 100000 & wait'];
    await user.ok(['run', '-d', '--stop-timeout', '1s', ref, 'd2', ...deaf]);
    while ((JSON.parse(await user.ok(['tasks', 'ps', '--json', 'd2'])) as unknown[]).length < 2);
    await user.ok(['stop', 'd2']);
    await user.ok(['tasks', 'rm', 'd2']);
    await user.ok(['tasks', 'start', '--detach', 'd2']);
    await user.ok(['tasks', 'kill', '--all', '--signal', 'KILL', 'd2']);
    await user.ok(['tasks', 'wait', 'd2']);
    await user.ok(['tasks', 'rm', 'd2']);
    await user.ok(['tasks', 'start', '--detach', 'd2']);
    await user.ok(['tasks', 'rm', '--force', 'd2']);
    await user.ok(['containers', 'rm', 'd2']);
    const bundle = join(user.home, 'bundle');
    await user.ok(['unpack', 'made:1', bundle]);
    assert.equal(statSync(join(bundle, 'rootfs/root/made')).uid, user.firstSubordinate + 32);
    await user.ok(['unshare', 'rm', join(bundle, 'rootfs/root/made')]);
    await user.ok(['repack', bundle, 'made:2']);
    assert.equal((await user.berth(['run', '--rm', 'made:2', 'f5', 'test', '-e', '/root/made'])).status, 1);
    await user.ok(['unshare', 'rm', '-r', bundle]);
    await user.ok(['rmi', ref, 'made:1', 'made:2']);
    assert.match(await user.ok(['check']), /nothing wrong/);
    for (const part of ['layers', 'trash', 'work']) assert.deepEqual(readdirSync(join(storeOf(user), part)), [], part);
  });

  it('has one user namespace for all that begins at once', async (t) => {
    if (!requires(t)) return;
    const image = await published(t, 'busybox');
    if (image === undefined) return;
    const user = ordinaryUser(t, engine);
    await user.ok(['pull', '-q', '--plain-http', image.ref]);
    const ids = ['a', 'b', 'c', 'd'];
    await Promise.all(ids.map((id) => user.ok(['run', '-d', '--rm', image.ref, id, 'sleep', '1000'])));
    const namespaces = await Promise.all(ids.map((id) => user.ok(['exec', id, 'readlink', '/proc/self/ns/user'])));
    assert.equal(new Set(namespaces).size, 1, namespaces.join(' '));
    await user.ok(['kill', '--signal', 'KILL', ...ids]);
    while ((await user.ok(['containers', 'ls', '--quiet'])) !== '');
    assert.match(await user.ok(['gc']), /layers/);
  });
});

describe('a user without root', () => {
  it('unpacks the tree that root unpacks', async (t) => {
    if (!requires(t) || !requiresProgram(t, 'getfattr')) return;
    const image = await published(t, 'redis');
    if (image === undefined) return;
    const {ref} = image;
    const user = ordinaryUser(t);
    const mine = join(user.home, 'mnt');
    await user.ok(['pull', '-q', '--plain-http', ref]);
    await user.run(['mkdir', mine]);
    const seen = await user.berth([
      'unshare',
      'sh',
      '-ec',
      `"$2" images mount "$3" "$1" >/dev/null; ${LISTING}`,
      'sh',
      mine,
      join(user.home, '../package/bin/berth'),
      ref,
    ]);
    assert.equal(seen.status, 0, seen.stderr);

    const root = commandLine(t, 'executable', 'berth');
    await root.ok(['pull', '-q', '--plain-http', ref]);
    const theirs = temporaryDirectory(t);
    const target = join(theirs, 'mnt');
    mkdirSync(target);
    await root.ok(['images', 'mount', ref, target]);
    try {
      const expected = await run('sh', ['-ec', LISTING, 'sh', target]);
      assert.ok(expected.stdout.split('\n').length > 2000);
      assert.deepEqual(seen.stdout.split('\n'), expected.stdout.split('\n'));
    } finally {
      await root.ok(['images', 'unmount', target]);
    }
  });

  it('is told which owner of a layer its range lacks', async (t) => {
    if (!requires(t)) return;
    const image = await published(t, 'redis');
    if (image === undefined) return;
    const user = ordinaryUser(t, 'executable', {subordinateIds: 900});
    const {status, stderr} = await user.berth(['pull', '-q', '--plain-http', image.ref]);
    assert.equal(status, 9);
    assert.match(stderr, /has no owner \d+:\d+[\s\S]*larger range in \/etc\/subuid/);
  });

  it('with one id has all files, is told so, and does not take them for others', async (t) => {
    if (!requires(t)) return;
    const image = await published(t, 'redis');
    if (image === undefined) return;
    const user = ordinaryUser(t);
    const one = {env: {BERTH_ONE_ID: '1'}};
    const {status, stderr} = await user.berth(['pull', '--progress', 'none', '--plain-http', image.ref], one);
    assert.equal(status, 0, stderr);
    assert.match(stderr, /entries are of other users in the layer, and belong to this one here/);
    assert.match(await user.ok(['run', '--rm', image.ref, 'r', 'redis-server', '--version'], one), /Redis server/);
    const before = readdirSync(join(storeOf(user), 'layers'));
    assert.ok(before.length > 0 && before.every((name) => name.startsWith('overlayfs-one-')), before.join(' '));
    await user.ok(['pull', '-q', '--plain-http', image.ref]);
    const whole = readdirSync(join(storeOf(user), 'layers')).filter((name) => !name.startsWith('overlayfs-one-'));
    assert.ok(whole.length > 0);
  });

  it('is refused what takes root of the machine, before anything is left behind', async (t) => {
    if (!requires(t)) return;
    const image = await published(t, 'busybox');
    if (image === undefined) return;
    const user = ordinaryUser(t);
    await user.ok(['pull', '-q', '--plain-http', image.ref]);
    for (const [flags, words] of [
      [['--memory-limit', '100000000'], /no limit of memory/],
      [['--pids-limit', '10'], /no limit of pids/],
      [['--cpus', '1'], /no limit of cpu/],
      [['--pid', 'host'], /process namespace of others[\s\S]*leave out --pid/],
      [['--with-ns', 'pid:/proc/1/ns/pid'], /process namespace of others/],
      [['--network', 'podman'], /needs root of the machine[\s\S]*there are: pasta, host, none/],
    ] as const) {
      const {status, stderr} = await user.berth(['run', '--rm', ...flags, image.ref, 'x', 'true']);
      assert.equal(status, 125, stderr);
      assert.match(stderr, words);
    }
    const {status, stderr} = await user.berth(['images', 'mount', image.ref, user.home]);
    assert.equal(status, 7);
    assert.match(stderr, /berth unshare/);
    assert.match(await user.ok(['check']), /nothing wrong/);
  });

  it('leaves a container in the control group of its command, which is where systemd limits both', async (t) => {
    if (!requires(t)) return;
    const image = await published(t, 'busybox');
    if (image === undefined) return;
    const user = ordinaryUser(t);
    await user.ok(['pull', '-q', '--plain-http', image.ref]);
    const tree = ['/sys/fs/cgroup/pids', '/sys/fs/cgroup'].find((directory) => existsSync(join(directory, 'cgroup.procs')))!;
    const name = `berth-test-${process.pid}`;
    mkdirSync(join(tree, name));
    onEnd(t, () => rmdirSync(join(tree, name)));
    const inside = async (...args: readonly string[]): Promise<string> => {
      const command = user.argv(join(user.home, '../package/bin/berth'), ...args);
      const script = 'echo $$ >"$0"; exec "$@"';
      const {status, stdout, stderr} = await run('sh', ['-c', script, join(tree, name, 'cgroup.procs'), ...command], {env: user.env});
      assert.equal(status, 0, stderr);
      return stdout;
    };
    const place = ['cat', '/proc/self/cgroup'];
    assert.match(await inside('run', '--rm', image.ref, 'f1', ...place), new RegExp(`/${name}$`, 'm'));
    await inside('run', '-d', image.ref, 'd1', ...place);
    await user.ok(['wait', 'd1']);
    assert.match(await user.ok(['logs', 'd1']), new RegExp(`/${name}$`, 'm'));
    await user.ok(['rm', 'd1']);
  });

  /** unshare(1) of a machine whose AppArmor lets nobody have rights in a user namespace. */
  const RESTRICTED = '#!/bin/sh\necho "unshare: write failed /proc/self/uid_map: Operation not permitted" >&2\nexit 1\n';
  const OFF: readonly (readonly [what: string, options: UserOptions, prefix: readonly string[], status: number, words: RegExp])[] = [
    ['no newuidmap', {files: {'/usr/bin/newuidmap': '/dev/null'}}, [], 14, /newuidmap is not installed[\s\S]*package uidmap/],
    ['no newgidmap', {files: {'/usr/bin/newgidmap': '/dev/null'}}, [], 14, /newgidmap is not installed[\s\S]*package uidmap/],
    ['no range of ids', {subordinateIds: 0}, [], 9, /\/etc\/subuid has no range[\s\S]*usermod --add-subuids/],
    ['a range for users alone', {files: {'/etc/subgid': ''}}, [], 9, /\/etc\/subgid has no range/],
    [
      'user namespaces off',
      {files: {'/proc/sys/user/max_user_namespaces': '0\n'}},
      [],
      9,
      /sysctl user\.max_user_namespaces=15000; [^\n]*\/etc\/sysctl\.d\//,
    ],
    [
      'user namespaces off for all but root, as Debian can have them',
      {kernelSettings: {unprivileged_userns_clone: '0'}},
      [],
      9,
      /sysctl kernel\.unprivileged_userns_clone=1; [^\n]*\/etc\/sysctl\.d\//,
    ],
    [
      'user namespaces restricted by AppArmor',
      {kernelSettings: {apparmor_restrict_unprivileged_userns: '1'}, files: {'/usr/bin/unshare': RESTRICTED}},
      [],
      9,
      /uid_map: Operation not permitted[\s\S]*sysctl kernel\.apparmor_restrict_unprivileged_userns=0; [^\n]*\/etc\/sysctl\.d\/[^\n]*\/etc\/apparmor\.d/,
    ],
    ['no new privileges', {}, ['setpriv', '--no-new-privs'], 9, /no_new_privs/],
  ];
  for (const [what, options, prefix, status, words] of OFF)
    it(`is refused with ${what} before anything is made, and pulls without unpacking`, async (t) => {
      if (!requires(t)) return;
      const image = await published(t, 'busybox');
      if (image === undefined) return;
      const {ref} = image;
      const user = ordinaryUser(t, 'executable', options);
      const berth = (...args: readonly string[]) => user.run([...prefix, join(user.home, '../package/bin/berth'), ...args]);
      for (const args of [
        ['pull', '--plain-http', ref],
        ['run', '--rm', ref, 'x', 'true'],
        ['unshare', 'true'],
      ]) {
        const refused = await berth(...args);
        assert.match(refused.stderr, words);
        assert.equal(refused.status, args[0] === 'pull' ? status : 125, args.join(' '));
      }
      assert.ok(!existsSync(storeOf(user)));
      assert.match((await berth('doctor')).stdout, /user namespace +error/);
      for (const args of [
        ['pull', '-q', '--no-unpack', '--plain-http', ref],
        ['images', 'ls'],
        ['push', '--plain-http', '--progress', 'none', ref],
        ['copy', '--plain-http', '--progress', 'none', ref, `${ref.split('/')[0]}/copied:1`],
        ['images', 'tag', ref, 'other'],
        ['rmi', 'other', ref],
        ['gc'],
        ['df'],
      ]) {
        const {status: ended, stderr} = await berth(...args);
        assert.equal(ended, 0, `${args.join(' ')}: ${stderr}`);
      }
    });

  it('pulls, pushes and copies in a container without privileges, and is told what does not work there', async (t) => {
    if (!requires(t)) return;
    const [image, busybox] = [await published(t, 'redis'), await published(t, 'busybox')];
    if (image === undefined || busybox === undefined) return;
    const root = commandLine(t, 'executable', 'berth');
    await root.ok(['pull', '-q', '--plain-http', image.ref]);
    const inside = async (user: string, script: string): Promise<string> => {
      const where = ['--net-host', '--user', user, '--env', 'HOME=/tmp/h', '--volume', `${join(import.meta.dirname, '../..')}:/b:ro`];
      const words = [
        'sh',
        '-c',
        `mkdir /tmp/h; berth() { /b/bin/berth "$@" 2>&1; echo "status $?"; }; ${script}`,
        'sh',
        busybox.ref,
        busybox.ref.split('/')[0]!,
      ];
      return root.ok(['run', '--rm', ...where, image.ref, `c${user}`, ...words]);
    };
    const works = 'berth push --plain-http --progress none "$1"; berth copy --plain-http --progress none "$1" "$2/copied:2"';
    const asRoot = await inside(
      '0',
      `berth pull -q --plain-http "$1"; ${works}; berth unpack "$1" /tmp/bundle; echo 1 >/tmp/bundle/rootfs/made; berth repack /tmp/bundle made:1; berth diff made:1; printf '#!/bin/sh\necho runc version 1.3.0' >/usr/bin/runc; chmod +x /usr/bin/runc; berth run --rm "$1" x true`,
    );
    const statuses = [...Array<string>(5).fill('status 0'), 'status 9', 'status 125'];
    assert.deepEqual(asRoot.match(/status \d+/g), statuses, asRoot);
    assert.match(asRoot, /no mount namespace[\s\S]*SYS_ADMIN; pull, push, copy, unpack and repack need no mount/);
    // Once, and not by unshare(1) itself, too.
    assert.match(asRoot, /\nberth: container "x": unable to mount: no mount namespace: .*\nhint: .*SYS_ADMIN.*\nstatus 125\n/);
    assert.doesNotMatch(asRoot, /^unshare:/m);
    const asUser = await inside('1000', `berth pull -q --no-unpack --plain-http "$1"; ${works}; berth pull -q --plain-http "$1"`);
    assert.deepEqual(asUser.match(/status \d+/g), ['status 0', 'status 0', 'status 0', 'status 9'], asUser);
    assert.match(asUser, /container that this runs in forbids it; without a user namespace: pull --no-unpack, push, copy/);
  });

  it('has a quick start', async (t) => {
    if (!requires(t)) return;
    const image = await published(t, 'busybox');
    if (image === undefined) return;
    const user = ordinaryUser(t);
    const at = (path: string): string => join(user.home, '../package', path);
    const {status, stdout, stderr} = await user.run([at('node_modules/.bin/node'), at('scripts/quickstart.ts'), image.ref, '--plain-http']);
    assert.equal(status, 0, stderr);
    assert.match(stdout, /hello from process 1 on Linux/);
    assert.deepEqual(readdirSync(join(user.home, '../tmp')), []);
  });

  it('gets the status of a program that it starts in its namespace', async (t) => {
    if (!requires(t)) return;
    const user = ordinaryUser(t);
    assert.equal((await user.berth(['unshare', 'sh', '-c', 'exit 7'])).status, 7);
    assert.equal((await user.berth(['unshare', 'no-such-program'])).status, 127);
    assert.equal(await user.ok(['unshare', 'sh', '-c', 'id -u; grep SigIgn /proc/self/status']), '0\nSigIgn:\t0000000000000000\n');
    const inside = await user.ok(['unshare', join(user.home, '../package/bin/berth'), 'info', '--json']);
    assert.equal((JSON.parse(inside) as {root: string}).root, storeOf(user));
  });

  it('has no command that is of two minds about the namespace', () => {
    const needs = new Map(Object.keys(COMMANDS.commands).map((id) => [id, userNamespaceNeed(id, false)]));
    const never = [...needs].flatMap(([id, need]) => (need === 'never' ? [id] : []));
    // What these do, reading records or asking registries, meets no file of a layer. A new command is put here with that thought.
    assert.deepEqual(
      never.sort(),
      NEVER.split(' ')
        .map((id) => id.replaceAll('_', ' '))
        .sort(),
    );
  });
});

const NEVER =
  'attach catalog completion config_explain config_show containers_info containers_label containers_ls containers_systemd content_active content_fetch-blob content_fetch-object content_get content_label content_ls content_push-object copy events images_check images_export images_inspect images_ls images_mount images_unmount images_verify info inspect leases_create leases_ls login logout namespaces_create namespaces_label namespaces_ls oci_spec ping push referrers registry_rm resolve snapshots_info snapshots_label snapshots_ls snapshots_mounts snapshots_tree sync tags tasks_attach tasks_logs tasks_ls tasks_metrics tasks_ps tasks_stats tasks_wait unshare version volumes_inspect volumes_ls';
