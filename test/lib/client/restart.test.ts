/** `start`, `restart`, `update` and `rm --force`: containers in the background, once more, with other limits, and gone. */
import assert from 'node:assert/strict';
import {existsSync, readFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import type {ContainerLimits} from '../../../src/lib/client/types/index.ts';
import {type Code, hasCode} from '../../../src/lib/errdefs.ts';
import {type Limits, limitsOf, type Spec} from '../../../src/lib/runtime/spec.ts';
import {engineEnvironment} from '../../cli/harness.ts';
import {start} from '../../e2e/fixtures.ts';
import {randomNumbers} from '../../fuzz/seeded-random.ts';
import {conmonsOf, requiresTasks, type TaskRig, taskRig, until} from '../../support/tasks.ts';

const expectsError = (code: Code, message: RegExp) => (err: unknown) => hasCode(err, code) && message.test((err as Error).message);

const logOf = async ({ns}: TaskRig, id: string): Promise<string> => {
  let text = '';
  for await (const {data} of await ns.tasks.logs(id)) text += data;
  return text;
};

describe('start and restart', () => {
  it('leave one task, with the streams that it had before', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    const {ns, ref} = r;
    await ns.run(ref, 'a', {detach: true, stdin: true, maxLogSize: 1 << 20, args: ['sh', '-c', 'echo begun; read -r line; echo "$line"']});
    const {pid} = await ns.tasks.get('a');
    assert.deepEqual(await ns.tasks.startDetached('a'), {id: 'a', exitStatus: 0, pid}, 'one that runs is left alone');
    for (let round = 0; round < 2; round++) {
      const again = await ns.tasks.restart('a', {timeoutMs: 0});
      assert.notEqual(again.pid, pid);
      await until('standard input is open, and the log begins anew', async () => (await logOf(r, 'a')) === 'begun\n');
      assert.equal((await ns.tasks.get('a')).status, 'running');
    }
    await ns.tasks.stop('a', {timeoutMs: 0});
    await ns.tasks.startDetached('a');
    assert.equal((await ns.tasks.get('a')).status, 'running');
    assert.equal(conmonsOf(r.state).length, 1);
    await ns.tasks.pause('a');
    await assert.rejects(ns.tasks.startDetached('a'), expectsError('failed_precondition', /is paused/));
    await ns.tasks.restart('a', {timeoutMs: 0});
    await ns.containers.delete('a', {force: true});
  });

  it('refuse what would be gone after the stop, and what is not there', async (t) => {
    if (!requiresTasks(t)) return;
    const {ns, ref} = await taskRig(t);
    await ns.run(ref, 'a', {detach: true, rm: true, args: ['busybox', 'sleep', '1000']});
    await assert.rejects(ns.tasks.restart('a'), expectsError('failed_precondition', /removed when it ends/));
    await assert.rejects(ns.tasks.start('a'), expectsError('already_exists', /is running/));
    assert.equal((await ns.tasks.get('a')).status, 'running');
    for (const again of [ns.tasks.restart('b'), ns.tasks.startDetached('b')])
      await assert.rejects(again, expectsError('not_found', /container "b"/));
    await ns.containers.delete('a', {force: true});
    assert.deepEqual(await ns.containers.list(), []);
  });

  it('leave the task of a container alone that may not be started any more', async (t) => {
    if (!requiresTasks(t)) return;
    const {client, namespace, ns, ref} = await taskRig(t);
    await ns.run(ref, 'a', {detach: true, args: ['busybox', 'sleep', '1000']});
    const refused = expectsError('failed_precondition', /requires signatures/);
    await client.namespaces.label(namespace, {'berth/require-signature': 'true'});
    await assert.rejects(ns.tasks.restart('a', {timeoutMs: 0}), refused);
    assert.equal((await ns.tasks.get('a')).status, 'running');
    await ns.tasks.stop('a', {timeoutMs: 0});
    for (const again of [ns.tasks.restart('a'), ns.tasks.startDetached('a')]) await assert.rejects(again, refused);
    assert.equal((await ns.tasks.get('a')).exitStatus, 137);
    await ns.containers.delete('a', {force: true});
  });

  it('can be repeated after a kill at any time', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    const {ns, ref} = r;
    const env = {...engineEnvironment('executable'), BERTH_ROOT: r.root, BERTH_STATE: r.state};
    await ns.containers.create(ref, 'a', {args: ['busybox', 'sleep', '1000']});
    const next = randomNumbers(7);
    for (let round = 0; round < 8; round++) {
      const restarting = start({env} as never, ['-n', r.namespace, 'restart', '--time', '0', 'a']);
      setTimeout(() => restarting.child.kill('SIGKILL'), next() * 400);
      await restarting.ended;
      await ns.tasks.restart('a', {timeoutMs: 0});
      assert.equal((await ns.tasks.get('a')).status, 'running');
      assert.equal(conmonsOf(r.state).length, 1);
    }
    await ns.containers.delete('a', {force: true});
  });
});

