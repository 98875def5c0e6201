/** Flags of `run` in containers that run: what a program inside sees of each. */
import assert from 'node:assert/strict';
import {existsSync, mkdirSync, readFileSync, realpathSync, rmSync, writeFileSync} from 'node:fs';
import {hostname} from 'node:os';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {setTimeout as delay} from 'node:timers/promises';
import {parseTmpfs, parseUlimit} from '../../src/cli/container-flags.ts';
import {parseVolume} from '../../src/cli/volume-flag.ts';
import type {Spec} from '../../src/lib/runtime/spec.ts';
import {commandLine, forEachEngine} from '../cli/harness.ts';
import {ctrHere} from '../cli/run-in-process.ts';
import {is, onEnd, requiresProgram, requiresRoot, temporaryDirectory} from '../support/helpers.ts';
import {program32} from '../support/static-programs.ts';
import {publishedImages} from './fixtures.ts';

const published = publishedImages();

describe('values of flags', () => {
  it('are read as docker reads them', () => {
    assert.deepEqual(parseVolume('./a:/b'), {source: './a', destination: '/b'});
    assert.deepEqual(parseVolume('/a:/b:ro,rslave,z'), {source: '/a', destination: '/b', options: ['ro', 'rslave']});
    assert.deepEqual(parseVolume('/a'), {destination: '/a'});
    assert.deepEqual(parseVolume('data:/a:ro,nocopy'), {name: 'data', destination: '/a', options: ['ro'], noCopy: true});
    for (const text of ['', 'a', '/a:', ':/b', 'name:', '/a:/b:ro:x']) assert.throws(() => parseVolume(text), is('invalid_argument'), text);
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
  [['--device', '/dev/kmsg:/dev/messages:r'], 'test -c /dev/messages && ! test -e /dev/kmsg && (: > /dev/messages) 2>&1', /not permitted/],
  [['--mount', 'type=bind,source=./shared,target=/s,readonly'], 'cat /s/file; echo x > /s/no || echo refused', /^from the host\nrefused$/],
  [['--mount', 'type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=700'], 'grep " /t " /proc/mounts', / \/t tmpfs .*size=1024k,mode=700/],
  [['--restart=no', '--no-healthcheck', '--expose', '80', '--security-opt', 'label=disable'], 'echo runs', /^runs$/],
  [['--cap-drop', 'all', '--cap-add', 'net_admin', '--cap-add=CAP_CHOWN'], 'grep CapEff /proc/self/status', /0000000000001001$/],
  [['--init'], 'cat /proc/1/comm', /^init$/],
  [['-it', '--tty=false'], 'echo interactive', /^interactive$/],
  [['--allow-new-privs'], 'grep NoNewPrivs /proc/self/status', /\t0$/],
  [['--security-opt', 'no-new-privileges=false'], 'grep NoNewPrivs /proc/self/status', /\t0$/],
  [[], 'grep -E "^(NoNewPrivs|Seccomp):" /proc/self/status', /^NoNewPrivs:\t1\nSeccomp:\t2$/],
  [['--security-opt', 'seccomp=unconfined'], 'grep ^Seccomp: /proc/self/status', /\t0$/],
  [['--seccomp', '--seccomp-profile', './profile.json'], 'mkdir /tmp/x 2>&1', /Read-only file system/],
  [['--privileged', '--privileged-without-host-devices'], 'ls /dev | grep -c loop', /^0$/],
  [['--pid', 'host'], 'readlink /proc/self', /^\d{2,}$/],
  [['--uts', 'host'], 'hostname', new RegExp(`^${hostname()}$`)],
  [['--ipc', 'host'], 'cat /dev/shm/berth-flags-test', /^from the host$/],
  [['--cgroupns', 'private'], 'tail -n 1 /proc/self/cgroup', /:\/$/],
  [['--memory', '64m', '--memory-reservation', '32m', '--memory-swap=-1', '--oom-score-adj=500'], 'cat /proc/self/oom_score_adj', /^500$/],
  [['--no-pivot'], 'ls -d /bin', /^\/bin$/],
  [['--security-opt', 'apparmor=unconfined'], 'ls -d /bin', /^\/bin$/],
  [['--mount', 'type=tmpfs,dst=/w,readonly=false,ro=0', '--quiet', '--log-driver=none'], 'touch /w/x && ls /w', /^x$/],
  [['--net', 'none', '--dns-opt', 'ndots:2'], 'grep ndots /etc/resolv.conf', /ndots:2/],
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
  [['--cap-add', 'odd'], /"CAP_ODD" is not known/],
  [['--device', '/dev/null:null'], /is not PATH/],
  [['--mount', 'type=bind,src=/tmp,dst=/b,readonly=x'], /unknown option "readonly"/],
  [['--label-file', '/absent'], /file "\/absent" of labels: not found/],
  [['--log-driver', 'syslog'], /neither none nor json-file/],
  [['--log-driver', 'none', '--log-uri', 'none'], /exclude each other/],
  [['--rootfs-propagation', 'odd'], /rprivate/],
  [['--cgroup', '../x'], /absolute path/],
  [['--ulimit', 'odd=1'], /not known/],
  [['--ulimit', 'nofile=5:4'], /above the hard one/],
  [['--stop-signal', 'SIGODD'], /SIGODD/],
  [['--group-add', 'absent'], /no groups found/],
  [['--runtime', 'io.containerd.kata.v2'], /shim of containerd/],
  [['--runtime', 'absent-runtime'], /not installed/],
  [['-v', 'da_-ta:/data'], /identifier "da_-ta"/],
  [['-v', 'data:data'], /absolute path/],
  [['-v', 'data:/data', '-v', '/tmp:/data'], /something else is mounted/],
  [['--volumes-from', 'absent'], /container "absent" in namespace "default": not found/],
  [['--volumes-from', 'a:b'], /is not ID/],
  [['--image-volume', 'x'], /own, tmpfs, ignore/],
  [['-v', '/absent:/data'], /not found/],
  [['-v', '/tmp:/data:odd'], /unknown option "odd"/],
  [['--restart', 'always'], /systemd/],
  [['--apparmor-default-profile', 'a b'], /AppArmor profile "a b"/],
  [['--security-opt', 'apparmor=a', '--apparmor-default-profile', 'b'], /AppArmor profile "b", and "a" besides/],
  [['--with-ns', 'network:/absent'], /network namespace "\/absent": not found/],
  [['--with-ns', 'network:/etc/passwd'], /"\/etc\/passwd": it is none: invalid argument/],
  [['--hostname', 'x y'], /hostname "x y" is not one/],
  [['-v', '/tmp:/data:idmap'], /mapped owners: not implemented/],
  [['--mount', 'type=bind,src=/tmp,dst=/data,options=rbind:idmap'], /mapped owners: not implemented/],
  [['--gpus', '1'], /--device/],
  [['--rdt-class', 'x'], /RDT/],
  [['--uidmap', '1:1000:1'], /has the container's user 0/],
  [['--uidmap', '0:1000'], /is not CONTAINER:HOST:SIZE/],
  [['--uidmap', '0:1000:9', '--userns', 'host'], /exclude each other/],
  [['--userns', 'keep-id'], /--uidmap/],
  [['--pid', 'container:x'], /--with-ns pid:\/proc\/PID\/ns\/pid/],
  [['--pid', 'host', '--with-ns', 'pid:/proc/1/ns/pid'], /pid namespace: the host's and/],
  [['--uts', 'host', '--hostname', 'h'], /the host's name is not the container's/],
  [['--memory-swap', '1m'], /less than the memory limit/],
  [['--memory', '1m', '--memory-reservation', '2m'], /above the limit/],
  [['--oom-score-adj', '1001'], /-1000 to 1000/],
  [['--cidfile', './profile.json'], /already exists/],
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
    writeFileSync('/dev/shm/berth-flags-test', 'from the host\n');
    onEnd(t, () => rmSync('/dev/shm/berth-flags-test', {force: true}));
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
    const flags = ['-w', '/tmp', '--stop-signal', 'USR1', '--stop-timeout', '100', '--name', 'c1'];
    await ctr.ok(['containers', 'create', ...flags, busybox.ref, '/bin/sh', '-c', script]);
    await ctr.ok(['tasks', 'start', '--detach', 'c1']);
    while ((await ctr(['tasks', 'exec', 'c1', 'cat', '/ready'])).stdout !== '/tmp\n') await delay(20);
    const [end] = JSON.parse(await ctr.ok(['tasks', 'stop', '--json', 'c1'])) as {exitStatus: number}[];
    assert.equal(end!.exitStatus, 7);
    await ctr.ok(['tasks', 'rm', 'c1']);
    await ctr.ok(['containers', 'rm', 'c1']);
  });
});

forEachEngine('containers without an image', (engine) => {
  it('have a directory as their root, or a specification as it is, and start again', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'runc', 'conmon', 'unshare', 'mount', 'cp')) return;
    const busybox = await published(t, 'busybox');
    if (busybox === undefined) return;
    const ctr = commandLine(t, engine, 'ctr');
    const here = realpathSync(temporaryDirectory(t));
    await ctr.ok(['pull', '--plain-http', busybox.ref]);
    const copy = 'cp -a /bin /etc /lib* /out/ 2>/dev/null; mkdir /out/proc /out/dev /out/sys /out/run /out/tmp';
    mkdirSync(join(here, 'tree'));
    await ctr.ok(['run', '--rm', '--name', '', '-v', './tree:/out', busybox.ref, '/bin/sh', '-c', copy], {cwd: here});

    const script = 'echo once more >> /log; cat /log; exit 3';
    const run = ['run', '--rootfs', '--cidfile', 'id', './tree', 'r1', '/bin/sh', '-c', script];
    assert.deepEqual(await ctr(run, {cwd: here}), {status: 3, stdout: 'once more\n', stderr: ''});
    assert.equal(readFileSync(join(here, 'id'), 'utf8'), 'r1');
    assert.equal((await ctr(['tasks', 'start', 'r1'])).stdout, 'once more\nonce more\n');
    assert.equal(readFileSync(join(here, 'tree/log'), 'utf8'), 'once more\nonce more\n');
    const [listed] = JSON.parse(await ctr.ok(['containers', 'ls', '--json'])) as {image: string; snapshotKey: string}[];
    assert.deepEqual([listed!.image, listed!.snapshotKey], ['', '']);
    assert.match((await ctr(['diff', 'r1'])).stderr, /no snapshot/);
    const missing = await ctr(['run', '--rm', '--rootfs', '--cidfile', 'id2', './tree', 'r2', '/absent'], {cwd: here});
    assert.equal(missing.status, 127, missing.stderr);
    assert.ok(!existsSync(join(here, 'id2')), 'no container, no file');

    const spec = JSON.parse(await ctr.ok(['containers', 'info', '--spec', 'r1'])) as {
      root: {path: string};
      process: {args: string[]; env: string[]};
      linux: {cgroupsPath?: string};
      hostname?: string;
    };
    assert.equal(spec.root.path, join(here, 'tree'));
    delete spec.linux.cgroupsPath;
    const given = {
      ...spec,
      hostname: 'given',
      root: {path: 'tree'},
      process: {...spec.process, args: ['/bin/sh', '-c', 'hostname; exit 9']},
    };
    writeFileSync(join(here, 'config.json'), JSON.stringify(given));
    const config = ['--config', join(here, 'config.json')];
    assert.deepEqual(await ctr(['run', '--rm', ...config, 'g1']), {status: 9, stdout: 'given\n', stderr: ''});
    await ctr.ok(['run', '--detach', ...config, '--label', 'a=b', 'g2']);
    const [end] = JSON.parse(await ctr.ok(['tasks', 'wait', '--json', 'g2'])) as {exitStatus: number}[];
    assert.equal(end!.exitStatus, 9);
    await ctr(['tasks', 'rm', 'g2']);
    const record = JSON.parse(await ctr.ok(['containers', 'info', 'g2'])) as {labels: unknown; spec: typeof spec};
    assert.deepEqual(record.labels, {a: 'b'});
    const {linux, ...rest} = record.spec;
    const {cgroupsPath, ...others} = linux;
    assert.match(cgroupsPath ?? '', /^\/default\/g2~/);
    assert.deepEqual({...rest, linux: others}, {...given, root: {path: join(here, 'tree')}});
    for (const [words, message] of [
      [['--env', 'A=b', 'g3'], /excludes --env/],
      [['--rootfs', 'g3'], /excludes --rootfs/],
      [['g3', 'echo'], /excludes a command/],
      [['--tty', 'g3'], /"process.terminal"/],
    ] as const) {
      const {status, stderr} = await ctr(['run', ...config, ...words]);
      assert.deepEqual([status, message.test(stderr)], [125, true], stderr);
    }
    for (const [words, message] of [
      [['--rootfs', '--platform', 'linux/amd64', './tree', 'g4', '/bin/true'], /has no platform/],
      [['--rootfs', '--snapshotter', 'native', './tree', 'g4', '/bin/true'], /no snapshotter/],
      [['--rootfs', './config.json', 'g4', '/bin/true'], /is not a directory/],
      [['--rootfs', './absent', 'g4', '/bin/true'], /root directory ".*\/absent": not found/],
      [['--rootfs', '--cidfile', 'id', './tree', 'g4', '/bin/true'], /file "id" for the name of the container: already exists/],
    ] as const) {
      const {status, stderr} = await ctr(['run', ...words], {cwd: here});
      assert.deepEqual([status, message.test(stderr)], [125, true], stderr);
    }
    assert.equal(readFileSync(join(here, 'id'), 'utf8'), 'r1');
    await ctr.ok(['containers', 'rm', 'r1', 'g2']);
    assert.equal(readFileSync(join(here, 'tree/log'), 'utf8'), 'once more\nonce more\n', 'the directory stays');
    assert.match(await ctr.ok(['check']), /nothing wrong/);
  });
});

