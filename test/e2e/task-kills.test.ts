/**
 * Tasks under fire: the command that starts one, conmon, the runtime and the container are killed at each step; state directories vanish;
 * containers do not listen, take all memory, come in crowds. Whatever happened, the container can be removed, and nothing of it is left.
 */
import assert from 'node:assert/strict';
import {once} from 'node:events';
import {existsSync, readdirSync, readFileSync, rmdirSync, rmSync} from 'node:fs';
import {constants} from 'node:os';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import type {Task} from '../../src/lib/client/types/index.ts';
import {hasCode} from '../../src/lib/errdefs.ts';
import {parseIdentity} from '../../src/lib/fs/process.ts';
import {engineEnvironment} from '../cli/harness.ts';
import {is, onEnd, requiresRootOfMachine, TORTURE} from '../support/helpers.ts';
import {cgroupsOf, requiresTasks, type TaskRig, taskRig, until} from '../support/tasks.ts';
import {names, start} from './fixtures.ts';

/** Steps of a start, by the file of a run's directory, or of the runtime's, that shows each. */
const STEPS = ['.', 'bundle/fstab', 'bundle/config.json', 'task.json', 'runtime.', 'runtime', 'init.pid', 'started', 'running'] as const;
type Step = (typeof STEPS)[number];
const VICTIMS = ['command', 'conmon', 'runtime', 'container'] as const;
type Victim = (typeof VICTIMS)[number];

/** Of the steps in `npm test`, each is tried with two victims, and each victim at four or five steps. */
const isTried = (step: number, victim: number): boolean => TORTURE || (step + victim) % 2 === 0;

const bundle = ({state, namespace}: TaskRig, id: string): string => join(state, 'runs', namespace, 'bundles', id);

function isReached(r: TaskRig, id: string, step: Step, hasEnded: boolean): boolean {
  const run = bundle(r, id);
  if (step === 'running') return hasEnded;
  if (step === 'runtime.') return names(run).some((name) => name.startsWith(step));
  if (step === 'runtime') return existsSync(join(r.state, 'runs', r.namespace, 'runtime', id));
  return existsSync(join(run, step));
}

/** Children of a process, by its threads. */
function childrenOf(pid: number): readonly number[] {
  try {
    return readdirSync(`/proc/${pid}/task`).flatMap((task) =>
      readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8').split(' ').filter(Boolean).map(Number),
    );
  } catch {
    return []; // it has ended
  }
}

/** Pids of a victim; none before it exists. The launcher becomes conmon. */
function pidsOf(r: TaskRig, id: string, victim: Victim, command: number): readonly number[] {
  const run = bundle(r, id);
  const recorded = names(run).find((name) => name.startsWith('runtime.'));
  const conmon = recorded === undefined ? childrenOf(command) : [parseIdentity(recorded.slice('runtime.'.length))!.pid];
  switch (victim) {
    case 'command':
      return [command];
    case 'conmon':
      return conmon;
    case 'runtime':
      return [...conmon, command].flatMap(childrenOf).filter((pid) => nameOf(pid).startsWith('runc'));
    case 'container': {
      const file = join(run, 'init.pid');
      const pid = existsSync(file) ? Number(readFileSync(file, 'utf8')) : 0;
      return pid > 0 ? [pid] : [];
    }
  }
}

const nameOf = (pid: number): string => {
  try {
    return readFileSync(`/proc/${pid}/comm`, 'utf8');
  } catch {
    return '';
  }
};

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It has ended.
  }
}

/** @returns whether there was something to do @throws other errors than not_found */
const unlessAbsent = (action: Promise<unknown>): Promise<boolean> =>
  action.then(
    () => true,
    (err: unknown) => {
      if (hasCode(err, 'not_found')) return false;
      throw err;
    },
  );

/** Removes a task and its container, however they are, and asserts that the machine is as before. */
async function assertRemovable(r: TaskRig, id: string, when: string): Promise<void> {
  const {ns, client} = r;
  await ns.containers.list();
  let refusal: unknown;
  // What a killed command has begun may go on for a moment: conmon makes the container, and waits for somebody to start it.
  await until(
    () => `the container can be removed ${when}: ${String(refusal)}`,
    async () => {
      await ns.tasks.list();
      await unlessAbsent(ns.tasks.delete(id, {force: true}));
      try {
        await unlessAbsent(ns.containers.delete(id));
        return true;
      } catch (err) {
        if (!hasCode(err, 'failed_precondition')) throw err;
        refusal = err;
        return false;
      }
    },
  );
  assert.deepEqual(await ns.containers.list(), [], when);
  assert.deepEqual(
    (await ns.snapshots().list()).filter(({kind}) => kind !== 'committed'),
    [],
    when,
  );
  // What has no container any more is swept by the next command that looks.
  await client.gc();
  await until(
    () => `nothing is left ${when}: ${r.left().join(', ')}`,
    () => r.left().length === 0,
  );
}