describe('rm --force', () => {
  it('removes containers in every state', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    const {ns, ref} = r;
    const states: Readonly<Record<string, (id: string) => Promise<unknown>>> = {
      without: async (id) => ns.containers.create(ref, id, {args: ['sh', '-c', 'exit 0']}),
      running: async (id) => ns.run(ref, id, {detach: true, args: ['busybox', 'sleep', '1000']}),
      removing: async (id) => ns.run(ref, id, {detach: true, rm: true, args: ['busybox', 'sleep', '1000']}),
      paused: async (id) => {
        await ns.run(ref, id, {detach: true, args: ['busybox', 'sleep', '1000']});
        await ns.tasks.pause(id);
      },
      stopped: async (id) => {
        await ns.run(ref, id, {detach: true, args: ['sh', '-c', 'exit 0']});
        await ns.tasks.wait(id);
      },
    };
    for (const [id, make] of Object.entries(states)) {
      await make(id);
      await ns.containers.delete(id, {force: true}).catch((err: unknown) => {
        throw new Error(`state ${id}`, {cause: err});
      });
    }
    assert.deepEqual(await ns.containers.list(), []);
    assert.deepEqual(
      (await ns.snapshots().list()).filter(({kind}) => kind !== 'committed'),
      [],
    );
    assert.deepEqual(conmonsOf(r.state), []);
    await assert.rejects(ns.containers.delete('running', {force: true}), expectsError('not_found', /container "running"/));
  });
});

/** A few limits, chosen by chance. */
function someLimits(next: () => number): ContainerLimits {
  const mebibytes = (): number => (16 + Math.floor(next() * 100)) << 20;
  const choices: Readonly<Record<string, () => ContainerLimits>> = {
    memory: () => ({memoryLimit: mebibytes()}),
    reservation: () => ({memoryReservation: mebibytes()}),
    cpus: () => ({cpus: (1 + Math.floor(next() * 19)) / 10}),
    quota: () => ({cpuQuota: 1000 + Math.floor(next() * 50_000), cpuPeriod: 50_000}),
    shares: () => ({cpuShares: 2 + Math.floor(next() * 1000)}),
    cpuset: () => ({cpusetCpus: '0'}),
    pids: () => ({pidsLimit: 10 + Math.floor(next() * 100)}),
  };
  const names = Object.keys(choices).filter((name) => name !== 'cpus' || next() < 0.5);
  const chosen = names.filter((name) => next() < 0.4 && !(name === 'quota' && names.includes('cpus')));
  return Object.assign({}, ...(chosen.length === 0 ? ['pids'] : chosen).map((name) => choices[name]!())) as ContainerLimits;
}

