/**
 * What a refused command says to type next, over states of a container and commands: typed as it stands, it succeeds; and what it changes
 * ends the refusal, or makes another one of it.
 */
import assert from 'node:assert/strict';
import {type ChildProcess, spawn} from 'node:child_process';
import {once} from 'node:events';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import type {ErrorJSON} from '../../src/lib/errdefs.ts';
import {engineEnvironment, environment, type Result, root as repository, run} from '../cli/harness.ts';
import {assertNamed, commandsIn, runHint} from '../cli/hints.ts';
import {SAMPLE, type Scope, TORTURE, temporaryDirectory} from '../support/helpers.ts';
import {sample, tryAll} from '../support/sample-cases.ts';
import {requiresTasks, type TaskRig, taskRig, until} from '../support/tasks.ts';

/** Goes on until it is asked to end, as its image wants it. */
const LASTING = ['sh', '-c', 'trap "exit 0" USR1; echo ready; while :; do sleep 0.1; done'] as const;

/** A store, its commands, and an image. */
interface Place {
  readonly rig: TaskRig;
  readonly ref: string;
  readonly env: Readonly<Record<string, string>>;
  call(...words: readonly string[]): Promise<Result>;
  ok(...words: readonly string[]): Promise<void>;
}

const detached = ({ok, ref}: Place, id: string, ...words: readonly string[]): Promise<void> =>
  ok('run', '-d', ...words, ref, id, ...LASTING);

async function foreground(scope: Scope, {rig, env, ref}: Place, id: string, ...words: readonly string[]): Promise<ChildProcess> {
  const child = spawn(join(repository, 'bin/ctr'), ['run', ...words, ref, id, ...LASTING], {env, stdio: ['ignore', 'pipe', 'ignore']});
  const ended = once(child, 'exit');
  scope.after(async () => {
    child.kill('SIGKILL');
    await ended;
    await rig.ns.tasks.delete(id, {force: true}).catch(() => undefined);
  });
  await once(child.stdout!, 'data');
  child.stdout!.resume();
  return child;
}

async function kill(child: ChildProcess): Promise<void> {
  const ended = once(child, 'exit');
  child.kill('SIGKILL');
  await ended;
}

/** Makes a container of an ID; `…-user` is another one that has something of it. */
const STATES: Readonly<Record<string, (place: Place, id: string, scope: Scope) => Promise<unknown>>> = {
  absent: async () => {},
  made: ({ok, ref}, id) => ok('containers', 'create', ref, id, ...LASTING),
  running: (place, id) => detached(place, id),
  'running, with --rm': (place, id) => detached(place, id, '--rm'),
  paused: async (place, id) => {
    await detached(place, id);
    await place.ok('tasks', 'pause', id);
  },
  stopped: async (place, id) => {
    await detached(place, id);
    await place.ok('tasks', 'kill', '--signal', 'KILL', id);
    await place.ok('tasks', 'wait', id);
  },
  'in the foreground': (place, id, scope) => foreground(scope, place, id),
  'in the foreground, with --rm': (place, id, scope) => foreground(scope, place, id, '--rm'),
  orphaned: async (place, id, scope) => kill(await foreground(scope, place, id)),
  'orphaned, with --rm': async (place, id, scope) => kill(await foreground(scope, place, id, '--rm')),
  'dead, with --rm': async (place, id, scope) => {
    const child = await foreground(scope, place, id, '--rm');
    const {pid} = await place.rig.ns.tasks.get(id);
    await kill(child);
    process.kill(pid, 'SIGKILL');
    const hasEnded = (): Promise<boolean> =>
      place.rig.ns.tasks.get(id).then(
        ({status}) => status === 'stopped',
        () => true,
      );
    await until('its end', hasEnded);
  },
  'with a volume': async (place, id) => {
    await detached(place, `${id}-user`, '-v', `${id}:/v`);
    await detached(place, id, '-v', `${id}:/v`);
  },
  'with a volume that only a stopped one uses': async (place, id) => {
    await place.ok('containers', 'create', '-v', `${id}:/v`, place.ref, id, ...LASTING);
  },
  'whose volumes another one has': async (place, id) => {
    await detached(place, id, '-v', '/v');
    await detached(place, `${id}-user`, '--volumes-from', id);
  },
  'removed, but its volumes': async (place, id) => {
    await place.ok('containers', 'create', '-v', '/v', place.ref, id, ...LASTING);
    await detached(place, `${id}-user`, '--volumes-from', id);
    await place.ok('containers', 'rm', id);
  },
  'whose network another one has': async (place, id) => {
    await detached(place, id);
    await detached(place, `${id}-user`, '--network', `container:${id}`);
  },
};

