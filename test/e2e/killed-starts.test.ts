/**
 * Starts in the background whose command is killed: at each of its own changes, and at each step of what it has begun, which goes on without
 * it. The next command, given at once, does what it does undisturbed.
 */
import assert from 'node:assert/strict';
import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {existsSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {setTimeout as delay} from 'node:timers/promises';
import type {CreateOptions} from '../../src/lib/client/types/index.ts';
import {engineEnvironment, environment, root as repository} from '../cli/harness.ts';
import {type Failpoint, failpointOptions} from '../fakes/failpoints.ts';
import {findProgram, is, requiresRootOfMachine, TORTURE, temporaryDirectory} from '../support/helpers.ts';
import {conmonsOf, requiresTasks, type TaskRig, taskRig, until} from '../support/tasks.ts';
import {start} from './fixtures.ts';

const SLEEP = ['busybox', 'sleep', '1000'] as const;

/** What may be done next to container `a`; it runs afterwards, or is gone. */
const NEXT: Readonly<Record<string, (r: TaskRig) => Promise<unknown>>> = {
  start: ({ns}) => ns.tasks.startDetached('a'),
  'tasks start': ({ns}) =>
    ns.tasks.start('a', {detach: true}).catch((err: unknown) => {
      // Its command had got that far.
      is('already_exists')(err);
      assert.match((err as Error).message, /is running/);
    }),
  restart: ({ns}) => ns.tasks.restart('a', {timeoutMs: 0}),
  'tasks rm --force': async ({ns}) => {
    await ns.tasks.delete('a', {force: true}).catch(is('not_found'));
    await ns.tasks.start('a', {detach: true});
  },
  'tasks stop': async ({ns}) => {
    await ns.tasks.stop('a', {timeoutMs: 0}).catch(is('not_found'));
    await ns.tasks.startDetached('a');
  },
  'containers rm --force': ({ns}) => ns.containers.delete('a', {force: true}),
};

async function assertAsUndisturbed(r: TaskRig, next: string, when: string, options: CreateOptions = {}): Promise<void> {
  const {ns, ref} = r;
  await NEXT[next]!(r).catch((err: unknown) => {
    throw new Error(`${next} ${when}`, {cause: err});
  });
  if (next === 'containers rm --force') {
    assert.deepEqual(await ns.containers.list(), [], when);
    await ns.containers.create(ref, 'a', {args: SLEEP, ...options});
    return;
  }
  assert.equal((await ns.tasks.get('a')).status, 'running', `${next} ${when}`);
  assert.equal(conmonsOf(r.state).length, 1, `${next} ${when}`);
  await ns.tasks.delete('a', {force: true});
  await until(
    () => `nothing is left ${next} ${when}: ${r.left().join(', ')}`,
    () => r.left().length === 0,
  );
}

describe('a container that is removed when it ends, and dies at its start', () => {
  it('is gone soon afterwards, whatever becomes of its command, and the next of its name is not touched', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    const {ns, ref} = r;
    const work = temporaryDirectory(t);
    const init = join(r.state, 'runs', r.namespace, 'bundles', 'a', 'init.pid');
    const [action, victim] = [join(work, 'action'), join(work, 'pid')];
    // Acts once, at a step of the runtime.
    const script = `#!/bin/sh
die() { kill -9 "$(cat '${init}')"; }
command() { kill "$1" "$(cat '${victim}')"; }
at() { [ -e '${action}' ] && [ "$(head -n 1 '${action}')" = "# $1" ] || return 0; mv '${action}' '${action}.taken'; . '${action}.taken'; }
for word; do case $word in create|start|run) verb=$word; break;; esac; done
[ -z "$verb" ] || at "before $verb"
'${findProgram('runc')}' "$@"; status=$?
[ -z "$verb" ] || at "after $verb"
exit $status
`;
    const runtime = join(work, 'runc');
    writeFileSync(runtime, script, {mode: 0o755});
    const env = {...engineEnvironment('executable'), BERTH_ROOT: r.root, BERTH_STATE: r.state};
    const whenMade = `(until [ -s '${init}' ]; do sleep 0.01; done; die) &`;
    const cases: readonly (readonly [mode: 'detached' | 'foreground', step: string, act: string])[] = [
      ['detached', 'after create', 'die'],
      // What conmon calls comes before its command knows of the container.
      ['detached', 'after create', 'command -STOP; die'],
      ['detached', 'after create', 'command -KILL; die'],
      ['detached', 'before start', 'die'],
      ['detached', 'before start', 'command -STOP; die'],
      ['detached', 'before start', 'command -KILL; die'],
      ['detached', 'after start', 'die'],
      ['detached', 'after start', 'command -STOP; die'],
      ['detached', 'after start', 'command -KILL; die'],
      ['foreground', 'before run', whenMade],
      ['foreground', 'before run', `command -STOP; ${whenMade}`],
    ];
    for (const [mode, step, act] of cases.filter(
      ([mode, step], n) => TORTURE || (mode === 'detached' && step === 'after create') || n % 2 === 1,
    )) {
      const what = `${mode}, ${step}: ${act}`;
      writeFileSync(action, `# ${step}\n${act}\n`);
      const words = ['run', ...(mode === 'detached' ? ['-d'] : []), '--rm', '--runtime', runtime, ref, 'a', ...SLEEP];
      const {child} = start({env} as never, ['-n', r.namespace, ...words]);
      writeFileSync(victim, String(child.pid));
      const exit = once(child, 'exit');
      await until(
        () => `the runtime comes to its step: ${what}`,
        () => !existsSync(action),
      );
      if (act.includes('-STOP')) {
        await delay(1500);
        const next = start({env} as never, ['-n', r.namespace, 'run', '-d', ref, 'a', ...SLEEP]).child;
        const [status] = (await once(next, 'exit')) as [number | null];
        child.kill('SIGCONT');
        await exit;
        if (status === 0) {
          assert.equal((await ns.tasks.get('a').catch(() => undefined))?.status, 'running', `the next is not touched: ${what}`);
          await ns.containers.delete('a', {force: true});
        }
      }
      await exit;
      await until(
        () => `nothing is left: ${what}: ${r.left().join(', ')}`,
        () => r.left().length === 0,
      );
      assert.deepEqual([await ns.tasks.list(), (await ns.containers.list()).map(({id}) => id)], [[], []], what);
    }
    assert.equal((await r.client.check()).damage, 0);
  });
});

