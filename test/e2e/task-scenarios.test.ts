/** The life of containers, step by step, by berth's `ctr` and by containerd's own: the same words do the same. */
import assert from 'node:assert/strict';
import {spawnSync} from 'node:child_process';
import {rmdirSync} from 'node:fs';
import {join} from 'node:path';
import {it} from 'node:test';
import {engineEnvironment, root as repository} from '../cli/harness.ts';
import {findProgram, onEnd, requiresProgram, temporaryDirectory} from '../support/helpers.ts';
import {cgroupsOf, requiresTasks, until} from '../support/tasks.ts';
import {startContainerd} from './containerd.ts';
import {publishedImages} from './fixtures.ts';

const published = publishedImages();

/** What a command did: its status, or that it failed, which every tool says by a status of its own. */
type Result = number | 'failed';

interface Tool {
  run(...words: readonly string[]): {readonly status: number; readonly stdout: string};
}

interface Step {
  readonly words: readonly string[];
  readonly does: Result;
  /** With their status, afterwards. */
  readonly tasks: Readonly<Record<string, string>>;
  readonly containers: readonly string[];
}

const step = (
  line: string,
  does: Result,
  tasks: Readonly<Record<string, string>> = {},
  containers: readonly string[] = Object.keys(tasks),
): Step => ({words: line.split(' '), does, tasks, containers});

// REF stands for the image. A word with a blank is written with _.
const STEPS: readonly Step[] = [
  step('run REF a sh -c exit_7', 7, {}, ['a']),
  step('run REF a true', 'failed', {}, ['a']),
  step('containers rm a', 0),
  step('containers rm a', 'failed'),
  step('run --rm REF a sh -c exit_3', 3),
  // The first process of a PID namespace is not killed from inside.
  step('run --rm REF a sh -c kill_-9_$$', 0),
  step('tasks start a', 'failed'),
  step('containers create REF a sh -c exit_4', 0, {}, ['a']),
  step('containers create REF a true', 'failed', {}, ['a']),
  step('tasks exec --exec-id e a true', 'failed', {}, ['a']),
  step('tasks kill a', 'failed', {}, ['a']),
  step('tasks start a', 4, {}, ['a']),
  step('containers rm a', 0),
  step('run -d REF a sleep 1000', 0, {a: 'RUNNING'}),
  step('run -d REF a sleep 1000', 'failed', {a: 'RUNNING'}),
  step('tasks start a', 'failed', {a: 'RUNNING'}),
  step('containers rm a', 'failed', {a: 'RUNNING'}),
  step('tasks rm a', 'failed', {a: 'RUNNING'}),
  step('tasks exec --exec-id e a sh -c exit_9', 9, {a: 'RUNNING'}),
  step('tasks exec --exec-id e a sh -c kill_-9_$$', 137, {a: 'RUNNING'}),
  step('tasks exec --exec-id e a /none', 'failed', {a: 'RUNNING'}),
  step('tasks exec --exec-id f none true', 'failed', {a: 'RUNNING'}),
  step('tasks pause a', 0, {a: 'PAUSED'}),
  step('containers rm a', 'failed', {a: 'PAUSED'}),
  step('tasks resume a', 0, {a: 'RUNNING'}),
  step('run -d REF b sleep 1000', 0, {a: 'RUNNING', b: 'RUNNING'}),
  step('tasks kill -s KILL a', 0, {a: 'STOPPED', b: 'RUNNING'}),
  step('tasks kill a', 'failed', {a: 'STOPPED', b: 'RUNNING'}),
  step('tasks exec --exec-id e a true', 'failed', {a: 'STOPPED', b: 'RUNNING'}),
  step('tasks start a', 'failed', {a: 'STOPPED', b: 'RUNNING'}),
  step('tasks rm a', 0, {b: 'RUNNING'}, ['a', 'b']),
  step('tasks start -d a', 0, {a: 'RUNNING', b: 'RUNNING'}),
  step('tasks rm --force a', 0, {b: 'RUNNING'}, ['a', 'b']),
  step('containers rm a', 0, {b: 'RUNNING'}),
  step('tasks kill --all -s KILL b', 0, {b: 'STOPPED'}),
  // The task of one that has ended goes with its container.
  step('containers rm b', 0),
];

it('a container lives as it does under containerd, whatever is done to it', async (t) => {
  if (!requiresTasks(t) || !requiresProgram(t, 'containerd', 'ctr')) return;
  const busybox = await published(t, 'busybox');
  if (busybox === undefined || findProgram('ctr') === undefined) return;
  const {ref} = busybox;
  const namespace = `scenarios-${process.pid}`;
  const tool = (program: string, first: readonly string[], env: NodeJS.ProcessEnv): Tool => ({
    run: (...words) => {
      const {status, stdout} = spawnSync(program, [...first, '-n', namespace, ...words], {
        env,
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'pipe'],
        timeout: 60_000,
      });
      assert.ok(status !== null, `${program} ${words.join(' ')} has not ended`);
      return {status, stdout};
    },
  });
  onEnd(t, () => {
    for (const path of cgroupsOf(namespace)) rmdirSync(path);
  });
  const containerd = await startContainerd(t);
  const {PATH} = process.env;
  const env = {...engineEnvironment('executable'), PATH, BERTH_ROOT: temporaryDirectory(t), BERTH_STATE: temporaryDirectory(t)};
  const tools: Readonly<Record<string, Tool>> = {
    containerd: tool(findProgram('ctr')!, ['--address', containerd.socket], {PATH}),
    berth: tool(join(repository, 'bin/ctr'), [], env),
  };
  for (const [name, {run}] of Object.entries(tools)) {
    onEnd(t, () => {
      for (const id of ['a', 'b']) {
        run('tasks', 'rm', '--force', id);
        run('containers', 'rm', id);
      }
    });
    assert.equal(run('images', 'pull', '--plain-http', ref).status, 0, name);
    for (const [number, {words, does, tasks, containers}] of STEPS.entries()) {
      const what = `${name}, step ${number + 1}: ${words.join(' ')}`;
      const argv = words.map((word) => (word === 'REF' ? ref : word.replaceAll('_', ' ')));
      const {status} = run(...argv);
      if (does === 'failed') assert.notEqual(status, 0, what);
      else assert.equal(status, does, what);
      const seen = (): unknown =>
        Object.fromEntries(
          run('tasks', 'ls')
            .stdout.trimEnd()
            .split('\n')
            .slice(1)
            .map((line) => line.split(/\s+/))
            .map(([id, , state]) => [id, state]),
        );
      // What is killed takes a moment to end.
      if (words.includes('kill')) await until(what, () => JSON.stringify(seen()) === JSON.stringify(tasks));
      assert.deepEqual(seen(), tasks, what);
      assert.deepEqual(run('containers', 'ls', '-q').stdout.split('\n').filter(Boolean), containers, what);
    }
  }
});
