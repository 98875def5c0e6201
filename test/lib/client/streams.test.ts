/** `stdio: 'pipe'`: one contract for the processes of `run`, `tasks.start` and `tasks.exec`. */
import assert from 'node:assert/strict';
import {createHash, randomBytes} from 'node:crypto';
import {once} from 'node:events';
import {buffer, text} from 'node:stream/consumers';
import {describe, it} from 'node:test';
import type {PipedProcess} from '../../../src/lib/client/index.ts';
import {failsAs, requiresTasks, type TaskRig, taskRig, until} from '../../support/tasks.ts';

type Opened = PipedProcess<{readonly exitStatus: number}>;
type Open = (rig: TaskRig, args: readonly string[], options?: {readonly signal?: AbortSignal}) => Promise<Opened>;

const HOLD = ['sh', '-c', 'trap "exit 0" TERM USR1; while :; do sleep 0.05; done'];
const shell = (script: string): readonly string[] => ['sh', '-c', script];
const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

const KINDS: Readonly<Record<string, Open>> = {
  run: (r, args, options) => r.ns.run(r.ref, 'a', {...options, args, rm: true, stdio: 'pipe'}),
  'tasks start': async (r, args, options) => {
    await r.ns.containers.delete('a').catch(() => undefined);
    await r.ns.containers.create(r.ref, 'a', {args});
    return r.ns.tasks.start('a', {...options, stdio: 'pipe'});
  },
  'tasks exec': async (r, args, options) => {
    if ((await r.ns.tasks.list()).length === 0) await r.ns.run(r.ref, 'a', {detach: true, rm: true, args: HOLD});
    return r.ns.tasks.exec('a', args, {...options, stdio: 'pipe'});
  },
};

/** What is left once the container itself has been removed. */
async function leftOf(r: TaskRig): Promise<readonly string[]> {
  for (const {id} of await r.ns.tasks.list()) await r.ns.tasks.delete(id, {force: true});
  for (const {id} of await r.ns.containers.list()) await r.ns.containers.delete(id);
  return r.left();
}

for (const [kind, open] of Object.entries(KINDS))
  describe(`streams of ${kind}`, () => {
    /** runc passes on the SIGPIPE that it gets itself, of which a container's first process is safe. */
    const ended = (status: number, expected: number): void =>
      assert.ok(status === expected || (kind === 'tasks exec' && status === 141), String(status));

    it('carry all bytes in both directions, and the end of each', async (t) => {
      if (!requiresTasks(t)) return;
      const r = await taskRig(t);
      const listeners = process.listenerCount('SIGINT');
      const bytes = randomBytes(700_000);
      const child = await open(r, shell('busybox tee /dev/stderr; echo end >/dev/stdout; exit 7'));
      assert.equal(process.listenerCount('SIGINT'), listeners, 'signals are left to the program');
      child.stdin.end(bytes);
      const [out, err, {exitStatus}] = await Promise.all([buffer(child.stdout), buffer(child.stderr), child.ended]);
      assert.deepEqual([sha256(out), sha256(err), exitStatus], [sha256(Buffer.concat([bytes, Buffer.from('end\n')])), sha256(bytes), 7]);
      // One that reads nothing.
      const deaf = await open(r, shell('exec <&-; exit 3'));
      deaf.stdin.end(bytes);
      deaf.stdout.resume();
      deaf.stderr.resume();
      ended((await deaf.ended).exitStatus, 3);
      assert.deepEqual(await leftOf(r), []);
    });

    it('hold the process back while they are not read, and let go of it when they are destroyed', async (t) => {
      if (!requiresTasks(t)) return;
      const r = await taskRig(t);
      const child = await open(r, shell('busybox seq 400000; : >/tmp/done; exit 4'));
      const expected = Array.from({length: 400_000}, (_, n) => `${n + 1}\n`).join('');
      await once(child.stdout, 'readable');
      assert.equal((await r.ns.tasks.get('a')).status, 'running');
      assert.equal(await text(child.stdout), expected);
      assert.equal((await child.ended).exitStatus, 4);
      const endless = await open(r, shell('busybox yes; exit 5'));
      for await (const _ of endless.stdout) break;
      endless.stderr.resume();
      ended((await endless.ended).exitStatus, 5);
      assert.deepEqual(await leftOf(r), []);
    });

    it('end by the signal of the call, also when nobody reads them', async (t) => {
      if (!requiresTasks(t)) return;
      const r = await taskRig(t);
      const abort = new AbortController();
      const child = await open(r, shell('busybox yes'), {signal: abort.signal});
      await once(child.stdout, 'readable');
      abort.abort(new DOMException('', 'TimeoutError'));
      await assert.rejects(child.ended, failsAs('deadline_exceeded'));
      child.stdin.write('nobody reads this');
      child.stdout.resume();
      await assert.rejects(open(r, shell('exit 0'), {signal: AbortSignal.abort()}), failsAs('canceled'));
      if (kind !== 'tasks exec') await until('it is no task', async () => (await r.ns.tasks.list()).length === 0);
      assert.deepEqual(await leftOf(r), []);
    });

    it('are not given of what cannot start', async (t) => {
      if (!requiresTasks(t)) return;
      const r = await taskRig(t);
      if (kind !== 'tasks start') await assert.rejects(open(r, ['no-such-program']), failsAs('not_found', 127));
      for (const wrong of kind === 'tasks start' ? [{detach: true}] : [{detach: true}, {tty: true}])
        await assert.rejects(open(r, shell('exit 0'), wrong as object), failsAs('invalid_argument', 125));
      assert.deepEqual(await leftOf(r), []);
    });
  });
