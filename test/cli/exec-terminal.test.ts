/** `tasks exec -t`: a terminal of its own, on both engines. */
import assert from 'node:assert/strict';
import {spawn} from 'node:child_process';
import {readFileSync} from 'node:fs';
import {it} from 'node:test';
import {requiresProgram, type Skippable, TORTURE} from '../support/helpers.ts';
import {requiresTasks, type TaskRig, taskRig, until} from '../support/tasks.ts';
import {type Engine, engineEnvironment, forEachEngine, run} from './harness.ts';
import {onTerminal, type Terminal} from './terminal.ts';

const requires = (t: Skippable): boolean => requiresTasks(t) && requiresProgram(t, 'script', 'stty');
const HOLD = ['sh', '-c', 'trap "exit 0" TERM USR1; while :; do sleep 0.05; done'];

const environmentOf = ({root, state, namespace}: TaskRig, engine: Engine) => ({
  ...engineEnvironment(engine),
  BERTH_ROOT: root,
  BERTH_STATE: state,
  CONTAINERD_NAMESPACE: namespace,
});

const parentOf = (pid: number): number => Number(/^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]);

forEachEngine('tasks exec -t', (engine) => {
  const start = async (t: Parameters<typeof taskRig>[0]): Promise<TaskRig> => {
    const r = await taskRig(t);
    await r.ns.run(r.ref, 'a', {detach: true, args: HOLD});
    return r;
  };
  /** A shell on a terminal that executes in the container, tells the status, and compares the settings of the terminal before and after. */
  const execOnTerminal = (r: TaskRig, script: string): Terminal =>
    onTerminal(
      'sh',
      [
        '-c',
        'b=$(stty -g); bin/ctr tasks exec -t --exec-id one a sh -c "$1"; echo "status $?"; until [ "$(stty -g)" = "$b" ]; do sleep 0.05; done; echo unchanged',
        'sh',
        script,
      ],
      {env: environmentOf(r, engine), rows: 24, columns: 80},
    );

  it('has the size of the caller’s from the first moment, follows it, and passes on what is typed', async (t) => {
    if (!requires(t)) return;
    const r = await start(t);
    for (let n = 0; n < (TORTURE ? 20 : 3); n += 1) {
      const asking = execOnTerminal(r, 'busybox stty size; busybox tty -s && echo "$TERM"; exit 5');
      await asking.expect(/^status 5$/);
      assert.deepEqual(asking.screen.rows.slice(0, 3), ['24 80', 'xterm', 'status 5']);
      await asking.expect(/^unchanged$/);
      await asking.ended;
    }
    const shell = execOnTerminal(r, 'trap "echo interrupted" INT; echo up; while :; do read -r line; eval "$line"; done');
    await shell.expect(/^up$/);
    shell.type('\x03');
    await shell.expect(/interrupted/);
    const {pid} = (await r.ns.tasks.ps('a')).find(({execId}) => execId === 'one')!;
    const caller = parentOf(parentOf(pid));
    spawn('stty', ['-F', `/proc/${caller}/fd/0`, 'rows', '50', 'cols', '120']);
    shell.type('until [ "$(busybox stty size)" = "50 120" ]; do sleep 0.02; done; echo resized; exit 3\n');
    await shell.expect(/^resized$/);
    await shell.expect(/^status 3$/);
    await shell.expect(/^unchanged$/);
    await shell.ended;
  });

  for (const victim of engine === 'executable' || TORTURE ? (['process', 'runtime', 'command'] as const) : [])
    it(`gives the terminal back when the ${victim} is killed`, async (t) => {
      if (!requires(t)) return;
      const r = await start(t);
      const terminal = execOnTerminal(r, 'echo up; sleep 1000');
      await terminal.expect(/^up$/);
      let pid = 0;
      await until('its pid is known', async () => {
        pid = (await r.ns.tasks.ps('a')).find(({execId}) => execId === 'one')?.pid ?? 0;
        return pid > 0;
      });
      const runtime = parentOf(pid);
      process.kill({process: pid, runtime, command: parentOf(runtime)}[victim], 'SIGKILL');
      await terminal.expect(victim === 'runtime' ? /status 125$/ : /status 137$/);
      if (victim !== 'command') await terminal.expect(/^ *unchanged$/);
      assert.equal((await r.ns.tasks.get('a')).status, 'running');
      // The identifier can be used again once the process has ended, however that came.
      await r.ns.tasks.kill('a', {execId: 'one', signal: 'KILL'}).catch(() => undefined);
      await until('it is free', async () => {
        const {status, stderr} = await run('bin/ctr', ['tasks', 'exec', '--exec-id', 'one', 'a', 'sh', '-c', 'exit 6'], {
          env: environmentOf(r, engine),
        });
        assert.ok(status === 6 || /already exists/.test(stderr), stderr);
        return status === 6;
      });
      await terminal.expect(/unchanged$/);
      await terminal.ended;
    });

  it('is refused without a terminal, and with --detach', async (t) => {
    if (!requires(t)) return;
    const r = await start(t);
    for (const [flags, message] of [
      [['-t'], /--tty needs a terminal/],
      [['-t', '-d'], /has no terminal/],
    ] as const) {
      const {status, stderr} = await run('bin/ctr', ['tasks', 'exec', ...flags, 'a', 'sh'], {env: environmentOf(r, engine)});
      assert.equal(status, 125);
      assert.match(stderr, message);
    }
  });
});
