/** The log of events: what was changed is told once, in order, whoever writes; the log stays bounded; nothing fails because of it. */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {appendFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import type {Context} from '../../../src/lib/client/context.ts';
import {EventReader, emit, FULL_BYTES} from '../../../src/lib/client/event-log.ts';
import {tell} from '../../../src/lib/client/tasks/emit-task-event.ts';
import type {BerthEvent, Client} from '../../../src/lib/client/types/index.ts';
import {RecordChanges} from '../../../src/lib/store/changed-records.ts';
import {runScript} from '../../support/children.ts';
import {is, newClient, onEnd, requiresRoot, temporaryDirectory} from '../../support/helpers.ts';

async function told(client: Client, filters: readonly string[] = []): Promise<readonly BerthEvent[]> {
  const all: BerthEvent[] = [];
  for await (const event of await client.events({filters})) all.push(event);
  return all;
}

const topics = (events: readonly BerthEvent[]): readonly string[] => events.map(({namespace, topic}) => `${namespace} ${topic}`);

describe('events', () => {
  it('report the changes of a transaction, with the fields of containerd', async (t) => {
    const client = await newClient(t);
    const a = client.namespace('a');
    await a.leases.create({id: 'l'});
    const snapshots = a.snapshots('native');
    await snapshots.prepare('work');
    await snapshots.commit('done', 'work');
    await snapshots.delete('done');
    await client.namespaces.delete('a', {recursive: true});
    const events = await told(client);
    assert.deepEqual(topics(events), [
      'a /namespaces/create',
      'a /snapshot/prepare',
      'a /snapshot/remove',
      'a /snapshot/commit',
      'a /snapshot/remove',
      'a /namespaces/delete',
    ]);
    assert.deepEqual(events[1]!.event, {key: 'work', parent: '', snapshotter: 'native'});
    const times = events.map(({timestamp}) => timestamp);
    assert.deepEqual(times, [...times].sort());
  });

  it('are what several changes of one record come to', () => {
    const changes = new RecordChanges();
    const change = (key: string, existed: boolean, isPut: boolean): void => {
      const about = {namespace: 'a', kind: 'image', snapshotter: '', key} as const;
      changes.note(isPut ? {...about, record: {labels: {}}} : about, existed);
    };
    for (const [key, existed] of [
      ['new', false],
      ['old', true],
    ] as const) {
      change(`${key}, put twice`, existed, true);
      change(`${key}, put twice`, true, true);
      change(`${key}, put and deleted`, existed, true);
      change(`${key}, put and deleted`, true, false);
    }
    change('replaced', true, false);
    change('replaced', false, true);
    assert.deepEqual(
      changes.list().map(({key, action}) => [key, action]),
      [
        ['new, put twice', 'create'],
        ['old, put twice', 'update'],
        ['old, put and deleted', 'delete'],
        ['replaced', 'update'],
      ],
    );
  });

  it('do not report refused changes', async (t) => {
    const client = await newClient(t);
    await client.namespaces.create('a');
    const before = await told(client);
    await assert.rejects(client.namespaces.create('a'), is('already_exists'));
    await assert.rejects(client.namespace('a').images.delete('absent'), is('not_found'));
    assert.deepEqual(await told(client), before);
  });

  it('are chosen by namespace, topic and fields', async (t) => {
    const client = await newClient(t);
    for (const name of ['a', 'b']) await client.namespaces.create(name, {team: name});
    assert.deepEqual(topics(await told(client, ['namespace==b'])), ['b /namespaces/create']);
    assert.deepEqual(topics(await told(client, ['event.labels.team==a', 'topic=="/none"'])), ['a /namespaces/create']);
    await assert.rejects(client.events({filters: ['topic=']}), is('invalid_argument'));
  });

  it('are followed until the caller ends it', async (t) => {
    const client = await newClient(t);
    const seen: string[] = [];
    const controller = new AbortController();
    await client.namespaces.create('a');
    for await (const {namespace} of await client.events({follow: true, signal: controller.signal})) {
      seen.push(namespace);
      if (namespace === 'a') await client.namespaces.create('b');
      else controller.abort();
    }
    assert.deepEqual(seen, ['a', 'b']);
  });

  it('cannot make a command fail', async (t) => {
    const state = temporaryDirectory(t);
    writeFileSync(join(state, 'events'), 'no directory');
    const client = await newClient(t, {state});
    await client.namespaces.create('a');
    assert.equal((await client.namespaces.list()).length, 1);
  });

  it('of many writers at once are whole lines, each once', async (t) => {
    const state = temporaryDirectory(t);
    const code = `
      const {emit} = await lib('client/event-log.ts');
      const [state, name] = args;
      for (let i = 0; i < 200; i++) emit(() => state, [{namespace: name, topic: '/t', event: {i, text: 'x'.repeat(i)}}]);`;
    const names = ['a', 'b', 'c', 'd'];
    await Promise.all(names.map((name) => runScript(t, code, [state, name])));
    const events = new EventReader(state).read();
    for (const name of names)
      assert.deepEqual(
        events.filter(({namespace}) => namespace === name).map(({event}) => event.i),
        Array.from({length: 200}, (_, i) => i),
      );
  });

  it('are kept in two files of bounded size, of which a reader loses only what is gone', (t) => {
    const state = temporaryDirectory(t);
    const reader = new EventReader(state);
    const followed: unknown[] = [];
    for (let i = 0; i < 80; i++) {
      emit(() => state, [{namespace: 'a', topic: '/t', event: {i, text: 'x'.repeat(FULL_BYTES / 16)}}]);
      followed.push(...reader.read().map(({event}) => event.i));
    }
    assert.deepEqual(
      followed,
      Array.from({length: 80}, (_, i) => i),
    );
    const files = readdirSync(join(state, 'events'));
    assert.ok(files.length <= 2, files.join());
    for (const file of files) assert.ok(statSync(join(state, 'events', file)).size < FULL_BYTES + FULL_BYTES / 8);
    assert.equal(new EventReader(state).read().at(-1)?.event.i, 79);
  });

  it('survive what a kill cuts of another, at every byte', (t) => {
    const state = temporaryDirectory(t);
    const log = join(state, 'events/1');
    const put = (i: number): void => emit(() => state, [{namespace: 'é', topic: '/t', event: {i}}]);
    const indexes = (): readonly unknown[] => new EventReader(state).read().map(({event}) => event.i);
    put(1);
    const one = statSync(log).size;
    put(2);
    const whole = readFileSync(log);
    for (let kept = one; kept <= whole.length; kept += 1) {
      writeFileSync(log, whole.subarray(0, kept));
      const before = new EventReader(state);
      before.read();
      put(3);
      assert.deepEqual(before.read().at(-1)?.event.i, 3, `${kept} bytes`);
      // Of the second all but its last newline may be there.
      assert.deepEqual(indexes(), kept >= whole.length - 1 ? [1, 2, 3] : [1, 3], `${kept} bytes`);
    }
  });

  it('are whole on a disk that fills up, and what is missing is said', (t) => {
    if (!requiresRoot(t)) return;
    const state = temporaryDirectory(t);
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=128k', 'none', state]);
    onEnd(t, () => void execFileSync('umount', [state]));
    const filler = join(state, 'filler');
    let written = 0;
    const put = (bytes: number): void => {
      written += 1;
      emit(() => state, [{namespace: 'a', topic: '/t', event: {i: written, text: 'x'.repeat(bytes)}}]);
    };
    for (let round = 0; round < 8; round += 1) {
      put(10);
      // All that is left, and then some of it again.
      for (let size = 1 << 16; size >= 1; size >>= 1)
        try {
          appendFileSync(filler, Buffer.alloc(size));
        } catch {
          // Full.
        }
      for (let n = 0; n < 8; n += 1) put(900 * (round + 1));
      rmSync(filler);
      put(10);
    }
    const events = new EventReader(state).read();
    const told = events.map(({topic, event}) => (topic === '/t' ? (event.i as number) : 'lost'));
    assert.equal(told.at(-1), written);
    assert.ok(told.includes('lost'), 'the disk was full');
    let last = 0;
    for (const [at, i] of told.entries()) {
      if (i === 'lost') continue;
      assert.ok(i === last + 1 || told[at - 1] === 'lost', `${last}, ${i}`);
      last = i;
    }
    assert.ok(!readdirSync(join(state, 'events')).includes('lost'));
  });

  it('of a task do not make a state directory again that was removed meanwhile; those of a change make it', (t) => {
    const state = join(temporaryDirectory(t), 'state');
    const context = {stateDir: state} as Context;
    tell(context, 'a', 'c', 'exit');
    assert.ok(!existsSync(state));
    emit(() => state, [{namespace: 'a', topic: '/images/create', event: {}}]);
    tell(context, 'a', 'c', 'exit');
    assert.deepEqual(
      new EventReader(state).read().map(({topic}) => topic),
      ['/images/create', '/tasks/exit'],
    );
  });

  it('are read around damaged lines', (t) => {
    const state = temporaryDirectory(t);
    const good = (i: number): void => emit(() => state, [{namespace: 'a', topic: '/t', event: {i}}]);
    mkdirSync(join(state, 'events'));
    good(1);
    for (const junk of ['{"timestamp":', 'null', '[]', '{"timestamp":"x","namespace":"a","topic":"t","event":{}}', '\0\0', '{}'])
      appendFileSync(join(state, 'events/1'), `${junk}\n`);
    good(2);
    assert.deepEqual(
      new EventReader(state).read().map(({event}) => event.i),
      [1, 2],
    );
    rmSync(join(state, 'events'), {recursive: true});
    assert.deepEqual(new EventReader(state).read(), []);
  });
});
