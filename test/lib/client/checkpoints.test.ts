/** Containers that criu writes to disk and lets go on. What a container counts tells whether it ran, or was lost, in between. */
import assert from 'node:assert/strict';
import {execFileSync, spawn, spawnSync} from 'node:child_process';
import {existsSync, readdirSync, readFileSync, realpathSync, rmdirSync, rmSync, statfsSync, writeFileSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {describe, it} from 'node:test';
import {openClient} from '../../../src/lib/client/index.ts';
import type {CreateOptions, ProgressEvent} from '../../../src/lib/client/types/index.ts';
import {hasCode} from '../../../src/lib/errdefs.ts';
import {failpointOptions} from '../../fakes/failpoints.ts';
import {findProgram, is, onEnd, requiresProgram, TORTURE, temporaryDirectory} from '../../support/helpers.ts';
import {checkStore} from '../../support/invariants.ts';
import {file, tar} from '../../support/tartest.ts';
import {cgroupsOf, requiresCriu, type TaskRig, taskRig, until} from '../../support/tasks.ts';
import type {CheckpointRequest} from './checkpoint-driver.ts';
import {assertCounted, COUNT, countedTo, counting, hasCheckpoint, logOf} from './counting-container.ts';

describe('a checkpoint', () => {
  it('ends the container, which goes on where it was: nothing is counted twice, and nothing is left out', async (t) => {
    if (!requiresCriu(t)) return;
    const r = await taskRig(t);
    const {ns, client} = r;
    await counting(r, 'c', {memoryLimit: 64 << 20});
    const events: ProgressEvent[] = [];
    const made = await ns.containers.checkpoint('c', {onEvent: (event) => events.push(event)});
    assert.ok(made.size > 0 && !made.leftRunning);
    assert.deepEqual(
      events.map(({status}) => status),
      ['reading', 'committing', 'done'],
    );
    const {status, checkpointed, exitStatus} = await ns.tasks.get('c');
    assert.deepEqual({status, checkpointed, exitStatus}, {status: 'stopped', checkpointed: true, exitStatus: 137});
    const before = await logOf(r, 'c');
    assertCounted(before);
    assert.equal((await client.check()).damage, 0);
    assert.ok(await hasCheckpoint(r, 'c'));

    const {pid} = await ns.containers.restore('c');
    assert.equal((await ns.tasks.get('c')).pid, pid);
    await countedTo(r, 'c', before.length + 20);
    assertCounted(await logOf(r, 'c'));
    assert.ok(!(await hasCheckpoint(r, 'c')), 'it is gone once the container runs');
    await assert.rejects(ns.containers.restore('c'), is('not_found'));
    // The restored one is a task like any other, in a control group of its own.
    const cgroups = readFileSync(`/proc/${pid}/cgroup`, 'latin1').trim().split('\n');
    const [first] = cgroups.map((line) => line.split(':')[2]!);
    assert.match(first!, new RegExp(`^/${r.namespace}/c~`));
    assert.ok(
      cgroups.every((line) => line.endsWith(`:${first}`) || line.startsWith('0::')),
      cgroups.join(' '),
    );
    assert.equal((await ns.tasks.stats(['c']))[0]!.memoryLimit, 64 << 20);
    assert.equal((await ns.tasks.exec('c', ['sh', '-c', 'exit 7'], {stdio: ['ignore', 'ignore', 'ignore']})).exitStatus, 7);
    await ns.tasks.pause('c');
    await ns.tasks.resume('c');
    await ns.containers.checkpoint('c');
    await ns.containers.restore('c');
    assert.equal((await ns.tasks.stop('c', {timeoutMs: 100})).known, true);
    await ns.containers.delete('c');
    assert.deepEqual(r.left(), []);
    checkStore(r.root);
  });

  it('that leaves the container running is restored when that has ended, as often as it is kept', async (t) => {
    if (!requiresCriu(t)) return;
    const r = await taskRig(t);
    const {ns} = r;
    await counting(r, 'c');
    assert.ok((await ns.containers.checkpoint('c', {leaveRunning: true})).leftRunning);
    await countedTo(r, 'c', (await logOf(r, 'c')).length + 20);
    assertCounted(await logOf(r, 'c'));
    await assert.rejects(ns.containers.restore('c'), is('failed_precondition'));
    for (const keep of [true, false]) {
      await ns.tasks.stop('c', {timeoutMs: 0});
      const before = (await logOf(r, 'c')).length;
      await ns.containers.restore('c', {keep});
      assert.equal(await hasCheckpoint(r, 'c'), keep);
      await until('it writes', async () => (await logOf(r, 'c')).length > before + 2);
      const [first, second] = (await logOf(r, 'c')).slice(before);
      assert.ok(first! <= before && second === first! + 1, `${first}, ${second} after ${before} lines`);
    }
  });

  it('outlives the boot', async (t) => {
    if (!requiresCriu(t)) return;
    const r = await taskRig(t);
    await counting(r, 'c');
    await r.ns.containers.checkpoint('c');
    const last = (await logOf(r, 'c')).length;
    await until('the end of conmon', () => r.left().every((line) => !line.includes('conmon')));
    rmSync(join(r.state, 'runs'), {recursive: true});
    for (const path of cgroupsOf(r.namespace)) {
      for (const name of readdirSync(path)) if (name.includes('~')) rmdirSync(join(path, name));
      rmdirSync(path);
    }
    const client = openClient({root: r.root, state: r.state});
    const ns = client.namespace(r.namespace);
    assert.deepEqual(await ns.tasks.list(), []);
    await client.gc();
    await client.prune();
    await ns.containers.restore('c');
    await until('it writes', async () => (await logOf(r, 'c')).length > 2);
    const log = await logOf(r, 'c');
    assert.deepEqual(
      log,
      log.map((_, i) => last + i + 1),
    );
    await client.close();
  });

  it('is replaced by the next one, and goes with its container, or when somebody removes it', async (t) => {
    if (!requiresCriu(t)) return;
    const r = await taskRig(t);
    const {ns, client} = r;
    await counting(r, 'c');
    for (let i = 0; i < 2; i++) await ns.containers.checkpoint('c', {leaveRunning: true});
    const layers = async (): Promise<number> => (await ns.snapshots('native').list()).length;
    assert.equal(await layers(), 1);
    assert.ok((await client.df()).namespaces.length > 0);
    await assert.rejects(ns.snapshots('native').delete('checkpoints/c'), is('failed_precondition'));
    await ns.containers.removeCheckpoint('c');
    await assert.rejects(ns.containers.removeCheckpoint('c'), is('not_found'));
    assert.equal(await layers(), 0);
    await ns.containers.checkpoint('c');
    assert.equal(await layers(), 1);
    await ns.containers.delete('c');
    assert.equal(await layers(), 0);
    assert.equal((await client.gc()).layers, 0, 'the removal has left nothing to collect');
  });

  it('has what a terminal was', async (t) => {
    if (!requiresCriu(t)) return;
    const r = await taskRig(t);
    await counting(r, 'c', {tty: true});
    await r.ns.containers.checkpoint('c');
    const before = await logOf(r, 'c');
    await r.ns.containers.restore('c');
    await countedTo(r, 'c', before.length + 5);
    assertCounted(await logOf(r, 'c'));
    const {exitStatus} = await r.ns.tasks.exec('c', ['sh', '-c', 'test -t 1 </proc/1/fd/0 >/proc/1/fd/1'], {
      stdio: ['ignore', 'ignore', 'ignore'],
    });
    assert.equal(exitStatus, 0, 'its standard output is a terminal');
  });

  it('is refused, and changes nothing, of what could not be restored', async (t) => {
    if (!requiresCriu(t)) return;
    const r = await taskRig(t);
    const {ns} = r;
    await assert.rejects(ns.containers.checkpoint('absent'), is('not_found'));
    await assert.rejects(ns.containers.restore('absent'), is('not_found'));
    await counting(r, 'rm', {rm: true} as CreateOptions);
    await assert.rejects(ns.containers.checkpoint('rm'), is('failed_precondition'));
    await counting(r, 'c');
    await ns.tasks.pause('c');
    await assert.rejects(ns.containers.checkpoint('c'), is('failed_precondition'));
    await ns.tasks.resume('c');
    const aborted = new AbortController();
    const onEvent = (): void => aborted.abort();
    await assert.rejects(ns.containers.checkpoint('c', {signal: aborted.signal, onEvent}), is('canceled'));
    assert.equal((await ns.tasks.get('c')).status, 'running');
    await ns.tasks.stop('c', {timeoutMs: 0});
    await assert.rejects(ns.containers.checkpoint('c'), is('failed_precondition'));
    await assert.rejects(ns.containers.restore('c'), is('not_found'));
    assert.deepEqual(await ns.snapshots('native').list(), []);
    assert.ok(!existsSync(join(r.root, 'work')) || (await r.client.check()).damage === 0);
  });

  it('is made of TCP connections when that is said, and else refused with what to say', async (t) => {
    if (!requiresCriu(t)) return;
    const r = await taskRig(t);
    const {ns} = r;
    // Both ends are in the container; what the client gets is what the log has.
    const count = `mkfifo /tmp/f; exec 5<>/tmp/f; (${COUNT[2]}) | nc -l -p 7000 & while ! nc 127.0.0.1 7000 <&5; do sleep 0.1; done`;
    await counting(r, 'c', {args: ['sh', '-c', count]});
    await assert.rejects(ns.containers.checkpoint('c'), (err: Error & {hint?: string}) => {
      assert.match(err.hint ?? '', /--tcp-established/, err.message);
      return is('failed_precondition')(err);
    });
    const before = await logOf(r, 'c');
    await countedTo(r, 'c', before.length + 5);
    try {
      await ns.containers.checkpoint('c', {tcpEstablished: true});
    } catch (err) {
      // SO_PASSCRED and SO_PASSSEC: kernels from 6.16 on have them for Unix sockets alone, and criu before 4.2 asks every socket.
      if (!/Can't get 1:34 opt/.test(String(err))) throw err;
      t.skip(`this criu dumps no sockets of this kernel: ${String(err)}`);
      return;
    }
    const {length} = await logOf(r, 'c');
    await ns.containers.restore('c');
    await countedTo(r, 'c', length + 5);
    assertCounted(await logOf(r, 'c'));
  });

  it('takes nothing of the container when a file that it has open was changed: it says so, and is kept', async (t) => {
    if (!requiresCriu(t)) return;
    const r = await taskRig(t);
    const {ns} = r;
    await counting(r, 'c', {args: ['sh', '-c', `exec 5>/tmp/open; echo text >&5; ${COUNT[2]}`]});
    await ns.containers.checkpoint('c');
    const change = async (text: string): Promise<void> => {
      const layer = tar(file('open', text));
      await ns.containers.copyFiles(
        (async function* () {
          yield layer;
        })(),
        {container: 'c', path: '/tmp'},
      );
    };
    await change('another text');
    const bundle = (): readonly string[] => readdirSync(join(r.state, 'runs', r.namespace, 'bundles', 'c')).sort();
    // Its end has been settled by then.
    await until('the end of conmon', () => r.left().every((line) => !line.includes('conmon')));
    const ended = {task: await ns.tasks.get('c'), log: await logOf(r, 'c'), files: bundle()};
    for (let i = 0; i < 2; i++) {
      await assert.rejects(ns.containers.restore('c'), (err: Error) => {
        assert.match(err.message, /criu: .*tmp\/open/);
        return is('failed_precondition')(err);
      });
      assert.deepEqual({task: await ns.tasks.get('c'), log: await logOf(r, 'c'), files: bundle()}, ended);
    }
    assert.deepEqual(r.left(), ['bundles/c']);
    assert.ok(await hasCheckpoint(r, 'c'));
    await change('text\n');
    const events: ProgressEvent[] = [];
    await ns.containers.restore('c', {onEvent: (event) => events.push(event)});
    assert.deepEqual(
      events.map(({ref, status}) => `${ref} ${status}`),
      ['waiting', 'reading', 'done'].map((status) => `restore-c ${status}`),
    );
    assert.equal((await ns.tasks.get('c')).status, 'running');
    assert.ok(!existsSync(join(r.state, 'runs', r.namespace, 'bundles', 'c', 'before')));
  });
});

describe('criu', () => {
  /** Another criu in the place of the machine's, for one command. @param script empty: none */
  const withCriu = (r: TaskRig, script: string, ...words: string[]): {status: number | null; stderr: string} => {
    const fake = join(r.state, 'criu');
    if (script !== '') writeFileSync(fake, `#!/bin/sh\n${script}\n`, {mode: 0o755});
    const hide = 'mount --bind "$0" "$1" && shift && exec "$@"';
    const place = [script === '' ? '/dev/null' : fake, realpathSync(findProgram('criu')!)];
    const command = [...r.program, '--root', r.root, '--state', r.state, '-n', r.namespace, ...words];
    return spawnSync('unshare', ['-m', 'sh', '-c', hide, ...place, ...command], {encoding: 'utf8'});
  };

  it('that is missing, or does not work, is said so by its last words, and the container goes on', async (t) => {
    if (!requiresCriu(t) || !requiresProgram(t, 'unshare', 'mount')) return;
    const r = await taskRig(t);
    const {ns} = r;
    await counting(r, 'c');
    const missing = withCriu(r, '', 'containers', 'checkpoint', 'c');
    assert.equal(missing.status, 9, missing.stderr);
    assert.match(missing.stderr, /criu is not installed: failed precondition\nhint: install the Debian package criu/);
    const broken = withCriu(r, 'echo "Error (criu/check.c:1): the kernel is too old" >&2; exit 1', 'containers', 'checkpoint', 'c');
    assert.equal(broken.status, 9, broken.stderr);
    assert.match(broken.stderr, /criu does not work on this machine: .*the kernel is too old/);
    assert.equal((await ns.tasks.get('c')).status, 'running');
    await countedTo(r, 'c', (await logOf(r, 'c')).length + 5);
    assertCounted(await logOf(r, 'c'));
    assert.deepEqual(await ns.snapshots('native').list(), []);
    await ns.containers.checkpoint('c');
    const restored = withCriu(r, '', 'containers', 'restore', 'c');
    assert.equal(restored.status, 9, restored.stderr);
    assert.ok(await hasCheckpoint(r, 'c'));
  });

  it('that has no space left leaves the container running, and the checkpoint that it had', async (t) => {
    if (!requiresCriu(t) || !requiresProgram(t, 'mount')) return;
    const disk = temporaryDirectory(t);
    const state = temporaryDirectory(t);
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64m', 'none', disk]);
    onEnd(t, () => execFileSync('umount', ['--lazy', disk]));
    const r = await taskRig(t, {state, root: join(disk, 'root')});
    const {ns, client} = r;
    await counting(r, 'c');
    await client.namespaces.label(r.namespace, {'berth/quota-bytes': '1000'});
    await assert.rejects(ns.containers.checkpoint('c'), is('resource_exhausted'));
    await client.namespaces.label(r.namespace, {'berth/quota-bytes': ''});
    await ns.containers.checkpoint('c', {leaveRunning: true});
    const had = await ns.snapshots('native').get('checkpoints/c');
    const filler = join(disk, 'filler');
    for (const free of [0, 64 << 10, 256 << 10]) {
      const {bavail, bsize} = statfsSync(disk);
      execFileSync('fallocate', ['-l', String(bavail * bsize - free), filler]);
      await assert.rejects(ns.containers.checkpoint('c'), is('resource_exhausted'), `${free} B free`);
      rmSync(filler);
      assert.equal((await ns.tasks.get('c')).status, 'running');
      await countedTo(r, 'c', (await logOf(r, 'c')).length + 5);
      assertCounted(await logOf(r, 'c'));
      assert.deepEqual(await ns.snapshots('native').get('checkpoints/c'), had);
      assert.equal((await client.check()).damage, 0);
    }
    await ns.containers.checkpoint('c');
    await ns.containers.restore('c');
  });
});

/** Of a command's changes to the disk, so many are tried with a kill. */
const TRIED = TORTURE ? Number.POSITIVE_INFINITY : 4;

describe('a command that is killed at a change to the disk', () => {
  const drive = async (r: TaskRig, verb: CheckpointRequest['verb'], at: number): Promise<{isKilled: boolean; changes: number}> => {
    const {root, state, program, namespace} = r;
    const log = join(r.state, 'changes');
    const {execArgv, env} = failpointOptions({below: dirname(root), action: 'kill', at}, log);
    const request: CheckpointRequest = {root, state, program, namespace, id: 'c', verb};
    const path = new URL('checkpoint-driver.ts', import.meta.url).pathname;
    const {signal, status, stderr} = await new Promise<{signal: string | null; status: number | null; stderr: string}>((end) => {
      const child = spawn(process.execPath, [...execArgv, path, JSON.stringify(request)], {
        env: {...process.env, ...env},
        stdio: ['ignore', 'ignore', 'pipe'],
      });
      let said = '';
      child.stderr.setEncoding('utf8').on('data', (text: string) => (said += text));
      child.on('exit', (code, by) => end({signal: by, status: code, stderr: said}));
    });
    assert.ok(status === 0 || signal === 'SIGKILL', stderr);
    const changes = existsSync(log) ? readFileSync(log, 'utf8').trim().split('\n').length : 0;
    rmSync(log, {force: true});
    return {isKilled: signal === 'SIGKILL', changes};
  };
  const statusOf = async ({ns}: TaskRig): Promise<string> => {
    try {
      return (await ns.tasks.get('c')).status;
    } catch (err) {
      if (hasCode(err, 'not_found')) return 'absent';
      throw err;
    }
  };
  /** What the killed command has begun comes to its end without it. */
  const settled = (r: TaskRig): Promise<void> =>
    until(
      () => `it has settled: ${r.left().join('\n')}`,
      async () => {
        const others = r.left().filter((line) => /^\d+: /.test(line) && !/^\d+: (?:\S*\/)?conmon /.test(line));
        return others.length === 0 && ['running', 'stopped', 'absent'].includes(await statusOf(r));
      },
    );

  for (const verb of ['checkpoint', 'restore'] as const)
    it(`leaves a container that runs, or one that can be restored, and has counted every number: ${verb}`, async (t) => {
      if (!requiresCriu(t)) return;
      const r = await taskRig(t);
      const {ns, client} = r;
      await counting(r, 'c');
      if (verb === 'restore') await ns.containers.checkpoint('c');
      const {changes} = await drive(r, verb, 0);
      assert.ok(changes > 10, `${changes} changes`);
      const step = Math.max(1, Math.ceil(changes / TRIED));
      for (let at = step; at <= changes; at += step) {
        // From here on it runs, before a checkpoint, or does not, before its restoration.
        const isRunning = (await statusOf(r)) === 'running';
        if (verb === 'checkpoint' && !isRunning) await ns.containers.restore('c');
        if (verb === 'restore' && isRunning) await ns.containers.checkpoint('c');
        await drive(r, verb, at);
        await settled(r);
        const status = await statusOf(r);
        const when = `killed at change ${at} of ${changes}: ${status}`;
        assert.ok(status === 'running' || (await hasCheckpoint(r, 'c')), when);
        assert.equal((await client.check()).damage, 0, when);
        // What the task before had is not lost.
        assert.notEqual(status, 'absent', when);
        if (status === 'stopped') {
          const {exitStatus, checkpointed, startedAt} = await ns.tasks.get('c');
          assert.deepEqual({exitStatus, checkpointed}, {exitStatus: 137, checkpointed: true}, when);
          assert.ok(startedAt, when);
        }
        if (status !== 'running') await ns.containers.restore('c');
        const {length} = await logOf(r, 'c');
        await until(`it writes, ${when}`, async () => (await logOf(r, 'c')).length > length + 3);
        assertCounted(await logOf(r, 'c'), when);
      }
      await ns.tasks.stop('c', {timeoutMs: 0});
      await ns.containers.delete('c');
      await client.gc();
      await until(
        () => `nothing is left: ${r.left().join('\n')}`,
        () => r.left().length === 0,
      );
    });
});