/** What the kernel says of a process's cgroups, version 1 or 2; `undefined` for a controller that it does not have. */
function kernelLimits(pid: number): Readonly<Record<string, number | string | undefined>> {
  const lines = readFileSync(`/proc/${pid}/cgroup`, 'latin1').trim().split('\n');
  const read = (controller: string, file: string): string | undefined => {
    const line = lines.find((one) => one.split(':')[1]!.split(',').includes(controller));
    const path = line === undefined ? undefined : join('/sys/fs/cgroup', controller, line.split(':').slice(2).join(':'), file);
    return path !== undefined && existsSync(path) ? readFileSync(path, 'latin1').trim() : undefined;
  };
  const number = (controller: string, file: string): number | undefined => {
    const text = read(controller, file);
    return text === undefined ? undefined : Number(text);
  };
  return {
    memory: number('memory', 'memory.limit_in_bytes'),
    reservation: number('memory', 'memory.soft_limit_in_bytes'),
    quota: number('cpu', 'cpu.cfs_quota_us'),
    shares: number('cpu', 'cpu.shares'),
    cpus: read('cpuset', 'cpuset.cpus'),
    pids: number('pids', 'pids.max'),
  };
}

const limitsIn = (spec: unknown): Limits => {
  const {memory, cpu, pids} = (spec as Spec).linux.resources;
  return {...(memory && {memory}), ...(cpu && {cpu}), ...(pids && {pids})};
};

describe('update', () => {
  it('changes what is given, for the task that runs and for the next one, and keeps the rest', async (t) => {
    if (!requiresTasks(t)) return;
    const {ns, ref} = await taskRig(t);
    await ns.run(ref, 'a', {detach: true, args: ['busybox', 'sleep', '1000']});
    const next = randomNumbers(3);
    let all: ContainerLimits = {};
    for (let round = 0; round < 12; round++) {
      const some = someLimits(next);
      const {cpuQuota: _quota, cpuPeriod: _period, ...withoutQuota} = all;
      const {cpus: _cpus, ...withoutCpus} = all;
      const merged = {...(some.cpus !== undefined ? withoutQuota : some.cpuQuota !== undefined ? withoutCpus : all), ...some};
      const isOdd = (merged.memoryReservation ?? 0) > (merged.memoryLimit ?? Number.POSITIVE_INFINITY);
      if (isOdd) {
        await assert.rejects(ns.containers.update('a', some), expectsError('invalid_argument', /reservation/));
      } else {
        await ns.containers.update('a', some);
        all = merged;
      }
      assert.deepEqual(limitsIn((await ns.containers.get('a')).spec), limitsOf(all), JSON.stringify(some));
      const kernel = kernelLimits((await ns.tasks.get('a')).pid);
      const {memory, cpu, pids} = limitsOf(all);
      const wanted = {
        memory: memory?.limit,
        reservation: memory?.reservation,
        quota: cpu?.quota,
        shares: cpu?.shares,
        cpus: cpu?.cpus,
        pids: pids?.limit,
      };
      for (const [name, value] of Object.entries(wanted))
        if (value !== undefined && kernel[name] !== undefined) assert.equal(kernel[name], value, `${name} after ${JSON.stringify(some)}`);
      if (round % 4 === 3) await ns.tasks.restart('a', {timeoutMs: 0});
    }
    await ns.containers.delete('a', {force: true});
  });

  it('changes nothing where the kernel refuses, and says so', async (t) => {
    if (!requiresTasks(t)) return;
    const {ns, ref} = await taskRig(t);
    await ns.run(ref, 'a', {detach: true, memoryLimit: 64 << 20, args: ['busybox', 'sleep', '1000']});
    const before = await ns.containers.get('a');
    await assert.rejects(
      ns.containers.update('a', {cpusetCpus: '4000'}),
      expectsError('unknown', /unable to change the limits of task "a"/),
    );
    await assert.rejects(ns.containers.update('a', {}), expectsError('invalid_argument', /no limit is given/));
    await assert.rejects(ns.containers.update('b', {pidsLimit: 3}), expectsError('not_found', /container "b"/));
    assert.deepEqual((await ns.containers.get('a')).spec, before.spec);
    await ns.tasks.stop('a', {timeoutMs: 0});
    await ns.containers.update('a', {memoryLimit: 32 << 20});
    assert.deepEqual(limitsIn((await ns.containers.get('a')).spec), {memory: {limit: 32 << 20}});
    await ns.containers.delete('a');
  });
});