/** Whether a process hears SIGUSR1, or has ended: what runs `SLEEP` does not before it has set its trap. */
function hears(pid: number): boolean {
  try {
    const caught = /^SigCgt:\s*([0-9a-f]+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))![1]!;
    return (BigInt(`0x${caught}`) & (1n << BigInt(constants.signals.SIGUSR1 - 1))) !== 0n;
  } catch {
    return true;
  }
}

/** Ends by itself when it is asked, as its image wants it. */
const SLEEP = ['sh', '-c', 'trap "exit 0" USR1; while :; do sleep 0.1; done'] as const;

describe('a detached start, one of whose processes is killed', () => {
  for (const [v, victim] of VICTIMS.entries())
    it(`leaves a task or none, and nothing that cannot be removed: ${victim}`, async (t) => {
      if (!requiresTasks(t)) return;
      const r = await taskRig(t);
      const {ns, ref} = r;
      let killed = 0;
      for (const [s, step] of STEPS.entries()) {
        if (!isTried(s, v)) continue;
        const id = `c${s}`;
        const when = `after ${victim} was killed at ${step}`;
        const env = {...engineEnvironment('executable'), BERTH_ROOT: r.root, BERTH_STATE: r.state};
        const {child, ended} = start({program: 'ctr', env} as never, ['-n', r.namespace, 'run', '-d', ref, id, ...SLEEP]);
        let isOver = false;
        child.once('exit', () => {
          isOver = true;
        });
        let pids: readonly number[] = [];
        while (!isOver && !isReached(r, id, step, isOver)) await new Promise(setImmediate);
        while (pids.length === 0 && !isOver) {
          pids = pidsOf(r, id, victim, child.pid!);
          if (pids.length === 0) await new Promise(setImmediate);
        }
        if (step === 'running') pids = pidsOf(r, id, victim, child.pid!);
        for (const pid of pids) if (pid !== child.pid || !isOver) kill(pid);
        killed += pids.length;
        const {status, stderr} = await ended;
        const task = await ns.tasks.get(id).catch((err: unknown) => assert.ok(hasCode(err, 'not_found'), String(err)));
        if (status === 0) {
          // The command said that it runs: so it does, or its end is told.
          assert.ok(task !== undefined, when);
          await until(`it hears its stop signal ${when}`, () => hears(task.pid));
          const {exitStatus, known} = await ns.tasks.stop(id, {timeoutMs: 2000});
          // The runtime that makes the container becomes its first process.
          const wasKilled = victim === 'container' || victim === 'runtime';
          if (victim === 'conmon') assert.ok(!known || exitStatus === 0, `${when}: ${exitStatus}`);
          else assert.ok(known && (exitStatus === 0 || (exitStatus === 137 && wasKilled)), `${when}: ${exitStatus}`);
        } else if (victim !== 'command') assert.equal(status, 125, `${when}: ${stderr}`);
        await assertRemovable(r, id, when);
        // The ID can be used again.
        assert.equal(
          (await ns.run(ref, id, {rm: true, args: ['sh', '-c', 'exit 4'], stdio: ['ignore', 'ignore', 'ignore']})).exitStatus,
          4,
        );
        assert.deepEqual(r.left(), [], when);
      }
      assert.ok(killed > 0, 'something was killed');
      assert.equal((await r.client.check()).damage, 0);
    });
});

describe('a foreground run whose command is killed', () => {
  it('stays a task: it is listed, stopped and removed, and its status is said to be unknown', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    const {ns, ref} = r;
    const env = {...engineEnvironment('executable'), BERTH_ROOT: r.root, BERTH_STATE: r.state};
    for (const end of ['stop', 'kill', 'delete'] as const) {
      const {child} = start({program: 'ctr', env} as never, ['-n', r.namespace, 'run', ref, end, ...SLEEP]);
      let task: Task | undefined;
      await until('it runs', async () => {
        task = (await ns.tasks.list()).find(({id}) => id === end);
        return task?.status === 'running';
      });
      assert.equal(task!.detached, false);
      const exit = once(child, 'exit');
      kill(child.pid!);
      // The container holds its standard output.
      await exit;
      assert.equal((await ns.tasks.get(end)).status, 'running');
      await assert.rejects(ns.containers.delete(end), is('failed_precondition'));
      await assert.rejects(ns.tasks.delete(end), is('failed_precondition'));
      if (end === 'stop') assert.deepEqual(await ns.tasks.stop(end, {timeoutMs: 20_000}), {id: end, exitStatus: 255, known: false});
      if (end === 'kill') await ns.tasks.kill(end, {signal: 'KILL', all: true});
      if (end === 'delete') assert.equal((await ns.tasks.delete(end, {force: true})).known, false);
      await assertRemovable(r, end, `after ${end}`);
    }
  });
});

