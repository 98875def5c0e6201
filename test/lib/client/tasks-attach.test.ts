/** `tasks.attach` with streams: the streams of detached tasks, by the real conmon. What a task writes and its log are each other's oracle. */
import assert from 'node:assert/strict';
import {createHash} from 'node:crypto';
import {once} from 'node:events';
import {readdirSync, readFileSync} from 'node:fs';
import type {Readable} from 'node:stream';
import {describe, it} from 'node:test';
import type {AttachedTask, LogEntry} from '../../../src/lib/client/index.ts';
import {type Code, hasCode, isErrdefs} from '../../../src/lib/errdefs.ts';
import {DetachKeys, parseDetachKeys} from '../../../src/lib/runtime/detach-keys.ts';
import {randomOf} from '../../fuzz/seeded-random.ts';
import {conmonsOf, requiresTasks, type TaskRig, taskRig, until} from '../../support/tasks.ts';

/** Executes each line that it reads. */
const SHELL = ['sh', '-c', 'while read -r line; do eval "$line"; done; echo "end of input"'];

/** What has come so far. */
function gather(stream: Readable): () => string {
  let text = '';
  stream.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
  });
  return () => text;
}

interface Attached extends AttachedTask {
  readonly out: () => string;
  readonly err: () => string;
}

async function attach({ns}: TaskRig, options?: {readonly signal?: AbortSignal}): Promise<Attached> {
  const attached = await ns.tasks.attach('a', {...options, stdio: 'pipe'});
  return Object.assign(attached, {out: gather(attached.stdout), err: gather(attached.stderr)});
}

const failsAs = (code: Code) => (err: unknown) => hasCode(err, code) && isErrdefs(err) && err.details?.runExit === 125;

/** Relays of this process that live. */
const relays = (): readonly string[] =>
  readdirSync('/proc').filter((pid) => {
    try {
      return (
        /^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] === String(process.pid) &&
        /perl/.test(readFileSync(`/proc/${pid}/cmdline`, 'utf8'))
      );
    } catch {
      return false; // no process, or no more
    }
  });

const logOf = async ({ns}: TaskRig): Promise<readonly LogEntry[]> => {
  const entries: LogEntry[] = [];
  for await (const entry of await ns.tasks.logs('a')) entries.push(entry);
  return entries;
};

