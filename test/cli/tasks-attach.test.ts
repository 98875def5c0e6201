/** `tasks attach` on a terminal and without one, on both engines. */
import assert from 'node:assert/strict';
import {spawn} from 'node:child_process';
import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {it} from 'node:test';
import {requiresProgram, type Skippable, temporaryDirectory} from '../support/helpers.ts';
import {requiresTasks, type TaskRig, taskRig, until} from '../support/tasks.ts';
import {type Engine, engineEnvironment, forEachEngine, root, run} from './harness.ts';
import {onTerminal} from './terminal.ts';

const ctr = join(root, 'bin/ctr');

/** Executes each line that it reads. A signal with a trap ends busybox's `read`, not this. */
const SHELL = ['sh', '-c', 'echo up; while :; do read -r line; eval "$line"; done'];

const requires = (t: Skippable): boolean => requiresTasks(t) && requiresProgram(t, 'script', 'stty', 'perl');

const environmentOf = ({root: store, state, namespace}: TaskRig, engine: Engine) => ({
  ...engineEnvironment(engine),
  BERTH_ROOT: store,
  BERTH_STATE: state,
  CONTAINERD_NAMESPACE: namespace,
});

async function upAndRunning(r: TaskRig, options: object): Promise<void> {
  await r.ns.run(r.ref, 'a', {detach: true, args: SHELL, ...options});
  await until('it is up', async () => (await (await r.ns.tasks.logs('a'))[Symbol.asyncIterator]().next()).done !== true);
}

const childrenOf = (pid: number): readonly number[] =>
  readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').filter(Boolean).map(Number);

/** The process of berth and its relay, below a shell. */
function attachedBelow(pid: number): {berth: number; relay: number} | undefined {
  for (const child of childrenOf(pid)) {
    const words = readFileSync(`/proc/${child}/cmdline`, 'utf8');
    const relay = childrenOf(child).find((one) => readFileSync(`/proc/${one}/cmdline`, 'utf8').includes('perl'));
    if (relay !== undefined && words.includes('attach')) return {berth: child, relay};
    const deeper = attachedBelow(child);
    if (deeper !== undefined) return deeper;
  }
  return undefined;
}

