/** Concurrent processes: each result is right or an error of an expected class, and the store is consistent at the end. */
import assert from 'node:assert/strict';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {collectAll} from '../../../src/lib/store/gc.ts';
import {Store} from '../../../src/lib/store/store.ts';
import {startScript} from '../../support/children.ts';
import {isShort, temporaryDirectory} from '../../support/helpers.ts';
import {checkStore} from '../../support/invariants.ts';
import {makeImage} from '../../support/records.ts';

/** Duration of each process, in milliseconds. */
const DURATION_MS = isShort() ? 1500 : 6000;

const WORKER = `
  const {openClient} = await lib('client/index.ts');
  const {Store} = await lib('store/store.ts');
  const {codeOf} = await lib('errdefs.ts');
  await import(args[3]);
  const [root, state, number] = args;
  const client = openClient({root, state, lockTimeoutMs: 30_000});
  const store = new Store({root, lockTimeoutMs: 30_000});
  const done = {count: 0, increments: 0, classes: {}, worstMs: 0, odd: []};
  let seed = Number(number) + 1;
  const random = (n) => { seed = (seed * 1103515245 + 12345) % 2147483648; return Math.floor(seed / 2147483648 * n); };

  /** Runs one step. @param classes error classes that are right answers */
  const attempt = async (what, allowed, action) => {
    const started = performance.now();
    let answer = 'ok';
    try { await action(); } catch (err) {
      answer = codeOf(err);
      if (!allowed.includes(answer)) done.odd.push(what + ': ' + err.stack);
    }
    done.worstMs = Math.max(done.worstMs, performance.now() - started);
    done.classes[what + ' ' + answer] = (done.classes[what + ' ' + answer] ?? 0) + 1;
    done.count++;
  };
  async function* bytes(n) { yield Buffer.from('content ' + n); }

  const shared = client.namespace('shared');
  const snapshots = shared.snapshots('overlayfs');
  const steps = [
    (k) => attempt('namespace create', ['already_exists'], () => client.namespaces.create('n' + k, {by: number})),
    (k) => attempt('namespace rm', ['not_found', 'failed_precondition'], () => client.namespaces.delete('n' + k)),
    (k) => attempt('namespace rm --recursive', ['not_found'], () => client.namespaces.delete('n' + k, {recursive: true})),
    (k) => attempt('ingest', ['already_exists', 'unavailable'], () => client.namespace('n' + k).content.ingest('key ' + random(3), bytes(random(4)))),
    (k) => attempt('content rm', ['not_found'], async () => {
      const [first] = await client.namespace('n' + k).content.list();
      if (first) await client.namespace('n' + k).content.delete(first.digest);
    }),
    (k) => attempt('tag', ['not_found'], () => shared.images.tag(random(2) ? 'one:1' : 'two:2', 't' + k + ':1', {force: true})),
    (k) => attempt('image rm', ['not_found'], () => shared.images.delete('t' + k + ':1')),
    (k) => attempt('prepare', ['already_exists', 'not_found', 'aborted'], () => snapshots.prepare('s' + k, random(2) ? args[4] : undefined)),
    (k) => attempt('commit', ['already_exists', 'not_found', 'failed_precondition'], () => snapshots.commit('c' + k, 's' + k)),
    (k) => attempt('prepare on', ['already_exists', 'not_found', 'aborted'], () => snapshots.prepare('p' + k, 'c' + k)),
    (k) => attempt('snapshot rm', ['not_found', 'failed_precondition'], () => snapshots.delete('spc'[random(3)] + k)),
    () => attempt('count', [], () => store.update('count', (tx) => {
      const ns = tx.namespaces.get('shared');
      tx.namespaces.put({...ns, labels: {...ns.labels, count: String(Number(ns.labels.count ?? 0) + 1)}});
    }).then(() => done.increments++)),
    () => attempt('look', [], () => store.view((tx) => {
      for (const {name} of tx.namespaces.list()) {
        const ns = tx.namespace(name);
        const content = new Set(ns.content.list().map(({digest}) => digest));
        for (const {name: image, target} of ns.images.list()) if (!content.has(target.digest)) throw new Error(image + ' points to nothing');
        const keys = ns.snapshots('overlayfs').list();
        for (const {key, parent} of keys) if (parent && !keys.some((s) => s.key === parent)) throw new Error(key + ' has no parent');
      }
    })),
  ];
  say('up');
  await go();
  const until = Date.now() + ${DURATION_MS};
  while (Date.now() < until) await steps[random(steps.length)](random(4));
  await client.close();
  say(JSON.stringify(done));`;

interface Done {
  readonly count: number;
  readonly increments: number;
  readonly classes: Readonly<Record<string, number>>;
  readonly worstMs: number;
  readonly odd: readonly string[];
}

describe('eight concurrent processes', () => {
  it('get right results or expected errors, lose no change, and leave a consistent store', {timeout: 120_000}, async (t) => {
    const dir = temporaryDirectory(t);
    const root = join(dir, 'root');
    const store = new Store({root, lockTimeoutMs: 30_000});
    const {chainIDs} = await makeImage(store, 'shared', 'docker.io/library/one:1', {seed: 'one'});
    await makeImage(store, 'shared', 'docker.io/library/two:2', {seed: 'two'});
    const scripts = Array.from({length: 8}, (_, i) =>
      startScript(t, WORKER, [root, join(dir, 'state'), String(i), import.meta.resolve('proper-lockfile'), chainIDs.at(-1)!]),
    );
    for (const script of scripts) assert.equal(await script.line(), 'up');
    for (const script of scripts) script.go();
    const results: Done[] = [];
    for (const script of scripts) {
      const {status, stdout, stderr} = await script.done;
      assert.equal(status, 0, stderr);
      results.push(JSON.parse(stdout) as Done);
    }
    assert.deepEqual(
      results.flatMap(({odd}) => odd),
      [],
    );
    const sum = (of: (done: Done) => number): number => results.reduce((total, done) => total + of(done), 0);
    const labels = store.view((tx) => tx.namespaces.get('shared').labels);
    assert.equal(
      Number(labels.count ?? 0),
      sum(({increments}) => increments),
    );
    const classes = new Set(results.flatMap((done) => Object.keys(done.classes)));
    for (const expected of [
      'namespace create ok',
      'namespace rm --recursive ok',
      'ingest ok',
      'tag ok',
      'image rm ok',
      'prepare ok',
      'snapshot rm ok',
      'look ok',
    ])
      assert.ok(classes.has(expected), `${expected} never happened: ${[...classes].join(', ')}`);
    t.diagnostic(`${sum(({count}) => count)} steps, the longest took ${Math.max(...results.map(({worstMs}) => worstMs)).toFixed()} ms`);
    assert.deepEqual(checkStore(root), []);
    await store.update('everything', (tx) => collectAll(store, tx));
    store.layers.emptyTrash();
    assert.deepEqual(checkStore(root, {litter: true}), []);
  });
});
