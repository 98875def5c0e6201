/** Flags of `run` in containers that run: what a program inside sees of each. */
import assert from 'node:assert/strict';
import {mkdirSync, readFileSync, realpathSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {setTimeout as delay} from 'node:timers/promises';
import {parseTmpfs, parseUlimit, parseVolume} from '../../src/cli/container-flags.ts';
import {commandLine, forEachEngine} from '../cli/harness.ts';
import {ctrHere} from '../cli/run-in-process.ts';
import {is, requiresProgram, requiresRoot, temporaryDirectory} from '../support/helpers.ts';
import {publishedImages} from './fixtures.ts';

const published = publishedImages();

describe('values of flags', () => {
  it('are read as docker reads them', () => {
    assert.deepEqual(parseVolume('./a:/b'), {source: './a', destination: '/b'});
    assert.deepEqual(parseVolume('/a:/b:ro,rslave,z'), {source: '/a', destination: '/b', options: ['ro', 'rslave']});
    for (const text of ['', 'a', '/a', '/a:', ':/b', 'name:/b', '/a:/b:ro:x'])
      assert.throws(() => parseVolume(text), is('invalid_argument'), text);
    assert.deepEqual(parseTmpfs('/t'), {type: 'tmpfs', source: 'tmpfs', destination: '/t', options: ['noexec', 'nosuid', 'nodev']});
    assert.deepEqual(parseTmpfs('/t:size=1m,exec').options, ['nosuid', 'nodev', 'size=1m', 'exec']);
    assert.deepEqual(parseUlimit('nofile=5'), {type: 'RLIMIT_NOFILE', soft: 5, hard: 5});
    assert.deepEqual(parseUlimit('core=0:-1'), {type: 'RLIMIT_CORE', soft: 0, hard: Number.MAX_SAFE_INTEGER});
    for (const text of ['', 'nofile', 'nofile=', 'nofile=x', 'NOFILE=1', 'nofile=1:2:3', 'nofile=-2'])
      assert.throws(() => parseUlimit(text), is('invalid_argument'), text);
  });
});

/** Flags, a script, and what it prints. */
const SEEN: readonly (readonly [flags: readonly string[], script: string, printed: RegExp])[] = [
  [['-v', './shared:/s'], 'cat /s/file; echo new > /s/written', /^from the host$/],
  [['-v', './shared:/s:ro'], 'echo x > /s/no || echo refused', /^refused$/],
  [['--tmpfs', '/scratch:size=1m'], 'grep " /scratch " /proc/mounts', /^tmpfs \/scratch tmpfs .*nosuid.*noexec.*size=1024k/],
  [['--shm-size', '2M'], 'grep " /dev/shm " /proc/mounts', /size=2048k/],
  [['-w', '/tmp'], 'pwd', /^\/tmp$/],
  [['--workdir=/proc/../tmp'], 'pwd', /^\/tmp$/],
  [['--ulimit', 'nofile=77:88'], 'ulimit -Sn; ulimit -Hn', /^77\n88$/],
  [['--rlimit-nofile', '99:99'], 'ulimit -n', /^99$/],
  [['--group-add', '7', '--group-add', 'nobody'], 'id -G', /^0 7 65534$|^0 65534 7$/],
  [['--sysctl', 'net.ipv4.ip_forward=1'], 'cat /proc/sys/net/ipv4/ip_forward', /^1$/],
  [['--device', '/dev/null'], 'test -c /dev/null && echo there', /^there$/],
  [['--init'], 'cat /proc/1/comm', /^init$/],
  [['-it', '--tty=false'], 'echo interactive', /^interactive$/],
  [['--allow-new-privs'], 'grep NoNewPrivs /proc/self/status', /\t0$/],
  [['--security-opt', 'no-new-privileges=false'], 'grep NoNewPrivs /proc/self/status', /\t0$/],
  [[], 'grep -E "^(NoNewPrivs|Seccomp):" /proc/self/status', /^NoNewPrivs:\t1\nSeccomp:\t2$/],
  [['--security-opt', 'seccomp=unconfined'], 'grep ^Seccomp: /proc/self/status', /\t0$/],
  [['--seccomp', '--seccomp-profile', './profile.json'], 'mkdir /tmp/x 2>&1', /Read-only file system/],
  [['--privileged', '--privileged-without-host-devices'], 'ls /dev | grep -c loop', /^0$/],
  [['--cgroup', '/berth-flags-test', '--pids-limit', '50'], 'grep -c /berth-flags-test /proc/self/cgroup', /^[1-9]/],
];

/** Words that are refused, the status, and a part of the message. */
const REFUSED: readonly (readonly [flags: readonly string[], message: RegExp])[] = [
  [['--seccomp-profile', './profile.json'], /seccomp must be set to true/],
  [['--seccomp', '--seccomp-profile', '/absent'], /seccomp profile "\/absent": not found/],
  [['--privileged-without-host-devices'], /--privileged/],
  [['--cpus', '1', '--cpu-quota', '5'], /cpus and quota\/period should be used separately/],
  [['--device', '/etc/passwd'], /is no device/],
  [['--device', '/dev/absent'], /not found/],
  [['--with-ns', 'net:/proc/1/ns/net'], /a type of pid, network/],
  [['--cap-add', 'net_admin'], /write CAP_NET_ADMIN/],
  [['--rootfs-propagation', 'odd'], /rprivate/],
  [['--cgroup', '../x'], /absolute path/],
  [['--ulimit', 'odd=1'], /not known/],
  [['--ulimit', 'nofile=5:4'], /above the hard one/],
  [['--stop-signal', 'SIGODD'], /SIGODD/],
  [['--group-add', 'absent'], /no groups found/],
  [['--runtime', 'io.containerd.kata.v2'], /shim of containerd/],
  [['--runtime', 'absent-runtime'], /not installed/],
  [['-v', 'data:/data'], /\.\/data:\/data/],
  [['-v', '/absent:/data'], /not found/],
  [['-v', '/tmp:/data:odd'], /unknown option "odd"/],
  [['--restart', 'always'], /systemd/],
  [['--gpus', '1'], /--device/],
  [['--rdt-class', 'x'], /RDT/],
  [['--uidmap', '0:1000:1'], /user namespaces/],
  [['--apparmor-profile', 'a', '--apparmor-default-profile', 'b'], /exclude each other/],
];

forEachEngine('flags of run', (engine) => {
  it('a container sees what its flags say', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'runc', 'unshare', 'mount', 'tini')) return;
    const busybox = await published(t, 'busybox');
    if (busybox === undefined) return;
    const ctr = commandLine(t, engine, 'ctr');
    const here = realpathSync(temporaryDirectory(t));
    mkdirSync(join(here, 'shared'));
    writeFileSync(join(here, 'shared/file'), 'from the host\n');
    const profile = {defaultAction: 'SCMP_ACT_ALLOW', syscalls: [{names: ['mkdir', 'mkdirat'], action: 'SCMP_ACT_ERRNO', errnoRet: 30}]};
    writeFileSync(join(here, 'profile.json'), JSON.stringify(profile));
    await ctr.ok(['pull', '--plain-http', busybox.ref]);
    const run = (flags: readonly string[], script: string) =>
      ctr(['run', '--rm', '--name', '', ...flags, busybox.ref, '/bin/sh', '-c', script], {cwd: here});
    // What an engine can get wrong is the same for all of them.
    const some = <T>(all: readonly T[]): readonly T[] => all.filter((_, i) => engine === 'executable' || i % 6 === 0);
    for (const [flags, script, printed] of some(SEEN)) {
      const {stdout, stderr, status} = await run(flags, script);
      assert.match(stdout.trimEnd(), printed, `${flags.join(' ')}: ${status} ${stderr}`);
    }
    assert.equal(readFileSync(join(here, 'shared/written'), 'utf8'), 'new\n');
    assert.equal((await run(['--init'], 'sleep 300 & exec true')).status, 0, 'tini ends with its child');
    for (const [flags, message] of some(REFUSED)) {
      const {stdout, stderr, status} = await run(flags, 'echo ran');
      assert.deepEqual([stdout, status], ['', 125], `${flags.join(' ')}: ${stderr}`);
      assert.match(stderr, message, flags.join(' '));
    }
    assert.deepEqual(JSON.parse(await ctr.ok(['containers', 'ls', '--json'])), []);
  });

  it('a container that is created has its flags when it starts, and ends by its own stop signal', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'runc', 'conmon', 'unshare', 'mount')) return;
    const busybox = await published(t, 'busybox');
    if (busybox === undefined) return;
    const ctr = commandLine(t, engine, 'ctr');
    await ctr.ok(['pull', '--plain-http', busybox.ref]);
    const script = 'trap "exit 7" USR1; trap "" TERM; pwd > /ready; while :; do sleep 0.05; done';
    const flags = ['-w', '/tmp', '--stop-signal', 'USR1', '--stop-timeout', '100s', '--name', 'c1'];
    await ctr.ok(['containers', 'create', ...flags, busybox.ref, '/bin/sh', '-c', script]);
    await ctr.ok(['tasks', 'start', '--detach', 'c1']);
    while ((await ctr(['tasks', 'exec', 'c1', 'cat', '/ready'])).stdout !== '/tmp\n') await delay(20);
    const [end] = JSON.parse(await ctr.ok(['tasks', 'stop', '--json', 'c1'])) as {exitStatus: number}[];
    assert.equal(end!.exitStatus, 7);
    await ctr.ok(['tasks', 'rm', 'c1']);
    await ctr.ok(['containers', 'rm', 'c1']);
  });
});

it('a name takes the place of the second word', async (t) => {
  const place = {root: temporaryDirectory(t), state: temporaryDirectory(t)};
  assert.match(
    (await ctrHere(place, ['run', '--name', 'n', 'absent', 'words', '--json'])).stderr,
    /image "docker.io\/library\/absent:latest".* not found/,
  );
  assert.match((await ctrHere(place, ['run', 'absent'])).stderr, /missing argument: ID/);
});
