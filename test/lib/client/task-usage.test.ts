/** `tasks metrics` and `tasks stats`: what is told is what the kernel counts. */
import assert from 'node:assert/strict';
import {mkdirSync, readFileSync, writeFileSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {describe, it} from 'node:test';
import {hasCode} from '../../../src/lib/errdefs.ts';
import {readMetrics, usageOf} from '../../../src/lib/runtime/metrics.ts';
import {engineEnvironment} from '../../cli/harness.ts';
import {start} from '../../e2e/fixtures.ts';
import {temporaryDirectory} from '../../support/helpers.ts';
import {requiresTasks, taskRig, until} from '../../support/tasks.ts';

describe('what a container uses', () => {
  it('is what the kernel has in its cgroup, between two looks at it', async (t) => {
    if (!requiresTasks(t)) return;
    const {ns, ref} = await taskRig(t);
    const args = ['sh', '-c', 'sleep 1000 & while :; do :; done'];
    const {pid} = await ns.run(ref, 'a', {detach: true, args, memoryLimit: 64 << 20});
    await ns.run(ref, 'b', {detach: true, args: ['sh', '-c', 'exit 0']});
    await until('all run', async () => (await ns.tasks.ps('a')).length === 2);
    const line = (controller: string): string | undefined =>
      readFileSync(`/proc/${pid}/cgroup`, 'latin1')
        .split('\n')
        .map((one) => one.split(':'))
        .find(([, name]) => name === controller)?.[2];
    const v1 = line('memory') !== undefined;
    const file = (controller: string, name: string): string =>
      join('/sys/fs/cgroup', v1 ? controller : '', line(v1 ? controller : '')!, name);
    const count = (): number =>
      v1
        ? Number(readFileSync(file('cpuacct', 'cpuacct.usage'), 'latin1'))
        : Number(/usage_usec (\d+)/.exec(readFileSync(file('cpu', 'cpu.stat'), 'latin1'))![1]);
    const before = count();
    const {metrics, cgroupVersion, id} = await ns.tasks.metrics('a');
    const used = metrics[v1 ? 'cpuacct.usage' : 'cpu.usage_usec'] as number;
    assert.ok(before <= used && used <= count(), `${before} ${used}`);
    assert.deepEqual([id, cgroupVersion, metrics['pids.current']], ['a', v1 ? 1 : 2, 2]);
    assert.equal(metrics[v1 ? 'memory.limit_in_bytes' : 'memory.usage_limit'], 64 << 20);

    await ns.tasks.wait('b');
    const [stats, ...others] = await ns.tasks.stats();
    assert.deepEqual(others, [], 'one that has ended uses nothing');
    assert.deepEqual([stats!.id, stats!.memoryLimit, stats!.pids], ['a', 64 << 20, 2]);
    assert.ok(stats!.cpu > 0 && stats!.cpu <= 1.1, String(stats!.cpu));
    assert.ok(stats!.memory > 0 && stats!.memory < 64 << 20);
    await assert.rejects(ns.tasks.metrics('b'), (err) => hasCode(err, 'failed_precondition'));
  });

  it('is counted, and its execs are known, where the runtime chooses the cgroup', async (t) => {
    if (!requiresTasks(t)) return;
    const {ns, ref} = await taskRig(t);
    await ns.run(ref, 'a', {detach: true, args: ['sh', '-c', 'sleep 1000; true'], cgroup: '', memoryLimit: 64 << 20});
    const {metrics, cgroupVersion} = await ns.tasks.metrics('a');
    assert.equal(metrics[cgroupVersion === 1 ? 'memory.limit_in_bytes' : 'memory.usage_limit'], 64 << 20);
    assert.deepEqual(
      (await ns.tasks.stats()).map(({id, memoryLimit}) => [id, memoryLimit]),
      [['a', 64 << 20]],
    );
    const {pid} = await ns.tasks.exec('a', ['busybox', 'sleep', '1000'], {detach: true, execId: 'one'});
    await assert.rejects(ns.tasks.exec('a', ['busybox', 'true'], {execId: 'one'}), (err) => hasCode(err, 'already_exists'));
    await ns.tasks.kill('a', {execId: 'one', signal: 'KILL'});
    await until('it has ended', async () => !(await ns.tasks.ps('a')).some((one) => one.pid === pid));
    await ns.containers.delete('a').catch((err: unknown) => assert.ok(hasCode(err, 'failed_precondition')));
    await ns.tasks.delete('a', {force: true});
  });

  it('is printed until those that are named have ended, and one heading is enough while nothing runs', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    const {ns, ref} = r;
    const env = {...engineEnvironment('executable'), BERTH_ROOT: r.root, BERTH_STATE: r.state};
    const stats = (...ids: string[]) => start({env} as never, ['-n', r.namespace, 'stats', ...ids]);
    const all = stats();
    let output = '';
    all.child.stdout!.on('data', (text: string) => (output += text));
    await until('it has begun', () => output.startsWith('NAME'));
    await ns.run(ref, 'a', {detach: true, args: ['sh', '-c', 'sleep 1000; true']});
    const rows = (): number => output.split('\n').filter((line) => line.startsWith('a ')).length;
    await until('it is seen', () => rows() > 0);
    const named = stats('a');
    named.child.stdout!.once('data', () => void ns.tasks.delete('a', {force: true}));
    const {status, stdout} = await named.ended;
    // The task may be gone, or be seen as ended.
    assert.ok((status === 0 || status === 5) && stdout.includes('\na '), `${status} ${stdout}`);
    all.child.kill('SIGINT');
    assert.equal((await all.ended).status, 130);
    assert.equal(output.split('\n').filter((line) => line.startsWith('NAME')).length, rows() + 1);
  });

  it('is read from the files of version 2 as well', (t) => {
    const root = temporaryDirectory(t);
    for (const [path, text] of Object.entries({
      'cgroup.controllers': 'cpu memory pids\n',
      'ns/a/pids.current': '3\n',
      'ns/a/pids.max': 'max\n',
      'ns/a/cpu.stat': 'usage_usec 2000\nuser_usec 1500\nsystem_usec 500\nnr_periods 0\nother 9\n',
      'ns/a/memory.current': '1048576\n',
      'ns/a/memory.max': 'max\n',
      'ns/a/memory.stat': 'anon 4096\nfile 8192\ninactive_file 4096\n',
    })) {
      mkdirSync(dirname(join(root, path)), {recursive: true});
      writeFileSync(join(root, path), text);
    }
    const found = readMetrics(() => '/ns/a', root);
    assert.deepEqual(found, {
      version: 2,
      metrics: {
        'pids.current': 3,
        'pids.limit': 2 ** 64,
        'cpu.usage_usec': 2000,
        'cpu.user_usec': 1500,
        'cpu.system_usec': 500,
        'cpu.nr_periods': 0,
        'memory.usage': 1_048_576,
        'memory.usage_limit': 2 ** 64,
        'memory.anon': 4096,
        'memory.file': 8192,
        'memory.inactive_file': 4096,
      },
    });
    assert.deepEqual(usageOf(found, 2 ** 30), {cpuNs: 2_000_000, memory: 1_048_576 - 4096, memoryLimit: 2 ** 30, pids: 3});
  });
});
