/** Units of systemd that run containers: systemd's own reading of them, and what their commands do. */
import assert from 'node:assert/strict';
import {execFileSync, spawn, spawnSync} from 'node:child_process';
import {once} from 'node:events';
import {existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmdirSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {setTimeout as delay} from 'node:timers/promises';
import {openClient} from '../../src/lib/client/index.ts';
import {systemdWord} from '../../src/lib/client/tasks/systemd-unit.ts';
import {root as repository} from '../cli/harness.ts';
import {is, onEnd, requiresOneClock, requiresProgram, type Scope, temporaryDirectory} from '../support/helpers.ts';
import {requiresTasks, taskRig, until} from '../support/tasks.ts';

/** The commands of a unit, by the kind of each. */
const commandsOf = (text: string): Readonly<Record<string, string>> =>
  Object.fromEntries([...text.matchAll(/^(Exec\w+)=-?(.*)$/gm)].map(([, kind, command]) => [kind!, command!]));

/** Where systemd makes no groups of units. */
const UNKNOWN_TO_SYSTEMD = ['cpuset', 'freezer', 'hugetlb', 'net_cls', 'net_prio', 'perf_event', 'rdma', 'misc'];

/** The control group of a unit, where systemd makes one; removed with the test, when nothing of berth's is left in it, and none elsewhere. */
function unitCgroup(t: Scope, name: string): {readonly path: string; enter(command: string): string} {
  const names = ['', ...readdirSync('/sys/fs/cgroup')].filter((tree) => existsSync(join('/sys/fs/cgroup', tree, 'cgroup.procs')));
  const known = names.filter((tree) => !tree.split(',').some((controller) => UNKNOWN_TO_SYSTEMD.includes(controller)));
  const groups = known.map((tree) => join('/sys/fs/cgroup', tree, name));
  for (const group of groups) mkdirSync(group);
  onEnd(t, () => {
    for (const group of groups) {
      if (existsSync(join(group, 'supervisor'))) rmdirSync(join(group, 'supervisor'));
      rmdirSync(group);
    }
    const others = names.filter((tree) => existsSync(join('/sys/fs/cgroup', tree, name)));
    assert.deepEqual(others, [], 'nothing is left of the unit in trees that systemd does not know');
  });
  const enter = groups.map((group) => `echo $$ >${group}/cgroup.procs`).join('; ');
  return {path: `/${name}`, enter: (command) => `${enter}; exec ${command}`};
}

/** Control groups of a process, by hierarchy. */
const cgroupsOfProcess = (pid: number): readonly string[] =>
  readFileSync(`/proc/${pid}/cgroup`, 'latin1')
    .trim()
    .split('\n')
    .map((line) => line.split(':').slice(1).join(':'));

describe('a unit of systemd', () => {
  it('is one that systemd takes, wherever the state directory is', async (t) => {
    if (!requiresTasks(t) || !requiresProgram(t, 'systemd-analyze')) return;
    const {ns, ref, client, namespace} = await taskRig(t);
    await ns.containers.create(ref, 'c1', {stopTimeoutMs: 2500});
    const units = temporaryDirectory(t);
    const verify = (text: string): void => {
      writeFileSync(join(units, 'c.service'), text);
      const {status, stderr} = spawnSync('systemd-analyze', ['verify', '--man=no', '--recursive-errors=no', join(units, 'c.service')], {
        encoding: 'utf8',
      });
      assert.deepEqual([status, stderr], [0, ''], text);
    };
    for (const restart of [undefined, 'no', 'on-failure', 'always'] as const) {
      const {name, text} = await ns.containers.systemdUnit('c1', restart === undefined ? {} : {restart});
      assert.equal(name, `berth-${namespace}-c1.service`);
      assert.match(text, new RegExp(`^Restart=${restart ?? 'on-failure'}$`, 'm'));
      assert.match(text, /^TimeoutStopSec=13$/m);
      assert.match(text, /^Delegate=yes$/m);
      verify(text);
    }
    const odd = join(temporaryDirectory(t), 'a "b" $c %d \\e');
    mkdirSync(odd);
    execFileSync('cp', ['-a', client.root, join(odd, 'root')]);
    const elsewhere = openClient({root: join(odd, 'root'), state: join(odd, 'state'), program: [process.execPath, join(odd, 'main.js')]});
    const {text} = await elsewhere.namespace(namespace).containers.systemdUnit('c1');
    verify(text);
    assert.ok(text.includes(String.raw`/a \"b\" $$c %%d \\e/root"`), text);
    assert.ok(text.includes(String.raw`/a \"b\" $c %%d \\e/root"`), 'a path is no command');
    await elsewhere.close();
    await assert.rejects(ns.containers.systemdUnit('c2'), is('not_found'));
    await ns.containers.create(ref, 'c3', {tty: true});
    await assert.rejects(ns.containers.systemdUnit('c3'), is('failed_precondition'));
    assert.equal(systemdWord('a\nb', {isCommand: true}), '"a\\nb"');
  });

  it('has commands that start the container, again and again, and stop it', async (t) => {
    if (!requiresTasks(t)) return;
    const {ns, ref} = await taskRig(t);
    await ns.containers.create(ref, 'c1', {args: ['sh', '-c', 'echo ran; exit 5']});
    const {ExecStartPre, ExecStart, ExecStop, ExecStopPost} = commandsOf((await ns.containers.systemdUnit('c1')).text);
    // Paths here are no words that a shell reads otherwise.
    const unit = unitCgroup(t, `berth-test-${process.pid}.service`);
    const sh = (command: string | undefined) => spawnSync('sh', ['-c', unit.enter(command!)], {encoding: 'utf8'});
    for (let round = 0; round < 2; round++) {
      const before = sh(ExecStartPre);
      assert.deepEqual([before.status, before.stdout, before.stderr], [0, '', ''], 'nothing for the journal');
      const {status, stdout, stderr} = sh(ExecStart);
      assert.deepEqual([status, stdout], [5, 'ran\n'], stderr);
      sh(ExecStopPost);
      assert.deepEqual(await ns.tasks.list(), []);
    }
    // A task that is left over is in the way of none.
    await ns.containers.create(ref, 'c2', {args: ['sh', '-c', 'while :; do busybox sleep 1; done']});
    const other = commandsOf((await ns.containers.systemdUnit('c2')).text);
    await ns.tasks.start('c2', {detach: true});
    assert.equal(sh(other.ExecStartPre).status, 0);
    await ns.tasks.start('c2', {detach: true});
    const stopped = sh(other.ExecStop);
    assert.equal(stopped.status, 0, stopped.stderr);
    assert.ok(ExecStop?.includes('tasks stop'));
  });

  it('is run by a real systemd, which sees, stops and ends all its processes', async (t) => {
    if (!requiresTasks(t) || !requiresProgram(t, 'systemd-analyze', 'unshare')) return;
    if (!requiresOneClock(t, "systemd compares its clock with the kernel's timers")) return;
    const systemd = '/usr/lib/systemd/systemd';
    const unified = ['/sys/fs/cgroup/unified', '/sys/fs/cgroup'].find((path) => existsSync(join(path, 'cgroup.controllers')));
    if (!existsSync(systemd) || unified === undefined) return t.skip('needs systemd, and control groups of version 2');
    const {ns, ref, root, state, namespace} = await taskRig(t);
    await ns.containers.create(ref, 'web', {args: ['sh', '-c', 'trap "exit 0" USR1; while :; do busybox sleep 0.1; done']});
    // The executable: it is one process less.
    const words = [process.execPath, join(import.meta.dirname, '../../src/main.ts')].map((word) => systemdWord(word, {isCommand: true}));
    const text = (await ns.containers.systemdUnit('web')).text.replaceAll(words.join(' '), join(repository, 'bin/ctr'));
    const work = temporaryDirectory(t);
    const write = (name: string, ...lines: readonly string[]): void => writeFileSync(join(work, name), `${lines.join('\n')}\n`);
    // Its first process does not listen to the signal that asks it to end.
    await ns.containers.create(ref, 'deaf', {args: ['busybox', 'sleep', '1000'], stopTimeoutMs: 1000});
    const deaf = (await ns.containers.systemdUnit('deaf')).text
      .replaceAll(words.join(' '), join(repository, 'bin/ctr'))
      .split('[Service]')[1]!;
    // No network, no mounts, and nothing else of this machine is to be started.
    const [, service] = text.split('[Service]') as [string, string];
    write('web.service', '[Unit]', 'DefaultDependencies=no', '[Service]', 'Environment=PATH=/usr/sbin:/usr/bin:/sbin:/bin', service);
    write('deaf.service', '[Unit]', 'DefaultDependencies=no', '[Service]', 'Environment=PATH=/usr/sbin:/usr/bin:/sbin:/bin', deaf);
    write('steps.service', '[Unit]', 'DefaultDependencies=no', '[Service]', 'Type=oneshot', `ExecStart=/bin/sh ${work}/steps.sh`);
    write('test.target', '[Unit]', 'DefaultDependencies=no', 'Requires=steps.service');
    write(
      'boot.sh',
      'set -e',
      'mount --make-rprivate /',
      'mount -t proc proc /proc',
      'mount -t cgroup2 cgroup2 /sys/fs/cgroup',
      'mount -t tmpfs tmpfs /run',
      'mkdir -p /run/systemd/system /run/lock',
      `cp ${work}/*.service ${work}/*.target /run/systemd/system/`,
      'export container=other',
      `exec ${systemd} --system --unit=test.target --log-target=console --show-status=no`,
    );
    write(
      'steps.sh',
      `exec >${work}/out 2>&1`,
      'g=/sys/fs/cgroup/system.slice/web.service',
      // One that runs `sleep` is the container's.
      'runs() { i=0; while [ $i -lt 300 ]; do [ -n "$(cat $g/web~*/cgroup.procs 2>/dev/null)" ] && return; i=$((i+1)); sleep 0.1; done; echo late; }',
      'look() { echo "$1 active=$(systemctl is-active web) own=$(cat $g/cgroup.procs 2>/dev/null | wc -l) main=$(cat $g/supervisor/cgroup.procs 2>/dev/null | grep -cx "$(systemctl show -p MainPID --value web)") in=$(ls $g 2>/dev/null | grep -c "^web~")"; }',
      'systemctl start web; runs; look started',
      'systemctl stop web; look stopped',
      'systemctl start web; runs; kill -9 "$(systemctl show -p MainPID --value web)"',
      'i=0; while [ "$(systemctl show -p NRestarts --value web)" = 0 ] && [ $i -lt 300 ]; do i=$((i+1)); sleep 0.1; done; runs; look restarted',
      'systemctl stop web; look stopped',
      'd=/sys/fs/cgroup/system.slice/deaf.service; up() { i=0; while [ -z "$(cat $d/deaf~*/cgroup.procs 2>/dev/null)" ] && [ $i -lt 300 ]; do i=$((i+1)); sleep 0.1; done; }',
      'systemctl start deaf; up; kill -9 $(cat $d/deaf~*/cgroup.procs)',
      'i=0; while [ "$(systemctl show -p NRestarts --value deaf)" = 0 ] && [ $i -lt 300 ]; do i=$((i+1)); sleep 0.1; done; up; echo "killed by others: $(systemctl is-active deaf)"',
      'systemctl stop deaf; echo "killed by its stop: $(systemctl is-active deaf)"',
      `ps -e -o args | grep -F ${state} | grep -v grep`,
      'echo end',
    );
    const group = join(unified, `berth-test-${process.pid}-3`);
    mkdirSync(group);
    onEnd(t, async () => {
      const remove = (path: string): void => {
        for (const name of readdirSync(path, {withFileTypes: true})) if (name.isDirectory()) remove(join(path, name.name));
        rmdirSync(path);
      };
      await until('its control groups are empty', () => {
        try {
          remove(group);
          return true;
        } catch {
          return false;
        }
      });
    });
    const boot = `echo $$ >${group}/cgroup.procs; exec unshare -m -p -f -C -u -i --kill-child sh ${work}/boot.sh`;
    const machine = spawn('sh', ['-c', boot], {stdio: 'ignore', detached: true});
    const out = (): string => (existsSync(join(work, 'out')) ? readFileSync(join(work, 'out'), 'utf8') : '');
    let lines: readonly string[] = [];
    try {
      for (let waited = 0; !out().endsWith('end\n') && waited < 120_000; waited += 100) await delay(100);
      lines = out().trimEnd().split('\n');
    } finally {
      machine.kill('SIGKILL');
    }
    const running = 'active=active own=0 main=1 in=1';
    const stopped = 'active=inactive own=0 main=0 in=0';
    assert.deepEqual(lines, [
      `started ${running}`,
      `stopped ${stopped}`,
      `restarted ${running}`,
      `stopped ${stopped}`,
      'killed by others: active',
      'killed by its stop: inactive',
      'end',
    ]);
    assert.ok(existsSync(join(root, 'namespaces', namespace)));
  });

  it('has all processes of its container in its own control group, and nothing there afterwards', async (t) => {
    if (!requiresTasks(t)) return;
    const {ns, ref, client, namespace, state} = await taskRig(t);
    await ns.containers.create(ref, 'c1', {
      args: ['sh', '-c', 'trap "exit 0" USR1; while :; do busybox sleep 0.1; done'],
      memoryLimit: 64 << 20,
    });
    const {ExecStart, ExecStop, ExecStopPost} = commandsOf((await ns.containers.systemdUnit('c1')).text);
    const unit = unitCgroup(t, `berth-test-${process.pid}-2.service`);
    for (let round = 0; round < 2; round++) {
      const main = spawn('sh', ['-c', unit.enter(ExecStart!)], {stdio: 'ignore'});
      const ended = once(main, 'exit');
      await until('it runs', async () => (await ns.tasks.list()).some(({status}) => status === 'running'));
      const {pid} = await ns.tasks.get('c1');
      const groups = cgroupsOfProcess(pid);
      const systemd = groups.find((line) => line.startsWith('name=systemd:')) ?? groups.find((line) => line.startsWith(':'))!;
      assert.match(systemd, new RegExp(`:${unit.path}/c1~[\\d.]+$`));
      // Limits hold there, and what systemd counts for the unit has it.
      for (const line of groups.filter((one) => /^(memory|pids):/.test(one))) assert.ok(line.includes(`:${unit.path}/c1~`), line);
      assert.equal(
        (await ns.tasks.ps('c1')).some((one) => one.pid === pid),
        true,
      );
      const {status} = await ns.tasks
        .exec('c1', ['sh', '-c', `grep -q "${unit.path}/c1~" /proc/self/cgroup`])
        .then(({exitStatus}) => ({status: exitStatus}));
      assert.equal(status, 0, 'an exec is there, too');
      // Even where nothing else is known of it.
      const runs = join(state, 'runs');
      renameSync(runs, `${runs}.away`);
      await assert.rejects(ns.containers.delete('c1'), is('failed_precondition'));
      renameSync(`${runs}.away`, runs);
      if (round === 0) assert.equal(spawnSync('sh', ['-c', unit.enter(ExecStop!)]).status, 0);
      else main.kill('SIGKILL');
      await ended;
      spawnSync('sh', ['-c', unit.enter(ExecStopPost!)]);
      assert.deepEqual(await ns.tasks.list(), []);
    }
    // The next start without a unit is in the namespace's again.
    await ns.tasks.start('c1', {detach: true});
    assert.ok(cgroupsOfProcess((await ns.tasks.get('c1')).pid).some((line) => line.includes(`:/${namespace}/c1~`)));
    await ns.containers.delete('c1', {force: true});
    assert.equal((await client.check()).damage, 0);
  });
});
