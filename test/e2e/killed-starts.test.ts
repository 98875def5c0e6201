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
import type {CreateOptions} from '../../src/lib/client/types/index.ts';
import {engineEnvironment, environment, root as repository} from '../cli/harness.ts';
import {type Failpoint, failpointOptions} from '../fakes/failpoints.ts';
import {findProgram, is, TORTURE, temporaryDirectory} from '../support/helpers.ts';
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

describe('a start in the background whose command is killed', () => {
  it('while the runtime makes or starts the container, is taken over by the next command', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    const {ns, ref} = r;
    const work = temporaryDirectory(t);
    const [at, victim] = [join(work, 'at'), join(work, 'pid')];
    // Kills the command, and takes its time: the next one meets what is half done.
    const script = `#!/bin/sh
at() { [ "$(cat '${at}' 2>/dev/null)" = "$1" ] || return 0; rm '${at}'; kill -9 "$(cat '${victim}')"; sleep 0.3; }
for word; do case $word in create|start) verb=$word; break;; esac; done
[ -z "$verb" ] || at "before $verb"
'${findProgram('runc')}' "$@"; status=$?
[ -z "$verb" ] || at "after $verb"
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
    await ns.containers.delete('a', {force: true});
    assert.equal((await r.client.check()).damage, 0);
  });

  for (const [whose, mapped] of [
    ['its own', {}],
    ['its own, of a container with mapped users,', {uidMappings: [{containerID: 0, hostID: 100_000, size: 1000}]}],
  ] as const)
    it(`at any of ${whose} changes, is in the way of nothing`, async (t) => {
      if (!requiresTasks(t)) return;
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