forEachEngine('tasks attach', (engine) => {
  /** A shell on a terminal that attaches, tells the status, and compares the settings of the terminal before and after. */
  const attachOnTerminal = (r: TaskRig, ...flags: readonly string[]) =>
    onTerminal(
      'sh',
      [
        '-c',
        `before=$(stty -g); ${ctr} tasks attach ${flags.join(' ')} a; echo "status $?"; [ "$(stty -g)" = "$before" ] && echo unchanged; :`,
      ],
      {env: environmentOf(r, engine), rows: 24, columns: 80},
    );

  it('gives a terminal the size of the caller’s, follows it, and detaches by keys, again and again', async (t) => {
    if (!requires(t)) return;
    const r = await taskRig(t);
    await upAndRunning(r, {tty: true});
    const first = attachOnTerminal(r);
    first.type('until [ "$(busybox stty size)" = "24 80" ]; do sleep 0.02; done; echo size $((20+4))\n');
    await first.expect(/^size 24$/);
    // Ctrl-C is the container's, and so is what only begins like the keys.
    first.type("trap 'echo interrupted' INT; echo trapped\n");
    await first.expect(/^trapped$/);
    first.type('\x03');
    await first.expect(/interrupted/);
    first.type('\x10\n');
    first.type('\x10\x11');
    await first.expect(/status 0$/);
    await first.expect(/^unchanged$/);
    await first.ended;
    assert.equal((await r.ns.tasks.get('a')).status, 'running');
    const second = attachOnTerminal(r, '--detach-keys', "'ctrl-x,q'");
    second.type('echo a$((1+1))\n');
    await second.expect(/^a2$/);
    second.type('\x10\x11\n\x18q');
    await second.expect(/status 0$/);
    await second.ended;
    const third = attachOnTerminal(r, "--detach-keys=''");
    third.type('exit 6\n');
    await third.expect(/status 6$/);
    await third.expect(/^unchanged$/);
    await third.ended;
  });

  it('follows a change of size', async (t) => {
    if (!requires(t)) return;
    const r = await taskRig(t);
    await upAndRunning(r, {tty: true});
    const shell = spawn('script', ['--quiet', '--return', '--command', `stty rows 24 cols 80; ${ctr} tasks attach a`, '/dev/null'], {
      env: {...process.env, ...environmentOf(r, engine), SHELL: '/bin/sh'},
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    let output = '';
    shell.stdout.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
    const ended = new Promise((done) => shell.once('close', done));
    let pids: {berth: number; relay: number} | undefined;
    await until('it is attached', () => {
      pids = attachedBelow(shell.pid!);
      return pids !== undefined;
    });
    shell.stdin.write('until [ "$(busybox stty size)" = "24 80" ]; do sleep 0.02; done; echo first $((1+1))\n');
    await until('its size is known', () => output.includes('first 2'));
    shell.stdin.write('until [ "$(busybox stty size)" = "50 120" ]; do sleep 0.02; done; echo second $((1+2)); exit 3\n');
    spawn('stty', ['-F', `/proc/${pids!.berth}/fd/0`, 'rows', '50', 'cols', '120']);
    assert.equal(await ended, 3);
    assert.match(output, /second 3/);
  });

  for (const victim of ['berth', 'relay'] as const)
    it(`gives the terminal back when the ${victim} is killed, and the task goes on`, async (t) => {
      if (!requires(t)) return;
      const r = await taskRig(t);
      await upAndRunning(r, {tty: true});
      const before = join(temporaryDirectory(t), 'shell');
      const terminal = onTerminal(
        'sh',
        [
          '-c',
          `echo $$ >${before}; b=$(stty -g); ${ctr} tasks attach a; echo "status $?"; until [ "$(stty -g)" = "$b" ]; do sleep 0.05; done; echo unchanged`,
        ],
        {env: environmentOf(r, engine)},
      );
      let pids: {berth: number; relay: number} | undefined;
      await until('it is attached', () => {
        try {
          pids = attachedBelow(Number(readFileSync(before, 'utf8')));
        } catch {
          // It is not there yet.
        }
        return pids !== undefined;
      });
      terminal.type('echo a$((1+1))\n');
      await terminal.expect(/^a2$/);
      process.kill(pids![victim], 'SIGKILL');
      await terminal.expect(victim === 'berth' ? /status 137/ : /status 125/);
      await terminal.expect(/^ *unchanged/);
      await terminal.ended;
      const {status} = await run('sh', ['-c', `echo 'exit 4' | ${ctr} tasks attach a`], {env: environmentOf(r, engine)});
      assert.equal(status, 4);
    });

  it('without a terminal passes signals on, or with --sig-proxy=false ends by them', async (t) => {
    if (!requires(t)) return;
    const r = await taskRig(t);
    await upAndRunning(r, {stdin: true});
    const attached = (...flags: readonly string[]) => {
      const child = spawn(ctr, ['tasks', 'attach', ...flags, 'a'], {
        env: {...process.env, ...environmentOf(r, engine)},
        stdio: ['pipe', 'pipe', 'pipe'],
      });
      let output = '';
      for (const stream of [child.stdout, child.stderr])
        stream.setEncoding('utf8').on('data', (text: string) => {
          output += text;
        });
      const ended = new Promise<unknown>((done) => child.once('close', (code, signal) => done(code ?? signal)));
      return {child, ended, output: () => output};
    };
    const first = attached('--sig-proxy=false');
    first.child.stdin.write('trap "echo caught; exit 8" TERM; echo out; echo err >&2\n');
    await until('both streams are there', () => /out\n/.test(first.output()) && /err\n/.test(first.output()));
    first.child.kill('SIGTERM');
    assert.equal(await first.ended, 143);
    assert.equal((await r.ns.tasks.get('a')).status, 'running');
    const second = attached();
    second.child.stdin.write('echo here\n');
    await until('it is attached', () => second.output().includes('here'));
    second.child.kill('SIGTERM');
    second.child.stdin.write('\n');
    assert.equal(await second.ended, 8);
    assert.match(second.output(), /caught/);
  });

  it('ends when its reader has gone, as by SIGPIPE, and the task goes on', async (t) => {
    if (!requires(t)) return;
    const r = await taskRig(t);
    await upAndRunning(r, {stdin: true});
    const child = spawn(ctr, ['tasks', 'attach', 'a'], {
      env: {...process.env, ...environmentOf(r, engine)},
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    const ended = new Promise((done) => child.once('exit', done));
    child.stdin.on('error', () => undefined);
    child.stdin.write('while sleep 0.02; do echo y; done\n');
    await new Promise((done) => child.stdout.once('data', done));
    child.stdout.destroy();
    assert.equal(await ended, 141);
    assert.equal((await r.ns.tasks.get('a')).status, 'running');
  });

  it('prints a result only with --json, and says what it cannot do', async (t) => {
    if (!requires(t)) return;
    const r = await taskRig(t);
    await upAndRunning(r, {stdin: true});
    const env = environmentOf(r, engine);
    const wrong = await run(ctr, ['tasks', 'attach', '--detach-keys', 'ctrl-', 'a'], {env});
    assert.deepEqual([wrong.status, wrong.stdout], [125, '']);
    const none = await run(ctr, ['tasks', 'attach', 'b'], {env});
    assert.equal(none.status, 125);
    const hidden = `for p in /usr/bin/perl /bin/perl /usr/local/bin/perl; do [ -e $p ] && mount --bind /dev/null $p; done; exec ${ctr} tasks attach --json a`;
    const without = await run('unshare', ['--mount', 'sh', '-c', hidden], {env});
    assert.deepEqual(
      [without.status, JSON.parse(without.stderr).error.kind, JSON.parse(without.stderr).error.details],
      [125, 'failed_precondition', {runExit: 125, program: 'perl', package: 'perl-base'}],
    );
    const {status, stdout, stderr} = await run(ctr, ['tasks', 'attach', '--json', 'a'], {env, input: 'exit 5\n'});
    assert.deepEqual([status, stdout, JSON.parse(stderr)], [5, '', {result: {id: 'a', exitStatus: 5, detached: false}}]);
  });
});