describe('a start in the background whose command is killed', () => {
  it('while the runtime makes or starts the container, is taken over by the next command', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    const {ns, ref} = r;
    const work = temporaryDirectory(t);
    const [at, victim] = [join(work, 'at'), join(work, 'pid')];
    // Kills the command, and takes its time: the next one meets what is half done.
    const script = `#!/bin/sh
at() { [ "$(cat '${at}' 2>/dev/null)" = "$1" ] || return 0; rm '${at}'; kill -9 "$(cat '${victim}')"; sleep "$2"; }
for word; do case $word in create|start|run) verb=$word; break;; esac; done
[ "$verb" != run ] || at "before run" 3
[ -z "$verb" ] || at "before $verb" 0.3
'${findProgram('runc')}' "$@"; status=$?
[ -z "$verb" ] || at "after $verb" 0.3
exit $status
`;
    const runtime = join(work, 'runc');
    writeFileSync(runtime, script, {mode: 0o755});
    const env = {...engineEnvironment('executable'), BERTH_ROOT: r.root, BERTH_STATE: r.state};
    await ns.containers.create(ref, 'a', {args: SLEEP, runtime});
    for (const [s, step] of ['before create', 'after create', 'before start', 'after start'].entries())
      for (const [n, next] of Object.keys(NEXT).entries()) {
        if (!TORTURE && (s + n + (s >> 1)) % 2 !== 0) continue;
        writeFileSync(at, step);
        const {child} = start({program: 'ctr', env} as never, ['-n', r.namespace, 'start', 'a']);
        writeFileSync(victim, String(child.pid));
        await once(child, 'exit');
        assert.equal(child.signalCode, 'SIGKILL', step);
        await assertAsUndisturbed(r, next, `after a kill ${step}`);
        if (next !== 'containers rm --force') continue;
        await ns.containers.delete('a');
        await ns.containers.create(ref, 'a', {args: SLEEP, runtime});
      }
    // One in the foreground whose container is not made yet is taken over, too.
    writeFileSync(at, 'before run');
    const {child} = start({program: 'ctr', env} as never, ['-n', r.namespace, 'tasks', 'start', 'a']);
    writeFileSync(victim, String(child.pid));
    await once(child, 'exit');
    assert.equal(child.signalCode, 'SIGKILL');
    await ns.tasks.start('a', {detach: true});
    assert.equal((await ns.tasks.get('a')).detached, true);
    await ns.containers.delete('a', {force: true});
    assert.equal((await r.client.check()).damage, 0);
  });

  for (const [whose, mapped] of [
    ['its own', {}],
    ['its own, of a container with mapped users,', {uidMappings: [{containerID: 0, hostID: 100_000, size: 1000}]}],
  ] as const)
    it(`at any of ${whose} changes, is in the way of nothing`, async (t) => {
      if (!requiresTasks(t) || ('uidMappings' in mapped && !requiresRootOfMachine(t, 'mapped users'))) return;
      const r = await taskRig(t);
      const {ns, ref} = r;
      const words = ['--root', r.root, '--state', r.state, '-n', r.namespace, 'start', 'a'];
      const run = async (failpoint: Failpoint): Promise<NodeJS.Signals | null> => {
        const {execArgv, env} = failpointOptions(failpoint);
        const child = spawn(process.execPath, [...execArgv, join(repository, 'src/main.ts'), ...words], {
          env: {...environment(), ...env},
          stdio: 'ignore',
        });
        await once(child, 'exit');
        return child.signalCode;
      };
      await ns.containers.create(ref, 'a', {args: SLEEP, ...mapped});
      const nexts = Object.keys(NEXT);
      let tried = 0;
      // An odd stride meets every kind of call in a few runs of the test.
      for (let n = 1; ; n += TORTURE ? 1 : 3) {
        const signal = await run({below: r.state, action: 'kill', at: n});
        if (signal === null) break;
        assert.equal(signal, 'SIGKILL');
        tried++;
        await assertAsUndisturbed(r, nexts[(TORTURE ? tried : n) % nexts.length]!, `after a kill at call ${n}`, mapped);
      }
      assert.ok(tried > 3, `${tried} calls`);
      t.diagnostic(`${tried} calls`);
      await ns.containers.delete('a', {force: true});
      assert.ok(existsSync(r.root));
      assert.equal((await r.client.check()).damage, 0);
    });
});