const COMMANDS: readonly ((id: string, ref: string, directory: string) => string)[] = [
  (id) => `tasks start --detach ${id}`,
  (id) => `containers start ${id}`,
  (id) => `containers restart -t 1s ${id}`,
  (id) => `tasks stop -t 1s ${id}`,
  (id) => `tasks kill ${id}`,
  (id) => `tasks kill --all --signal KILL ${id}`,
  (id) => `tasks kill --exec-id e1 ${id}`,
  (id) => `tasks rm ${id}`,
  (id) => `tasks pause ${id}`,
  (id) => `tasks resume ${id}`,
  (id) => `tasks ps ${id}`,
  (id) => `tasks exec ${id} sh -c :`,
  (id) => `tasks exec --detach ${id} sh -c :`,
  (id) => `tasks logs ${id}`,
  (id) => `tasks metrics ${id}`,
  (id) => `tasks stats --no-stream ${id}`,
  (id) => `containers rm ${id}`,
  (id) => `containers info ${id}`,
  (id) => `containers label ${id} a=b`,
  (id) => `containers update --memory 50m ${id}`,
  (id) => `containers checkpoint --remove ${id}`,
  (id) => `containers restore ${id}`,
  (id) => `containers systemd ${id}`,
  (id, _, directory) => `containers cp ${id}:/bin/sh ${directory}`,
  (id, _, directory) => `containers cp ${id}:/proc/version ${directory}`,
  (id, ref) => `containers create ${ref} ${id}`,
  (id, ref) => `run --rm ${ref} ${id} sh -c :`,
  (id, ref) => `run --detach ${ref} ${id} sh -c :`,
  (id, ref) => `run --rm --network container:${id} ${ref} ${id}-new sh -c :`,
  (id, ref) => `run --rm --volumes-from ${id} ${ref} ${id}-new sh -c :`,
  (id) => `commit --progress none ${id} localhost/made:${id}`,
  (id) => `diff ${id}`,
  (id) => `snapshots rm ${id}`,
  (id) => `snapshots commit ${id}-done ${id}`,
  (id) => `snapshots diff ${id}`,
  (id) => `volumes rm ${id}`,
  (id) => `volumes inspect ${id}`,
];

/** What only shows something leaves the refusal as it is. */
const isAdvice = (command: string): boolean => / (?:ls|logs|ps|info|inspect)\b|--help$/.test(command);

/** Of a command that a refusal names: none of them waits for a container that goes on. */
const LIMIT_MS = 8000;

describe('the command that a refusal names', () => {
  it('succeeds, and changes the refusal', async (t) => {
    if (!requiresTasks(t)) return;
    const rig = await taskRig(t);
    const env = {
      ...environment(),
      ...engineEnvironment('executable'),
      BERTH_ROOT: rig.root,
      BERTH_STATE: rig.state,
      CONTAINERD_NAMESPACE: rig.namespace,
    };
    const call = (...words: readonly string[]): Promise<Result> =>
      run(join(repository, 'bin/ctr'), words, {env, timeoutMs: TORTURE ? 60_000 : 30_000});
    const ok = async (...words: readonly string[]): Promise<void> => {
      const {status, stderr} = await call(...words);
      assert.equal(status, 0, `ctr ${words.join(' ')}: ${stderr}`);
    };
    const place: Place = {rig, ref: rig.ref, env, call, ok};
    const cases = Object.keys(STATES).flatMap((state) => COMMANDS.map((command) => ({state, command})));
    let named = 0;
    const failures = await tryAll(
      TORTURE ? cases : sample(cases, 20, SAMPLE),
      ({state, command}) => `${state}: ctr ${command('ID', 'IMAGE', 'DIRECTORY')}`,
      async (scope, {state, command}, index) => {
        const id = `c${index}`;
        scope.after(async () => {
          for (const name of [id, `${id}-user`, `${id}-new`]) await rig.ns.containers.delete(name, {force: true}).catch(() => undefined);
        });
        await STATES[state]!(place, id, scope);
        const words = command(id, rig.ref, temporaryDirectory(scope)).split(' ');
        const refusal = await call('--json', ...words);
        if (refusal.status === 0) return;
        const {error} = JSON.parse(refusal.stderr.trim().split('\n').at(-1)!) as {error: ErrorJSON};
        const text = error.hint ?? '';
        assertNamed('ctr', text);
        for (const hint of commandsIn(text)) {
          named++;
          if (/ exec -t /.test(hint)) continue; // it needs a terminal
          const begun = performance.now();
          const typed = await runHint(hint, env);
          assert.equal(typed.status, 0, `${error.message}; ${text}: ${typed.stderr}`);
          assert.ok(TORTURE || performance.now() - begun < LIMIT_MS, `${hint} took ${Math.round(performance.now() - begun)} ms`);
          if (isAdvice(hint)) continue;
          const isOther = ({status, stderr}: Result): boolean => status === 0 || stderr !== refusal.stderr;
          let again = await call('--json', ...words);
          // A command in the foreground removes what --rm promised a moment after the task has ended.
          for (let tries = 0; tries < 50 && state === 'in the foreground, with --rm' && !isOther(again); tries++)
            again = await call('--json', ...words);
          assert.ok(isOther(again), `${hint} has changed nothing: ${again.stderr}`);
        }
      },
    );
    assert.deepEqual(failures, []);
    assert.ok(named > 5, `${named} hints`);
  });
});
