/** Tasks: detached containers under the real conmon and runc, and what is left of them. */
import assert from 'node:assert/strict';
import {execFileSync, spawn} from 'node:child_process';
import {existsSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {text} from 'node:stream/consumers';
import {describe, it} from 'node:test';
import {type Code, hasCode} from '../../../src/lib/errdefs.ts';
import {engineEnvironment} from '../../cli/harness.ts';
import {start} from '../../e2e/fixtures.ts';
import {findProgram, onEnd, temporaryDirectory} from '../../support/helpers.ts';
import {conmonsOf, requiresTasks, type TaskRig, taskRig, until} from '../../support/tasks.ts';

const expectsError =
  (code: Code, message = /(?:)/) =>
  (err: unknown): true => {
    assert.ok(hasCode(err, code), String(err));
    assert.match((err as Error).message, message);
    return true;
  };

/** Traps TERM and USR1, and says when it is ready. */
const STUBBORN = ['sh', '-c', 'trap "" TERM; trap "exit 9" USR1; echo ready >/tmp/ready; while :; do sleep 0.05; done'];
const DEAF = ['sh', '-c', 'trap "" TERM USR1; echo ready >/tmp/ready; while :; do sleep 0.05; done'];

const isReady = async ({ns}: TaskRig, id: string): Promise<boolean> => existsSync(`/proc/${(await ns.tasks.get(id)).pid}/root/tmp/ready`);

describe('a detached task', () => {
  it('runs on, is listed, and ends with the status that whoever comes later is told', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    const {ns, ref} = r;
    const {pid} = await ns.run(ref, 'a', {detach: true, args: ['sh', '-c', 'until [ -e /tmp/go ]; do sleep 0.05; done; exit 7']});
    const running = await ns.tasks.get('a');
    assert.deepEqual([running.status, running.pid, running.detached, running.exitStatus], ['running', pid, true, undefined]);
    assert.ok(Date.parse(running.startedAt!) >= Date.parse(running.createdAt!));
    assert.deepEqual(readFileSync('/proc/mounts', 'utf8').includes(r.state), false, "the mounts are not the machine's");
    await assert.rejects(ns.run(ref, 'a', {detach: true}), expectsError('already_exists'));
    await assert.rejects(ns.containers.delete('a'), expectsError('failed_precondition', /is running/));
    await assert.rejects(ns.tasks.delete('a'), expectsError('failed_precondition', /running/));
    await assert.rejects(ns.tasks.start('a'), expectsError('already_exists'));
    const waiting = ns.tasks.wait('a');
    execFileSync('touch', [`/proc/${pid}/root/tmp/go`]);
    assert.deepEqual(await waiting, {id: 'a', exitStatus: 7, known: true});
    const stopped = await ns.tasks.get('a');
    assert.deepEqual([stopped.status, stopped.pid, stopped.exitStatus], ['stopped', 0, 7]);
    assert.deepEqual(await ns.tasks.wait('a'), {id: 'a', exitStatus: 7, known: true});
    await assert.rejects(ns.tasks.kill('a'), expectsError('not_found', /has ended/));
    assert.deepEqual(await ns.tasks.stop('a'), {id: 'a', exitStatus: 7, known: true});
    assert.deepEqual(
      await r.client
        .gc()
        .then(() => ns.tasks.get('a'))
        .then(({status}) => status),
      'stopped',
      'gc leaves it',
    );
    assert.deepEqual(await ns.tasks.delete('a'), {id: 'a', exitStatus: 7, known: true});
    const told: unknown[] = [];
    for await (const {topic, event} of await r.client.events())
      if (topic.startsWith('/tasks/')) told.push([topic, event.container_id, event.exit_status ?? event.pid]);
    assert.deepEqual(told, [
      ['/tasks/create', 'a', pid],
      ['/tasks/start', 'a', pid],
      ['/tasks/exit', 'a', 7],
      ['/tasks/delete', 'a', 7],
    ]);
    await assert.rejects(ns.tasks.get('a'), expectsError('not_found', /has no task/));
    assert.deepEqual(r.left(), []);
  });

  it('is asked by the stop signal of its image, and killed when it does not listen', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    const {ns, ref} = r;
    for (const [id, args, expected] of [
      ['polite', STUBBORN, 9],
      ['deaf', DEAF, 137],
    ] as const) {
      await ns.run(ref, id, {detach: true, args});
      await until('it has set its traps', () => isReady(r, id));
      assert.deepEqual(await ns.tasks.stop(id, {timeoutMs: id === 'deaf' ? 50 : 20_000}), {id, exitStatus: expected, known: true});
      await ns.containers.delete(id);
    }
    assert.deepEqual(r.left(), []);
  });

  it('tells its end before its removal, in the foreground, too', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    await r.ns.run(r.ref, 'a', {rm: true});
    const told: string[] = [];
    for await (const {topic, event} of await r.client.events()) if (event.container_id === 'a' || event.id === 'a') told.push(topic);
    assert.deepEqual(told, ['/containers/create', '/tasks/create', '/tasks/start', '/tasks/exit', '/containers/delete']);
  });

  it('with rm is removed when it ends, and whoever waits is told how it did', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    const {ns, ref} = r;
    const {pid} = await ns.run(ref, 'a', {detach: true, rm: true, args: ['sh', '-c', 'until [ -e /tmp/go ]; do sleep 0.05; done; exit 3']});
    const waiting = [ns.tasks.wait('a'), ns.tasks.wait('a')];
    await until(
      'both wait',
      () => readdirSync(join(r.state, 'runs', r.namespace, 'bundles/a')).filter((name) => name.startsWith('waiter.')).length === 2,
    );
    execFileSync('touch', [`/proc/${pid}/root/tmp/go`]);
    for (const end of await Promise.all(waiting)) assert.deepEqual(end, {id: 'a', exitStatus: 3, known: true});
    await until('nothing is left', async () => r.left().length === 0 && (await ns.containers.list()).length === 0);
    const {keys} = {keys: (await ns.snapshots().list()).filter(({key}) => key === 'a')};
    assert.deepEqual(keys, []);
  });

  it('is started again from the specification in its record, in either way', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    const {ns, ref} = r;
    const created = await ns.containers.create(ref, 'a', {env: ['A=b']});
    assert.deepEqual((created.spec as {process: {args: unknown}}).process.args, ['sh', '-c', 'exit 5']);
    await assert.rejects(ns.containers.create(ref, 'a'), expectsError('already_exists'));
    await assert.rejects(ns.tasks.get('a'), expectsError('not_found', /has no task/));
    assert.deepEqual(r.left(), []);
    assert.deepEqual(await ns.tasks.start('a', {stdio: ['ignore', 'ignore', 'ignore']}), {id: 'a', exitStatus: 5});
    await ns.tasks.start('a', {detach: true});
    assert.deepEqual(await ns.tasks.wait('a'), {id: 'a', exitStatus: 5, known: true});
    assert.deepEqual(
      (await ns.tasks.list()).map(({id, status}) => [id, status]),
      [['a', 'stopped']],
    );
    await ns.containers.delete('a');
    assert.deepEqual(r.left(), []);
  });

  it('is waited for itself, not another one that has its ID by then', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    const {ns, ref} = r;
    const again = async (): Promise<void> => {
      await ns.run(ref, 'a', {detach: true, args: DEAF});
    };
    await again();
    // Removed by others, who let it be read first.
    const waiting = [ns.tasks.wait('a'), ns.tasks.wait('a')];
    await ns.tasks.delete('a', {force: true});
    await ns.containers.delete('a');
    await again();
    assert.deepEqual(await Promise.all(waiting), Array(2).fill({id: 'a', exitStatus: 137, known: true}));
    // Removed by the wrong hands, with the note of a waiter that sleeps until another one runs.
    const env = {...engineEnvironment('executable'), BERTH_ROOT: r.root, BERTH_STATE: r.state};
    const lost = start({env} as never, ['-n', r.namespace, 'tasks', 'wait', '--json', 'a']);
    const {pid} = await ns.tasks.get('a');
    const bundles = join(r.state, 'runs', r.namespace, 'bundles');
    await until('the waiter is known', () => readdirSync(join(bundles, 'a')).some((name) => name.startsWith('waiter.')));
    lost.child.kill('SIGSTOP');
    renameSync(join(bundles, 'a'), join(bundles, '.old'));
    process.kill(pid, 'SIGKILL');
    await until('conmon has ended', () => conmonsOf(r.state).length === 0);
    await ns.containers.delete('a');
    await again();
    rmSync(join(bundles, '.old'), {recursive: true}); // else it would wait for a while for the hands to tell it
    lost.child.kill('SIGCONT');
    assert.match((await lost.ended).stdout, /"known": false/);
    assert.equal((await ns.tasks.get('a')).status, 'running');
  });

  it('is not held by those that wait for it: one that sleeps while it is removed learns the end all the same', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    const {ns, ref} = r;
    const words = [join(import.meta.dirname, '../../../src/main.ts'), '-n', r.namespace, 'tasks', 'wait', '--json', 'a'];
    // Not in its words: what has the state directory there is something that is left.
    const env = {...process.env, BERTH_ROOT: r.root, BERTH_STATE: r.state};
    for (const rm of [false, true]) {
      const {pid} = await ns.run(ref, 'a', {detach: true, rm, args: ['sh', '-c', 'until [ -e /tmp/go ]; do sleep 0.02; done; exit 6']});
      const sleeper = spawn(process.execPath, words, {env, stdio: ['ignore', 'pipe', 'inherit']});
      onEnd(t, () => void sleeper.kill('SIGKILL'));
      const said = text(sleeper.stdout);
      const directory = join(r.state, 'runs', r.namespace, 'bundles/a');
      await until('it waits', () => readdirSync(directory).some((name) => name.startsWith('waiter.')));
      sleeper.kill('SIGSTOP');
      execFileSync('touch', [`/proc/${pid}/root/tmp/go`]);
      assert.deepEqual(await ns.tasks.wait('a'), {id: 'a', exitStatus: 6, known: true});
      if (!rm) {
        await ns.tasks.delete('a');
        await ns.containers.delete('a');
      }
      await until('it is gone', async () => (await ns.containers.list()).length === 0 && r.left().length === 0);
      // Another one with its name, of another end.
      await ns.run(ref, 'a', {detach: true, args: ['sh', '-c', 'exit 7']});
      sleeper.kill('SIGCONT');
      assert.deepEqual(JSON.parse(await said), [{id: 'a', exitStatus: 6, known: true}]);
      await ns.tasks.wait('a');
      assert.equal((await ns.tasks.delete('a')).exitStatus, 7);
      await ns.containers.delete('a');
    }
  });

  it('whose conmon was killed runs on, can be stopped, and has an unknown status', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    const {ns, ref} = r;
    await ns.run(ref, 'a', {detach: true, args: STUBBORN});
    await until('it has set its traps', () => isReady(r, 'a'));
    const waiting = ns.tasks.wait('a');
    for (const pid of conmonsOf(r.state)) process.kill(pid, 'SIGKILL');
    await until('conmon has ended', () => conmonsOf(r.state).length === 0);
    assert.equal((await ns.tasks.get('a')).status, 'running');
    assert.deepEqual(await ns.tasks.stop('a', {timeoutMs: 20_000}), {id: 'a', exitStatus: 255, known: false});
    assert.deepEqual(await waiting, {id: 'a', exitStatus: 255, known: false});
    assert.deepEqual(
      (await ns.tasks.list()).map(({status, exitStatus}) => [status, exitStatus]),
      [['stopped', undefined]],
    );
    await ns.containers.delete('a');
    assert.deepEqual(r.left(), []);
  });

  it('whose runtime is killed between making it and saying so is not waited for, and leaves nothing', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    const runtime = join(temporaryDirectory(t), 'runtime');
    const real = findProgram('runc')!;
    writeFileSync(runtime, `#!/bin/sh\ncase " $* " in *' create '*) ${real} "$@"; kill -9 $$ ;; *) exec ${real} "$@" ;; esac\n`, {
      mode: 0o755,
    });
    await assert.rejects(
      r.ns.run(r.ref, 'a', {detach: true, runtime, args: STUBBORN}),
      expectsError('aborted', /runtime was killed while it made the container/),
    );
    assert.deepEqual(await r.ns.containers.list(), []);
    await until(
      () => `nothing is left: ${r.left().join(', ')}`,
      () => r.left().length === 0,
    );
  });

  it('that cannot start leaves nothing', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    const {ns, ref} = r;
    for (const [options, code] of [
      [{args: ['no-such-program']}, 'not_found'],
      [{args: ['/tmp']}, 'permission_denied'],
      [{cwd: '/proc/self/fd/3', args: ['sh']}, 'invalid_argument'],
      [{tty: true, nullIO: true}, 'invalid_argument'],
      [{pidFile: '/no/such/directory/pid'}, 'not_found'],
    ] as const) {
      await assert.rejects(ns.run(ref, 'a', {...options, detach: true}), expectsError(code));
      assert.deepEqual(r.left(), []);
      assert.deepEqual(await ns.containers.list(), []);
    }
    await assert.rejects(ns.tasks.kill('a', {signal: 'NOPE'}), expectsError('invalid_argument', /"NOPE"/));
    await assert.rejects(ns.tasks.wait('a'), expectsError('not_found', /container "a"/));
  });
});