it('a 32-bit program in a 64-bit image is killed, and a warning says why', async (t) => {
  if (process.arch !== 'x64' || !requiresRoot(t) || !requiresProgram(t, 'runc', 'unshare', 'mount')) return;
  const tree = temporaryDirectory(t);
  writeFileSync(join(tree, 'old'), program32(), {mode: 0o755});
  for (const directory of ['proc', 'dev', 'sys', 'run']) mkdirSync(join(tree, directory));
  const place = {root: temporaryDirectory(t), state: temporaryDirectory(t)};
  const run = (...flags: readonly string[]) => ctrHere(place, ['run', '--rm', '--rootfs', ...flags, tree, 'old', '/old']);
  const killed = await run();
  assert.equal(killed.status, 159, killed.stderr);
  assert.match(killed.stderr, /warning: status 159: .* 32-bit programs.*\nhint: .*linux\/386.*seccomp=unconfined/);
  const free = await run('--security-opt', 'seccomp=unconfined');
  assert.deepEqual([free.status, free.stderr], [0, '']);
});

it('the default specification is that of a platform', async (t) => {
  const place = {root: temporaryDirectory(t), state: temporaryDirectory(t)};
  const spec = async (...flags: readonly string[]) => ctrHere(place, ['oci', 'spec', ...flags]);
  const architectures = async (platform: string): Promise<unknown> =>
    (JSON.parse((await spec('--platform', platform)).stdout) as Spec).linux.seccomp?.architectures;
  assert.deepEqual((await spec('--platform', 'linux')).stdout, (await spec()).stdout);
  assert.deepEqual(await architectures('linux/386'), ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X86']);
  assert.equal(await architectures('linux/riscv64'), undefined);
  assert.equal((await spec('--platform', 'windows/amd64')).status, 12);
  assert.equal((await spec('--platform', 'pdp11')).status, 3);
});

it('a name takes the place of the second word', async (t) => {
  const place = {root: temporaryDirectory(t), state: temporaryDirectory(t)};
  assert.match(
    (await ctrHere(place, ['run', '--name', 'n', 'absent', 'words', '--json'])).stderr,
    /image "docker.io\/library\/absent:latest".* not found/,
  );
  assert.match((await ctrHere(place, ['run', 'absent'])).stderr, /missing argument: ID/);
});
