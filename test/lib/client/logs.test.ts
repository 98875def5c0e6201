/** `tasks logs`: what conmon keeps is what the container wrote. */
import assert from 'node:assert/strict';
import {execFile} from 'node:child_process';
import {randomBytes} from 'node:crypto';
import {readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {promisify} from 'node:util';
import type {LogEntry, LogOptions} from '../../../src/lib/client/index.ts';
import {hasCode} from '../../../src/lib/errdefs.ts';
import {readLog} from '../../../src/lib/runtime/read-conmon-log.ts';
import {temporaryDirectory} from '../../support/helpers.ts';
import {requiresTasks, type TaskRig, taskRig, until} from '../../support/tasks.ts';

async function collect(entries: AsyncIterable<LogEntry>, each: (entry: LogEntry) => void = () => undefined): Promise<readonly LogEntry[]> {
  const all: LogEntry[] = [];
  for await (const entry of entries) {
    all.push(entry);
    each(entry);
  }
  return all;
}

const bytesOf = (entries: readonly LogEntry[], stream: string): Buffer =>
  Buffer.concat(entries.filter((entry) => entry.stream === stream).map(({data}) => data));

const read = async ({ns}: TaskRig, options?: LogOptions): Promise<readonly LogEntry[]> => collect(await ns.tasks.logs('a', options));

describe('the log of a task', () => {
  it('has the bytes of both streams, also of long, unfinished and binary lines, while it runs and after its end', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    const {ns, ref} = r;
    // No NUL: conmon writes lines of text.
    const noise = Buffer.from(randomBytes(20_000).map((byte) => byte || 1));
    const source = temporaryDirectory(t);
    const error = Buffer.from('first\n\n  two  \nlast');
    writeFileSync(join(source, 'out'), Buffer.concat([noise, Buffer.from('end\n')]));
    writeFileSync(join(source, 'err'), error);
    await ns.run(ref, 'a', {
      detach: true,
      mounts: [{type: 'bind', source, destination: '/in', options: ['rbind', 'ro']}],
      args: ['sh', '-c', 'cat /in/out; cat /in/err >&2; until [ -e /tmp/go ]; do sleep 0.05; done; echo after'],
    });
    const followed = collect(await ns.tasks.logs('a', {follow: true}));
    await until('it is logged', async () => bytesOf(await read(r), 'stderr').length >= error.length);
    await ns.tasks.exec('a', ['sh', '-c', 'echo not logged; : >/tmp/go'], {stdio: ['ignore', 'ignore', 'ignore']});
    await ns.tasks.wait('a');
    const expected = Buffer.concat([noise, Buffer.from('end\nafter\n')]);
    for (const entries of [await followed, await read(r), await read(r, {follow: true})]) {
      assert.deepEqual(bytesOf(entries, 'stdout'), expected);
      assert.deepEqual(bytesOf(entries, 'stderr').toString().trimEnd(), error.toString());
      assert.deepEqual(
        entries.filter(({time}) => !/^\d{4}-\d\d-\d\dT[\d:]+\.\d{9}([+-]\d\d:\d\d|Z)$/.test(time)),
        [],
      );
    }
    await ns.tasks.delete('a');
    await assert.rejects(read(r), (err) => hasCode(err, 'not_found'));
  });

  it('is in a file that the caller names, appended to, and left when the task goes', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    const file = join(temporaryDirectory(t), 'a.log');
    const words = (uri: string, flags: readonly string[]) =>
      ['--root', r.root, '--state', r.state, '-n', r.namespace, 'run', ...flags, '--rm', '-d', '--log-uri', uri, r.ref, 'a'].concat([
        ...['sh', '-c', 'echo out; echo err >&2; until [ -e /tmp/go ]; do sleep 0.02; done'],
      ]);
    const ctr = (uri: string, ...flags: readonly string[]) =>
      promisify(execFile)(process.execPath, [join(import.meta.dirname, '../../../src/main.ts'), ...words(uri, flags)]);
    for (let round = 1; round <= 2; round += 1) {
      await ctr(`file://${file}`);
      await until('it is logged', async () => (await read(r)).length === 2 * round);
      await r.ns.tasks.exec('a', ['sh', '-c', ': >/tmp/go'], {stdio: ['ignore', 'ignore', 'ignore']});
      await r.ns.tasks.wait('a');
      await until('it is gone', () => r.left().length === 0);
      const written = readFileSync(file, 'utf8')
        .trim()
        .split('\n')
        .map((line) => line.replace(/^\S+ /, ''));
      assert.deepEqual(written.toSorted(), [...Array(round).fill('stderr F err'), ...Array(round).fill('stdout F out')]);
    }
    for (const [uri, kind] of [
      ['binary:///bin/logger', 'not_implemented'],
      ['file://host/a', 'invalid_argument'],
      [`file://${file}%3a`, 'invalid_argument'],
      [`file://${file}/b`, 'failed_precondition'],
      [`file://${file}/b/c`, 'failed_precondition'],
      [`file://${join(file, '..')}`, 'failed_precondition'],
      ['file:///nowhere/at/all', 'not_found'],
    ] as const)
      await assert.rejects(ctr(uri, '--json'), ({stderr}: {readonly stderr: string}) => {
        assert.equal((JSON.parse(stderr) as {readonly error: {readonly kind: string}}).error.kind, kind, `${uri} ${stderr}`);
        return true;
      });
  });

  it('has whole characters as JSON, however conmon has cut them', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    const source = temporaryDirectory(t);
    const written = `a${'é€𝄞'.repeat(5000)}\n`;
    writeFileSync(join(source, 'out'), Buffer.concat([Buffer.from(written), Buffer.from('end: é').subarray(0, -1)]));
    await r.ns.run(r.ref, 'a', {
      detach: true,
      mounts: [{type: 'bind', source, destination: '/in', options: ['rbind', 'ro']}],
      args: ['sh', '-c', 'cat /in/out; cat /in/out >&2'],
    });
    await r.ns.tasks.wait('a');
    assert.ok(
      (await read(r)).some(({data}) => data.toString().includes('\ufffd')),
      'conmon cuts characters',
    );
    const words = ['--root', r.root, '--state', r.state, '-n', r.namespace, 'tasks', 'logs', '--json', 'a'];
    const {stdout} = await promisify(execFile)(process.execPath, [join(import.meta.dirname, '../../../src/main.ts'), ...words]);
    const lines = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as {readonly stream: string; readonly data: string});
    for (const stream of ['stdout', 'stderr']) {
      const text = lines.filter((line) => line.stream === stream).map(({data}) => data);
      assert.equal(text.join('').trimEnd(), `${written}end: \ufffd`);
    }
  });

  it('that is begun anew loses and repeats nothing for who follows, in a state directory of any name', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t, {state: join(temporaryDirectory(t), 'a:b %"\\ é')});
    const {ns, ref} = r;
    const script = 'i=0; while [ $i -lt 300 ]; do echo "line $i"; i=$((i+1)); sleep 0.005; done';
    await ns.run(ref, 'a', {detach: true, maxLogSize: 4096, args: ['sh', '-c', script]});
    const all = bytesOf(await read(r, {follow: true}), 'stdout').toString();
    assert.equal(all, Array.from({length: 300}, (_, n) => `line ${n}\n`).join(''));
    const kept = bytesOf(await read(r), 'stdout').toString();
    assert.ok(kept.length < all.length && all.endsWith(kept), 'the log itself is short');
  });

  it('is not kept when nobody wants it, which is said', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    await r.ns.run(r.ref, 'a', {detach: true, nullIO: true, args: ['sh', '-c', 'echo x; sleep 1000']});
    await assert.rejects(read(r), (err) => hasCode(err, 'failed_precondition'));
  });
});

