/** `tasks exec`, `ps`, `pause` and `resume` under the real runc. */
import assert from 'node:assert/strict';
import {execFileSync, spawn} from 'node:child_process';
import {createHash} from 'node:crypto';
import {once} from 'node:events';
import {closeSync, existsSync, openSync, readdirSync, readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {text} from 'node:stream/consumers';
import {describe, it} from 'node:test';
import type {ExecOptions} from '../../../src/lib/client/index.ts';
import {hasCode} from '../../../src/lib/errdefs.ts';
import {engineEnvironment} from '../../cli/harness.ts';
import {randomOf} from '../../fuzz/seeded-random.ts';
import {findProgram, type Scope, TORTURE, temporaryDirectory} from '../../support/helpers.ts';
import {failsAs, requiresTasks, type TaskRig, taskRig, until} from '../../support/tasks.ts';

/** Execs at once. */
const MANY = TORTURE ? 50 : 10;
const SLEEP = ['sh', '-c', 'trap "exit 0" TERM USR1; while :; do sleep 0.05; done'];

/** What a process prints, and how it ends. */
async function outputOf({ns}: TaskRig, args: readonly string[], options: ExecOptions = {}, input = '') {
  const child = await ns.tasks.exec('a', args, {...options, stdio: 'pipe'});
  child.stdin.end(input);
  const [stdout, stderr, {exitStatus}] = await Promise.all([text(child.stdout), text(child.stderr), child.ended]);
  return {stdout, stderr, exitStatus};
}

const execFiles = ({state, namespace}: TaskRig): readonly string[] =>
  readdirSync(join(state, 'runs', namespace, 'bundles/a')).filter((name) => name.startsWith('exec.'));

describe('exec', () => {
  it('runs a process as the container runs its own, but for what is asked', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    const {ns, ref} = r;
    const {pid} = await ns.run(ref, 'a', {detach: true, args: SLEEP, env: ['A=1', 'B=2'], cwd: '/tmp', capDrop: ['CAP_CHOWN']});

    // The kernel's own words are the oracle: the container's first process beside the exec.
    const facts = (status: string): readonly string[] =>
      status.split('\n').filter((line) => /^(Cap|NoNewPrivs|Seccomp:|Uid|Gid|Groups)/.test(line));
    const inside = await outputOf(r, ['busybox', 'cat', '/proc/self/status']);
    assert.deepEqual(facts(inside.stdout), facts(readFileSync(`/proc/${pid}/status`, 'utf8')));
    const limits = await outputOf(r, ['busybox', 'cat', '/proc/self/limits']);
    assert.equal(limits.stdout, readFileSync(`/proc/${pid}/limits`, 'utf8'));

    for (const [args, options, expected] of [
      [['sh', '-c', 'echo $A $B; pwd'], {}, '1 2\n/tmp\n'],
      [['sh', '-c', 'echo $A $B $C; pwd'], {env: ['A', 'B=3', 'C=4'], cwd: '/bin'}, '3 4\n/bin\n'],
      [['busybox', 'id', '-u'], {user: '1000:1001'}, '1000\n'],
      [['busybox', 'cat'], {}, 'input'],
    ] as const)
      assert.deepEqual(await outputOf(r, args, options, 'input'), {stdout: expected, stderr: '', exitStatus: 0}, args.join(' '));

    for (const [command, expected] of [
      ['exit 7', 7],
      ['exit 255', 255],
      ['kill -KILL $$', 137],
      ['echo out; echo err >&2; exit 1', 1],
    ] as const)
      assert.equal((await outputOf(r, ['sh', '-c', command])).exitStatus, expected, command);
    assert.deepEqual(await outputOf(r, ['sh', '-c', 'echo out; echo err >&2; exit 1']), {stdout: 'out\n', stderr: 'err\n', exitStatus: 1});
    assert.deepEqual(execFiles(r), []);
  });

  it('that cannot start says why, and leaves nothing', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    const {ns, ref} = r;
    await ns.run(ref, 'a', {detach: true, args: ['sh', '-c', `ln -s /proc/self/fd /tmp/fd; echo x >/tmp/file; ${SLEEP[2]}`]});
    await until('the link is there', async () => existsSync(`/proc/${(await ns.tasks.get('a')).pid}/root/tmp/file`));
    for (const [args, options, code, runExit] of [
      [['no-such-program'], {}, 'not_found', 127],
      [['/tmp'], {}, 'permission_denied', 126],
      [['/tmp/file'], {}, 'permission_denied', 126],
      [['busybox', 'true'], {user: 'nobody-here'}, 'not_found', 125],
      [['busybox', 'true'], {cwd: 'tmp'}, 'invalid_argument', 125],
      [['busybox', 'true'], {cwd: '/nowhere'}, 'not_found', 125],
      [['busybox', 'true'], {env: ['=x']}, 'invalid_argument', 125],
      [['busybox', 'true'], {execId: 'a b'}, 'invalid_argument', 125],
      [[], {}, 'invalid_argument', 125],
      // CVE-2024-21626, by its own name and through a link.
      [['busybox', 'true'], {cwd: '/proc/self/fd/7'}, 'invalid_argument', 125],
      [['busybox', 'true'], {cwd: '/tmp/fd/7'}, 'not_found', 125],
    ] as const) {
      await assert.rejects(
        ns.tasks.exec('a', args, {...options, stdio: ['ignore', 'ignore', 'ignore']}),
        failsAs(code, runExit),
        args.join(' '),
      );
      assert.deepEqual(execFiles(r), [], args.join(' '));
    }
    await ns.tasks.pause('a');
    await assert.rejects(ns.tasks.exec('a', ['busybox', 'true']), failsAs('failed_precondition', 125));
    await assert.rejects(ns.tasks.pause('a'), failsAs('failed_precondition'));
    assert.equal((await ns.tasks.get('a')).status, 'paused');
    await ns.tasks.resume('a');
    await assert.rejects(ns.tasks.resume('a'), failsAs('failed_precondition'));
    await ns.tasks.stop('a');
    for (const call of [() => ns.tasks.exec('a', ['busybox', 'true']), () => ns.tasks.ps('a'), () => ns.tasks.pause('a')])
      await assert.rejects(call(), failsAs('failed_precondition'));
    await ns.containers.delete('a');
    await assert.rejects(ns.tasks.exec('a', ['busybox', 'true']), failsAs('not_found', 125));
    assert.deepEqual(r.left(), []);
  });

  it('runs many at once, each with its own streams and status, and one for an identifier', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    const {ns, ref} = r;
    await ns.run(ref, 'a', {detach: true, args: SLEEP});
    const ends = await Promise.all(Array.from({length: 12}, (_, n) => outputOf(r, ['sh', '-c', `cat; exit ${n}`], {}, `input ${n}`)));
    assert.deepEqual(
      ends,
      ends.map((_, n) => ({stdout: `input ${n}`, stderr: '', exitStatus: n})),
    );
    const {pid, execId} = await ns.tasks.exec('a', ['busybox', 'sleep', '1000'], {detach: true, execId: 'one'});
    assert.equal(execId, 'one');
    assert.deepEqual(
      (await ns.tasks.ps('a')).find((one) => one.pid === pid),
      {pid, execId: 'one', command: ['busybox', 'sleep', '1000']},
    );
    await assert.rejects(ns.tasks.exec('a', ['busybox', 'true'], {execId: 'one'}), failsAs('already_exists', 125));
    await ns.tasks.kill('a', {execId: 'one', signal: 'KILL'});
    await until('it has ended', async () => !(await ns.tasks.ps('a')).some((one) => one.pid === pid));
    await assert.rejects(ns.tasks.kill('a', {execId: 'one'}), failsAs('not_found'));
    assert.deepEqual(await ns.tasks.exec('a', ['sh', '-c', 'exit 4'], {execId: 'one', stdio: ['ignore', 'ignore', 'ignore']}), {
      id: 'a',
      execId: 'one',
      exitStatus: 4,
    });
    // Aborted, and the container's end: neither leaves a process or a file.
    const abort = new AbortController();
    const child = await ns.tasks.exec('a', ['sh', '-c', 'echo up; sleep 1000'], {stdio: 'pipe', signal: abort.signal});
    child.stdout.once('data', () => abort.abort());
    await assert.rejects(child.ended, failsAs('canceled'));
    const last = await ns.tasks.exec('a', ['sh', '-c', 'echo up; sleep 1000'], {stdio: 'pipe'});
    const stopped = new Promise((done) => {
      last.stdout.once('data', () => done(ns.tasks.stop('a')));
    });
    assert.equal((await last.ended).exitStatus, 137);
    await stopped;
    await ns.containers.delete('a');
    assert.deepEqual(r.left(), []);
  });

  it('of many at once, of which every other one is aborted at some moment, leaves the rest as they are and nothing else', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    const {ns, ref} = r;
    const {pid} = await ns.run(ref, 'a', {detach: true, args: SLEEP});
    const {below} = randomOf(12, 50);
    let settled = 0;
    const one = async (n: number): Promise<unknown> => {
      const abort = new AbortController();
      const script = n % 2 === 1 ? 'sleep 1000' : `cat; exit ${n}`;
      const child = await ns.tasks.exec('a', ['sh', '-c', script], {stdio: 'pipe', execId: `e${n}`, signal: abort.signal});
      // Moments are counted in what the others have done, so that a slow machine sees them all, too.
      const moment = settled + below(4);
      const ended = Promise.allSettled([text(child.stdout), child.ended]);
      if (n % 2 === 1) {
        if (below(2) === 0) child.stdin.write('begun');
        while (settled < moment) await new Promise(setImmediate);
        abort.abort();
      } else child.stdin.end(`input ${n}`);
      const [out, end] = await ended;
      settled += 4;
      if (n % 2 === 0) return [out.status === 'fulfilled' && out.value, end.status === 'fulfilled' && end.value.exitStatus];
      return end.status === 'rejected' && hasCode(end.reason, 'canceled');
    };
    const all = await Promise.all(Array.from({length: MANY}, (_, n) => one(n)));
    assert.deepEqual(
      all,
      all.map((_, n) => (n % 2 === 1 ? true : [`input ${n}`, n])),
    );
    assert.deepEqual(execFiles(r), []);
    await until('only its own process is left', async () => (await ns.tasks.ps('a')).every((process) => process.pid === pid));
    assert.deepEqual((await ns.tasks.stop('a')).exitStatus, 0);
    await ns.containers.delete('a');
    assert.deepEqual(r.left(), []);
  });

  it('whose command is killed, of many at once, holds its identifier as long as its process lives, and no longer', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    const {ns, ref} = r;
    await ns.run(ref, 'a', {detach: true, args: SLEEP});
    const env = {...process.env, ...engineEnvironment('executable'), BERTH_ROOT: r.root, BERTH_STATE: r.state};
    const {below} = randomOf(13, 50);
    await Promise.all(
      Array.from({length: MANY}, async (_, n) => {
        const words = [
          '-n',
          r.namespace,
          'tasks',
          'exec',
          ...(n % 5 === 0 ? ['-d'] : []),
          '--exec-id',
          `e${n}`,
          'a',
          'busybox',
          'sleep',
          '1000',
        ];
        // Not with pipes, which the runtime of a killed command would hold.
        const child = spawn(join(import.meta.dirname, '../../../bin/ctr'), words, {env, stdio: 'ignore'});
        const ended = once(child, 'exit');
        const marks = [`exec.e${n}`, `exec.e${n}:process`, `exec.e${n}:log`, `exec.e${n}:pid`];
        const mark = marks[below(marks.length)]!;
        let over = false;
        void ended.then(() => {
          over = true;
        });
        while (!over && !execFiles(r).includes(mark)) await new Promise((done) => setTimeout(done, 5));
        child.kill('SIGKILL');
        await ended;
      }),
    );
    for (let n = 0; n < MANY; n += 1) {
      const execId = `e${n}`;
      // What the killed command had started goes on; it ends when it is told to, and the identifier is free.
      await until(`${execId} is free`, async () => {
        try {
          const {exitStatus} = await ns.tasks.exec('a', ['sh', '-c', 'exit 4'], {execId, stdio: ['ignore', 'ignore', 'ignore']});
          assert.equal(exitStatus, 4);
          return true;
        } catch (err) {
          failsAs('already_exists', 125)(err);
          await ns.tasks.kill('a', {execId, signal: 'KILL'}).catch(failsAs('not_found'));
          return false;
        }
      });
    }
    assert.deepEqual(execFiles(r), []);
    assert.equal((await ns.tasks.stop('a')).exitStatus, 0);
    await ns.containers.delete('a');
    await until(
      () => `nothing is left: ${r.left()}`,
      () => r.left().length === 0,
    );
  });

  /** A runtime that executes a script in place of `exec`. Of that, `$own` is the pid file, and `exec_with FILE "$@"` the real one with another. */
  function runtimeWith(t: Scope, script: string): string {
    const file = join(temporaryDirectory(t), 'runc');
    const runc = findProgram('runc')!;
    writeFileSync(
      file,
      `#!/bin/sh
case " $* " in *' exec '*) ;; *) exec ${runc} "$@";; esac
all="$*"; own=\${all##*--pid-file }; own=\${own%% *}
exec_with() { file=$1; shift; for word; do [ "$word" = "$own" ] && word=$file; line="$line '$word'"; done; eval "exec ${runc} $line"; }
${script}
`,
      {mode: 0o755},
    );
    return file;
  }

  it('that is aborted before its pid is known leaves no process', async (t) => {
    if (!requiresTasks(t)) return;
    const marks = temporaryDirectory(t);
    const runtime = runtimeWith(
      t,
      `(exec_with ${marks}/pid "$@") & until [ -s ${marks}/pid ]; do sleep 0.02; done
: >${marks}/runs; until [ -e ${marks}/go ]; do sleep 0.02; done; mv ${marks}/pid "$own"; wait`,
    );
    const {ns, ref} = await taskRig(t);
    await ns.run(ref, 'a', {detach: true, args: SLEEP, runtime});
    const abort = new AbortController();
    const {ended} = await ns.tasks.exec('a', ['busybox', 'sleep', '1000'], {stdio: 'pipe', signal: abort.signal});
    await until('it runs', () => existsSync(join(marks, 'runs')));
    const pid = Number(readFileSync(join(marks, 'pid'), 'latin1'));
    abort.abort();
    await new Promise(setImmediate);
    writeFileSync(join(marks, 'go'), '');
    await assert.rejects(ended, failsAs('canceled'));
    await until('its process has ended', () => !existsSync(`/proc/${pid}`));
  });

  it('asks for the state when the runtime fails, and does not read its words', async (t) => {
    if (!requiresTasks(t)) return;
    const runc = findProgram('runc')!;
    const failing = runtimeWith(t, `echo '{"level":"error","msg":"it is not running, stopped or paused"}' >"\${own%:pid}:log"; exit 1`);
    const pausing = runtimeWith(t, `root=$2; for id; do :; done; ${runc} --root "$root" pause $id; exit 1`);
    const {ns, ref} = await taskRig(t);
    for (const [runtime, code] of [
      [failing, 'unknown'],
      [pausing, 'failed_precondition'],
    ] as const) {
      await ns.run(ref, 'a', {detach: true, args: SLEEP, runtime});
      await assert.rejects(ns.tasks.exec('a', ['busybox', 'true'], {stdio: ['ignore', 'ignore', 'ignore']}), failsAs(code, 125));
      await ns.tasks.delete('a', {force: true});
      await ns.containers.delete('a');
    }
  });

  it('is told as containerd tells it', async (t) => {
    if (!requiresTasks(t)) return;
    const {client, ns, ref} = await taskRig(t);
    await ns.run(ref, 'a', {detach: true, args: SLEEP});
    const stdio = ['ignore', 'ignore', 'ignore'] as const;
    await ns.tasks.exec('a', ['sh', '-c', 'exit 3'], {execId: 'one', stdio});
    const two = await ns.tasks.exec('a', ['busybox', 'cat'], {execId: 'two', stdio: 'pipe'});
    two.stdin.end();
    await two.ended;
    const {pid} = await ns.tasks.exec('a', ['busybox', 'true'], {execId: 'three', detach: true});
    await assert.rejects(ns.tasks.exec('a', ['none'], {execId: 'four', stdio}));
    const abort = new AbortController();
    const five = await ns.tasks.exec('a', ['sh', '-c', 'echo up; sleep 1000'], {execId: 'five', stdio: 'pipe', signal: abort.signal});
    five.stdout.once('data', () => abort.abort());
    await assert.rejects(five.ended, failsAs('canceled'));
    const told: unknown[] = [];
    for await (const {topic, event} of await client.events({filters: ['topic~=^/tasks/ex']}))
      told.push([topic, event.container_id, event.exec_id ?? event.id, event.exit_status ?? typeof event.pid]);
    assert.deepEqual(told, [
      ['/tasks/exec-added', 'a', 'one', 'undefined'],
      ['/tasks/exec-started', 'a', 'one', 'number'],
      ['/tasks/exit', 'a', 'one', 3],
      ['/tasks/exec-added', 'a', 'two', 'undefined'],
      ['/tasks/exec-started', 'a', 'two', 'number'],
      ['/tasks/exit', 'a', 'two', 0],
      ['/tasks/exec-added', 'a', 'three', 'undefined'],
      ['/tasks/exec-started', 'a', 'three', 'number'],
      ['/tasks/exec-added', 'a', 'five', 'undefined'],
      ['/tasks/exec-started', 'a', 'five', 'number'],
      ['/tasks/exit', 'a', 'five', 137],
    ]);
    assert.equal(typeof pid, 'number');
  });

  it('gets a signal that is sent before it has started', async (t) => {
    if (!requiresTasks(t)) return;
    const {ns, ref} = await taskRig(t);
    await ns.run(ref, 'a', {detach: true, args: SLEEP});
    for (let n = 0; n < 3; n += 1) {
      const {execId, ended} = await ns.tasks.exec('a', SLEEP, {stdio: 'pipe'});
      await ns.tasks.kill('a', {execId, signal: 'KILL'});
      assert.equal((await ended).exitStatus, 137);
    }
    await assert.rejects(ns.tasks.kill('a', {execId: 'none'}), failsAs('not_found'));
  });

  it('gives nothing of the host away (CVE-2019-5736, CVE-2024-21626, CVE-2016-9962)', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    const {ns, ref} = r;
    await ns.run(ref, 'a', {detach: true, args: SLEEP});
    // A descriptor of the caller's that any program would inherit.
    const secret = join(temporaryDirectory(t), 'secret');
    writeFileSync(secret, 'secret');
    const fd = openSync(secret, 'r');
    try {
      const {stdout} = await outputOf(r, ['sh', '-c', 'for f in /proc/self/fd/*; do readlink $f; done']);
      assert.ok(!stdout.includes(secret), stdout);
      // Descriptors beyond the standard streams: only the shell's own directory of them.
      const others = stdout.split('\n').filter((line) => line !== '' && !/^(pipe|\/dev\/null|\/proc\/\d+\/fd$)/.test(line));
      assert.deepEqual(others, []);
    } finally {
      closeSync(fd);
    }
    const runc = findProgram('runc')!;
    const hash = (): string => createHash('sha256').update(readFileSync(runc)).digest('hex');
    const before = hash();
    await outputOf(r, ['sh', '-c', 'printf "#!/proc/self/exe\\n" >/tmp/evil; chmod +x /tmp/evil']);
    const script = 'while :; do for p in /proc/[0-9]*; do (echo x >$p/exe) 2>/dev/null; done; done';
    const writer = await ns.tasks.exec('a', ['sh', '-c', script], {stdio: 'pipe'});
    for (let n = 0; n < 3; n += 1) await outputOf(r, ['/tmp/evil']).catch(() => undefined);
    await ns.tasks.kill('a', {execId: writer.execId, signal: 'KILL'});
    await writer.ended;
    assert.equal(hash(), before);
  });
});

describe('ps', () => {
  it('lists what the kernel has in the cgroup', async (t) => {
    if (!requiresTasks(t)) return;
    const {ns, ref} = await taskRig(t);
    const {pid} = await ns.run(ref, 'a', {detach: true, args: ['sh', '-c', 'sleep 1000 & sleep 1000 & wait']});
    await until('all run', async () => (await ns.tasks.ps('a')).length === 3);
    const children = execFileSync('ps', ['-o', 'pid=', '--ppid', String(pid)], {encoding: 'utf8'})
      .trim()
      .split(/\s+/)
      .map(Number);
    assert.deepEqual(
      (await ns.tasks.ps('a')).map((one) => one.pid),
      [pid!, ...children].sort((a, b) => a - b),
    );
  });
});
