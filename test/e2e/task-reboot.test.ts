/** A reboot under containers: every process, cgroup, mount and network namespace is gone, and so is the state directory. The store stays. */
import assert from 'node:assert/strict';
import {existsSync, readdirSync, readFileSync, rmdirSync, rmSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {it} from 'node:test';
import {engineEnvironment, root as repository, run} from '../cli/harness.ts';
import {requiresProgram, temporaryDirectory} from '../support/helpers.ts';
import {checkStore} from '../support/invariants.ts';
import {cgroupsOf, conmonsOf, requiresTasks, type TaskRig, taskRig, until} from '../support/tasks.ts';
import {names, start} from './fixtures.ts';

const SLEEP = ['sh', '-c', 'echo ran >>/tmp/runs; trap "exit 0" USR1; while :; do sleep 0.1; done'] as const;
const BOOT_ID = '01234567-89ab-4cde-8f01-23456789abcd';
/** Starts a program to which the machine has the boot id that stands in a file. */
const IN_BOOT = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"';

/** A container's cgroups, in all trees. */
const cgroupsBelow = (namespace: string): readonly string[] =>
  cgroupsOf(namespace).flatMap((path) =>
    readdirSync(path, {withFileTypes: true}).flatMap((one) => (one.isDirectory() ? join(path, one.name) : [])),
  );

/** Without a process or cgroup that has ended since it was listed. */
function ifThere<T>(act: () => T): T | undefined {
  try {
    return act();
  } catch (err) {
    if (!['ENOENT', 'ENODEV', 'ESRCH'].includes((err as NodeJS.ErrnoException).code ?? '')) throw err;
    return undefined;
  }
}

const pidsIn = (cgroup: string): readonly number[] =>
  (ifThere(() => readFileSync(join(cgroup, 'cgroup.procs'), 'latin1')) ?? '').split('\n').flatMap((pid) => (pid === '' ? [] : Number(pid)));

async function powerOff({namespace, state}: TaskRig, commands: readonly number[]): Promise<void> {
  // Nobody is left who could settle anything: conmons and commands go first.
  for (const pid of [...conmonsOf(state), ...commands]) process.kill(pid, 'SIGKILL');
  await until('the end of all processes', () => {
    for (const cgroup of cgroupsBelow(namespace)) {
      const frozen = join(cgroup, 'freezer.state');
      ifThere(() => existsSync(frozen) && writeFileSync(frozen, 'THAWED'));
      for (const pid of pidsIn(cgroup)) ifThere(() => process.kill(pid, 'SIGKILL'));
    }
    return cgroupsBelow(namespace).every((cgroup) => pidsIn(cgroup).length === 0);
  });
  await until('the end of the conmons', () => conmonsOf(state).length === 0);
  for (const path of [...cgroupsBelow(namespace), ...cgroupsOf(namespace)]) ifThere(() => rmdirSync(path));
  for (const name of names(state)) rmSync(join(state, name), {recursive: true});
}

it('after a reboot containers are there and tasks are not; each can be started again or removed, and what --rm promised is kept', async (t) => {
  if (!requiresTasks(t) || !requiresProgram(t, 'unshare', 'mount')) return;
  const r = await taskRig(t);
  const {namespace, ref} = r;
  const bootId = join(temporaryDirectory(t), 'boot_id');
  writeFileSync(bootId, `${BOOT_ID}\n`);
  const env = {...engineEnvironment('executable'), BERTH_ROOT: r.root, BERTH_STATE: r.state};
  let isAfter = false;
  const ctr = async (...words: readonly string[]): Promise<string> => {
    const command = [join(repository, 'bin/ctr'), '-n', namespace, ...words];
    const argv = isAfter ? ['unshare', '-m', 'sh', '-c', IN_BOOT, bootId, ...command] : command;
    const {status, stdout, stderr} = await run(argv[0]!, argv.slice(1), {env});
    assert.equal(status, 0, `${words.join(' ')}: ${stderr}`);
    return stdout;
  };
  const tasks = async (): Promise<Readonly<Record<string, string>>> =>
    Object.fromEntries(
      (JSON.parse(await ctr('tasks', 'ls', '--json')) as {id: string; status: string}[]).map(({id, status}) => [id, status]),
    );

  await ctr('containers', 'create', ref, 'made', ...SLEEP);
  for (const id of ['running', 'paused', 'stopped']) await ctr('run', '-d', ref, id, ...SLEEP);
  await ctr('run', '-d', '--rm', ref, 'passing', ...SLEEP);
  await ctr('tasks', 'pause', 'paused');
  await ctr('tasks', 'kill', '-s', 'KILL', 'stopped');
  const foreground = start({program: 'ctr', env} as never, ['-n', namespace, 'run', ref, 'foreground', ...SLEEP]);
  await until('they are as they are named', async () => {
    const {stopped, foreground: last} = await tasks();
    return stopped === 'stopped' && last === 'running';
  });
  await powerOff(r, [foreground.child.pid!]);
  await foreground.ended;

  isAfter = true;
  assert.deepEqual(await tasks(), {});
  assert.deepEqual(
    (await ctr('containers', 'ls', '-q')).split('\n').filter((id) => id !== '' && id !== 'passing'),
    ['foreground', 'made', 'paused', 'running', 'stopped'],
  );
  assert.equal((JSON.parse(await ctr('check', '--json', '--progress', 'none')) as {damage: number}).damage, 0);
  // Nobody waits for it any more: its ID is free.
  assert.equal(await ctr('run', '--rm', ref, 'passing', 'sh', '-c', 'echo again'), 'again\n');
  for (const [id, runs] of [
    ['made', 1],
    ['running', 2],
    ['paused', 2],
    ['stopped', 2],
    ['foreground', 2],
  ] as const) {
    await ctr('tasks', 'start', '-d', id);
    assert.equal((await tasks())[id], 'running');
    assert.ok(names(join(r.state, 'runs', namespace, 'bundles', id)).some((name) => name.includes(BOOT_ID.replaceAll('-', ''))));
    await until(
      `${id} has run ${runs} times`,
      async () =>
        (await ctr('tasks', 'exec', id, 'sh', '-c', 'while read -r line; do echo $line; done </tmp/runs')) === 'ran\n'.repeat(runs),
    );
  }
  await ctr('tasks', 'stop', 'made', 'running', 'paused', 'stopped', 'foreground');
  for (const id of ['made', 'running', 'paused', 'stopped', 'foreground']) {
    await ctr('tasks', 'rm', id);
    await ctr('containers', 'rm', id);
  }
  await ctr('gc');
  await until(
    () => `nothing is left: ${r.left().join(', ')}`,
    () => r.left().length === 0,
  );
  assert.deepEqual(checkStore(r.root, {litter: true}), []);
});