describe('a log that is read', () => {
  /** A log of random lines, parts of lines and damage; and what a model says of it. */
  function randomLog(): {text: string; lines: {at: number; first: number; text: string; stream: string}[]} {
    const lines: {at: number; first: number; text: string; stream: string}[] = [];
    const open = new Map<string, number>();
    let written = '';
    const below = (n: number): number => Math.floor(Math.random() * n);
    for (let n = 0; n < 40; n += 1) {
      const at = Date.UTC(2026, 0, 1) + n * 1000;
      const stream = below(2) === 0 ? 'stdout' : 'stderr';
      const full = below(3) > 0;
      const text = 'x y'.repeat(below(4));
      written += `${new Date(at).toISOString().replace('Z', '000000+00:00')} ${stream} ${full ? 'F' : 'P'} ${text}\n`;
      if (below(8) === 0) written += 'damaged\n';
      const first = open.get(stream) ?? n;
      lines.push({at, first, text: full ? `${text}\n` : text, stream});
      if (full) open.delete(stream);
      else open.set(stream, first);
    }
    return {text: `${written}2026-01-01T00:00:00.000 std`, lines};
  }

  it('yields what a model does, for all times and numbers of lines', async (t) => {
    const file = join(temporaryDirectory(t), 'log');
    for (let round = 0; round < 60; round += 1) {
      const {text, lines} = randomLog();
      writeFileSync(file, text);
      const start = Date.UTC(2026, 0, 1);
      const [since, before] = [start + Math.floor(Math.random() * 20) * 1000, start + (20 + Math.floor(Math.random() * 25)) * 1000];
      const tail = Math.floor(Math.random() * 12);
      const within = lines.filter(({at}) => at >= since && at < before);
      // A line counts from the first of its parts that is within the times.
      const starts = new Map<number, number>();
      for (const [n, {first}] of within.entries()) if (!starts.has(first)) starts.set(first, n);
      const last = [...starts.keys()].sort((a, b) => starts.get(a)! - starts.get(b)!).slice(tail === 0 ? Number.POSITIVE_INFINITY : -tail);
      for (const [request, expected] of [
        [{}, lines],
        [{since, until: before}, within],
        [{since, until: before, tail}, within.filter(({first}) => last.includes(first))],
      ] as const) {
        const entries = await collect(readLog(file, {...request, isLive: () => false}));
        assert.deepEqual(
          entries.map(({stream, data}) => [stream, data.toString()]),
          expected.map(({stream, text: data}) => [stream, data]),
          text,
        );
      }
    }
  });
});