describe('attach', () => {
  it('connects to both streams from then on, to several at once and again, and ends as the task ends', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    await r.ns.run(r.ref, 'a', {detach: true, stdin: true, args: ['sh', '-c', `echo before; ${SHELL[2]}`]});
    await until('it has begun', async () => (await logOf(r)).length === 1);
    const [first, second] = [await attach(r), await attach(r)];
    first.stdin.write('echo one; echo two >&2\n');
    for (const one of [first, second]) await until('both see it', () => one.out() === 'one\n' && one.err() === 'two\n');
    // What was written before a detach arrives; the end of input does not.
    first.stdin.end('echo three\n', () => first.detach());
    assert.deepEqual(await first.ended, {id: 'a', exitStatus: 0, detached: true});
    await until('the other sees it', () => second.out() === 'one\nthree\n');
    const again = await attach(r);
    again.stdin.write('echo four; exit 7\n');
    for (const one of [second, again]) assert.deepEqual(await one.ended, {id: 'a', exitStatus: 7, detached: false});
    assert.deepEqual([second.out(), again.out()], ['one\nthree\nfour\n', 'four\n']);
    assert.deepEqual(relays(), []);
    await r.ns.containers.delete('a');
    assert.deepEqual(r.left(), []);
  });

  it('is told the end of a task that is removed with it', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    await r.ns.run(r.ref, 'a', {detach: true, rm: true, stdin: true, args: SHELL});
    const one = await attach(r);
    one.stdin.write('exit 9\n');
    assert.deepEqual(await one.ended, {id: 'a', exitStatus: 9, detached: false});
    await until('all is gone', () => r.left().length === 0);
  });

  it('is refused, with what to do, where there are no streams', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    const {ns, ref, state} = r;
    await assert.rejects(attach(r), failsAs('not_found'));
    const foreground = new AbortController();
    const running = ns.run(ref, 'a', {
      args: ['busybox', 'sleep', '1000'],
      stdio: ['ignore', 'ignore', 'ignore'],
      signal: foreground.signal,
    });
    running.catch(() => undefined);
    await until('it runs', async () => (await ns.tasks.get('a').catch(() => undefined))?.status === 'running');
    await assert.rejects(attach(r), failsAs('failed_precondition'));
    foreground.abort();
    await assert.rejects(running);
    await ns.containers.delete('a').catch(() => undefined);

    await ns.run(ref, 'a', {detach: true, args: ['busybox', 'sleep', '1000']});
    await ns.tasks.pause('a');
    await assert.rejects(attach(r), failsAs('failed_precondition'));
    await ns.tasks.resume('a');
    // conmon killed: under one that is attached, and before one attaches.
    const one = await attach(r);
    for (const pid of conmonsOf(state)) process.kill(pid, 'SIGKILL');
    await assert.rejects(one.ended, failsAs('unavailable'));
    await assert.rejects(attach(r), failsAs('unavailable'));
    await ns.tasks.stop('a', {timeoutMs: 0});
    await assert.rejects(attach(r), failsAs('failed_precondition'));
    assert.deepEqual(relays(), []);
  });

  it('is canceled by its signal, and the task goes on', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    await r.ns.run(r.ref, 'a', {detach: true, args: ['busybox', 'sleep', '1000']});
    const abort = new AbortController();
    const one = await attach(r, {signal: abort.signal});
    abort.abort();
    await assert.rejects(one.ended, failsAs('canceled'));
    await assert.rejects(attach(r, {signal: AbortSignal.abort()}), (err) => hasCode(err, 'canceled'));
    assert.equal((await r.ns.tasks.get('a')).status, 'running');
    assert.deepEqual(relays(), []);
  });

  it('loses nothing of a big output to a slow reader, and holds nothing back once that reader is gone', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    const script = 'read x; busybox seq 200000; read x; busybox seq 200000 >&2; echo done; exit 3';
    await r.ns.run(r.ref, 'a', {detach: true, stdin: true, args: ['sh', '-c', script]});
    const slow = await r.ns.tasks.attach('a', {stdio: 'pipe'});
    const hash = createHash('sha256');
    slow.stdin.write('\n');
    await once(slow.stdout, 'readable');
    const expected = Array.from({length: 200_000}, (_, n) => `${n + 1}\n`).join('');
    let length = 0;
    for await (const chunk of slow.stdout) {
      hash.update(chunk as Buffer);
      length += (chunk as Buffer).length;
      if (length >= expected.length) break;
      await new Promise(setImmediate);
    }
    assert.equal(hash.digest('hex'), createHash('sha256').update(expected).digest('hex'));
    // Nobody reads the second half: the task waits for its reader, then no more.
    const stalled = await r.ns.tasks.attach('a', {stdio: 'pipe'});
    stalled.stdin.write('\n');
    slow.detach();
    await slow.ended;
    await once(stalled.stderr, 'readable');
    assert.equal((await r.ns.tasks.get('a')).status, 'running');
    stalled.detach();
    await stalled.ended;
    assert.equal((await r.ns.tasks.wait('a')).exitStatus, 3);
    const logged = await logOf(r);
    assert.equal(Buffer.concat(logged.filter(({stream}) => stream === 'stderr').map(({data}) => data)).toString(), expected);
  });

  it('takes more input than the task reads, and all of it arrives', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    const bytes = Buffer.alloc(3_000_000, 'a line of thirty characters...\n');
    const script = `until [ -e /tmp/go ]; do sleep 0.02; done; busybox head -c ${bytes.length} | busybox sha256sum`;
    await r.ns.run(r.ref, 'a', {detach: true, stdin: true, args: ['sh', '-c', script]});
    const one = await attach(r);
    const written = new Promise((done) => one.stdin.write(bytes, done));
    await r.ns.tasks.exec('a', ['sh', '-c', ': >/tmp/go'], {stdio: ['ignore', 'ignore', 'ignore']});
    await written;
    assert.equal((await one.ended).exitStatus, 0);
    assert.equal(one.out(), `${createHash('sha256').update(bytes).digest('hex')}  -\n`);
  });

  it('sets the size of a terminal', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    await r.ns.run(r.ref, 'a', {detach: true, tty: true, args: SHELL});
    const one = await attach(r);
    assert.equal(one.terminal, true);
    // The last of many counts, however fast they come.
    for (let height = 1; height <= 33; height += 1) one.resize({height, width: 77});
    one.stdin.write('until [ "$(busybox stty size)" = "33 77" ]; do sleep 0.02; done; echo it is >&2; exit 2\n');
    assert.equal((await one.ended).exitStatus, 2);
    assert.match(one.out(), /it is\r\n/);
    assert.equal(one.err(), '');
    one.resize({height: 1, width: 1}); // it has ended: nothing to do
  });
});

describe('detach keys', () => {
  it('are read as docker reads them', () => {
    const bytes = (text: string): readonly number[] => [...parseDetachKeys(text)];
    assert.deepEqual(bytes('ctrl-p,ctrl-q'), [16, 17]);
    assert.deepEqual(bytes('ctrl-@,ctrl-A,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_'), [0, 1, 27, 28, 29, 30, 31]);
    assert.deepEqual(bytes('q,~'), [113, 126]);
    assert.deepEqual(bytes(''), []);
    for (const wrong of ['ctrl-', 'ctrl-1', 'ctrl-pp', 'ab', 'a,', ',', 'ä', 'ctrl-p ctrl-q'])
      assert.throws(
        () => parseDetachKeys(wrong),
        (err) => hasCode(err, 'invalid_argument'),
        wrong,
      );
  });

  it('are found where a search in all that was typed finds them, and the rest is passed on, however it is cut', () => {
    for (let round = 0; round < 4000; round += 1) {
      const {below} = randomOf(1, round);
      // Few different bytes, so that beginnings overlap.
      const some = (most: number): Buffer => Buffer.from(Array.from({length: below(most + 1)}, () => 97 + below(2)));
      const [keys, typed] = [some(5), some(30)];
      const at = keys.length === 0 ? -1 : typed.indexOf(keys);
      const finder = new DetachKeys(keys);
      let passed = '';
      let detached = false;
      for (let from = 0; from < typed.length && !detached; ) {
        const to = from + 1 + below(5);
        const {pass, detach} = finder.feed(typed.subarray(from, to));
        passed += pass.toString();
        detached = detach;
        from = to;
      }
      assert.equal(detached, at >= 0, `${keys} in ${typed}`);
      if (at >= 0) assert.equal(passed, typed.toString('latin1', 0, at), `${keys} in ${typed}`);
      // Held back is at most the beginning of the keys.
      else
        assert.ok(
          typed.toString().startsWith(passed) && keys.toString().startsWith(typed.toString().slice(passed.length)),
          `${keys} in ${typed}`,
        );
    }
  });
});