describe('a container', () => {
  it('whose state directory was removed is not believed to be gone: the error names its cgroup, by which it can be ended, and --force ends it', async (t) => {
    if (!requiresTasks(t) || !requiresRootOfMachine(t, 'control groups')) return;
    const r = await taskRig(t);
    const {ns, ref} = r;
    const {pid} = await ns.run(ref, 'c', {detach: true, args: SLEEP});
    onEnd(t, () => kill(pid!));
    rmSync(join(r.state, 'runs'), {recursive: true, force: true});
    assert.deepEqual(await ns.tasks.list(), []);
    const err = await ns.containers.delete('c').then(
      () => assert.fail('it was removed'),
      (reason: Error & {hint?: string}) => reason,
    );
    const [, cgroup = ''] = /(\/\S*~\S*?)[,.]?(?:\s|$)/.exec(`${err.message} ${err.hint}`) ?? assert.fail(String(err.stack));
    const trees = ['', ...readdirSync('/sys/fs/cgroup')].map((tree) => join('/sys/fs/cgroup', tree, cgroup));
    const procs = trees.map((tree) => join(tree, 'cgroup.procs')).filter((path) => existsSync(path));
    for (const path of procs) for (const line of readFileSync(path, 'utf8').split('\n')) if (line !== '') kill(Number(line));
    await until('its end', () => !existsSync(`/proc/${pid}`));
    await assertRemovable(r, 'c', 'after its state directory was removed');
    for (const isPaused of [false, true]) {
      const again = await ns.run(ref, 'd', {detach: true, args: SLEEP});
      if (isPaused) await ns.tasks.pause('d');
      rmSync(join(r.state, 'runs'), {recursive: true, force: true});
      await assert.rejects(ns.containers.delete('d'), is('failed_precondition'));
      await ns.containers.delete('d', {force: true});
      assert.ok(!existsSync(`/proc/${again.pid}/exe`));
      assert.deepEqual(await ns.containers.list(), []);
    }
    // What says that they are berth's went with that directory.
    for (const path of cgroupsOf(r.namespace)) rmdirSync(path);
  });

  it('that has taken all its memory is told to be killed for that', async (t) => {
    if (!requiresTasks(t) || !requiresRootOfMachine(t, 'control groups')) return;
    const r = await taskRig(t);
    const {ns, ref} = r;
    // The shell that takes the memory is the first process, which the kernel ends.
    const eat = ['sh', '-c', 'x=x; while :; do x=$x$x$x$x; done'];
    await ns.run(ref, 'c', {detach: true, args: eat, memoryLimit: 16 << 20});
    assert.deepEqual(await ns.tasks.wait('c'), {id: 'c', exitStatus: 137, known: true});
    assert.equal((await ns.tasks.get('c')).oomKilled, true);
    await assertRemovable(r, 'c', 'after it was out of memory');
  });

  it('is one of many that start and end at once', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    const {ns, ref} = r;
    const ids = Array.from({length: TORTURE ? 50 : 12}, (_, i) => `c${i}`);
    const env = {...engineEnvironment('executable'), BERTH_ROOT: r.root, BERTH_STATE: r.state};
    const results = await Promise.all(
      ids.map(
        (id, i) =>
          start({program: 'ctr', env} as never, ['-n', r.namespace, 'run', '-d', ...(i % 3 === 0 ? ['--rm'] : []), ref, id, ...SLEEP])
            .ended,
      ),
    );
    for (const {status, stderr} of results) assert.equal(status, 0, stderr);
    assert.deepEqual(new Set((await ns.tasks.list()).map(({id, status}) => `${id} ${status}`)), new Set(ids.map((id) => `${id} running`)));
    const ends = await Promise.all(ids.map((id) => ns.tasks.stop(id, {timeoutMs: 60_000})));
    assert.deepEqual(new Set(ends.map(({exitStatus, known}) => `${exitStatus} ${known}`)), new Set(['0 true']));
    // Those with --rm go by themselves.
    await until('they are gone', async () => (await ns.containers.list()).length === ids.length - Math.ceil(ids.length / 3));
    await Promise.all(ids.map((id) => unlessAbsent(ns.containers.delete(id))));
    await until('nothing is left', () => r.left().length === 0);
    assert.equal((await r.client.check()).damage, 0);
  });

  it('of one ID is one, whoever starts it at once', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    const {ns, ref} = r;
    for (let round = 0; round < (TORTURE ? 20 : 2); round++) {
      const starts = await Promise.allSettled(Array.from({length: 6}, () => ns.run(ref, 'c', {detach: true, args: SLEEP})));
      assert.equal(starts.filter(({status}) => status === 'fulfilled').length, 1);
      for (const one of starts) if (one.status === 'rejected') is('already_exists')(one.reason);
      const ends = await Promise.allSettled(Array.from({length: 4}, () => ns.tasks.delete('c', {force: true})));
      for (const one of ends) if (one.status === 'rejected') is('not_found')(one.reason);
      await assertRemovable(r, 'c', `in round ${round}`);
    }
  });
});
