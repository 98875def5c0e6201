/** The contract of metadata backends: documents under paths, consistent reads, atomic changes. */
import assert from 'node:assert/strict';
import {describe, it, type TestContext} from 'node:test';
import type {Backend, Reader} from '../../src/lib/store/metadata-contract.ts';

export type OpenBackend = (t: TestContext) => Backend;

export function metadataSuite(name: string, open: OpenBackend): void {
  describe(`metadata backend: ${name}`, () => {
    const put = (backend: Backend, documents: Record<string, unknown>): Promise<void> =>
      backend.update('a test', (tx) => {
        for (const [path, document] of Object.entries(documents)) tx.put(path, document);
      });
    const all = (backend: Backend, ...paths: string[]): unknown[] => backend.view((r) => paths.map((path) => r.get(path)));

    it('is empty at first', (t) => {
      const backend = open(t);
      assert.deepEqual(all(backend, 'a.json', 'd/a.json'), [undefined, undefined]);
      assert.deepEqual(
        backend.view((r) => r.list('d')),
        [],
      );
    });

    it('returns any JSON as it was put', async (t) => {
      const backend = open(t);
      const documents = {
        'd/a.json': {n: 1, text: 'é\u2028\0"', list: [1, [2]], nothing: null, yes: true},
        'd/b.json': [],
        'd/e/c.json': 'text',
        'd/zero.json': 0,
        'd/false.json': false,
        'd/__proto__.json': {['__proto__']: {polluted: true}},
      };
      await put(backend, documents);
      assert.deepEqual(all(backend, ...Object.keys(documents)), Object.values(documents));
      await put(backend, {'d/a.json': {n: 2}});
      assert.deepEqual(all(backend, 'd/a.json', 'd/e/c.json'), [{n: 2}, 'text']);
    });

    it('lists documents and directories, sorted, without removed ones', async (t) => {
      const backend = open(t);
      const names = (directory: string): unknown => backend.view((r) => [r.list(directory), r.directories(directory)]);
      await put(backend, {'d/b.json': 1, 'd/a.json': 1, 'd/e/x.json': 1, 'd/c/y.json': 1, 'de/z.json': 1});
      assert.deepEqual(names('d'), [
        ['a.json', 'b.json'],
        ['c', 'e'],
      ]);
      assert.deepEqual(names('d/e'), [['x.json'], []]);
      await put(backend, {'d/b.json': undefined, 'd/e/x.json': undefined});
      assert.deepEqual(names('d'), [['a.json'], ['c']]);
      assert.deepEqual(names('d/e'), [[], []]);
      await put(backend, {'d/a.json': undefined, 'd/c/y.json': undefined});
      assert.deepEqual(names('d'), [[], []]);
      await put(backend, {'d/a.json': 'again'});
      assert.deepEqual(names('d'), [['a.json'], []]);
    });

    it('shows a transaction its own changes, and others all of them at once', async (t) => {
      const backend = open(t);
      await put(backend, {'d/old.json': 1, 'd/gone.json': 1, 'd/sub/x.json': 1});
      let inside: (() => unknown[]) | undefined;
      const result = await backend.update('a test', (tx) => {
        tx.put('d/new.json', 2);
        tx.put('d/gone.json', undefined);
        tx.put('d/old.json', 3);
        tx.put('d/deep/er/y.json', 4);
        assert.deepEqual([tx.get('d/new.json'), tx.get('d/gone.json'), tx.get('d/old.json')], [2, undefined, 3]);
        assert.deepEqual(tx.list('d'), ['new.json', 'old.json']);
        assert.deepEqual([tx.directories('d'), tx.directories('d/deep')], [['deep', 'sub'], ['er']]);
        tx.put('d/new.json', undefined);
        assert.deepEqual(tx.list('d'), ['old.json']);
        tx.put('d/new.json', 5);
        inside = () => all(backend, 'd/new.json', 'd/gone.json', 'd/old.json');
        assert.deepEqual(inside(), [undefined, 1, 1]);
        return 'returned';
      });
      assert.equal(result, 'returned');
      assert.deepEqual(inside?.(), [5, undefined, 3]);
    });

    it('changes nothing when the transaction fails, and passes the error on', async (t) => {
      const backend = open(t);
      await put(backend, {'d/a.json': 1});
      const before = backend.view((r) => r.generation);
      let ran = false;
      const failing = backend.update('a test', (tx) => {
        tx.put('d/a.json', 2);
        tx.put('d/b.json', 2);
        tx.afterCommit(() => {
          ran = true;
        });
        throw new Error('no');
      });
      await assert.rejects(failing, /^Error: no$/);
      assert.deepEqual(all(backend, 'd/a.json', 'd/b.json'), [1, undefined]);
      assert.equal(ran, false);
      assert.equal(
        backend.view((r) => r.generation),
        before,
      );
      await put(backend, {'d/a.json': 3});
      assert.deepEqual(all(backend, 'd/a.json'), [3]);
    });

    it('runs actions after the commit, in order, before the next transaction', async (t) => {
      const backend = open(t);
      const order: string[] = [];
      const first = backend.update('first', (tx) => {
        tx.put('a.json', 1);
        for (const n of [1, 2])
          tx.afterCommit((isOvertaken) => {
            assert.equal(isOvertaken(), false);
            assert.deepEqual(all(backend, 'a.json'), [1], 'it is committed');
            order.push(`after ${n}`);
          });
      });
      const second = backend.update('second', () => order.push('second'));
      await Promise.all([first, second]);
      assert.deepEqual(order, ['after 1', 'after 2', 'second']);
      await backend.update('changes nothing', (tx) => tx.afterCommit(() => order.push('after nothing')));
      assert.equal(order.at(-1), 'after nothing');
    });

    it("runs transactions one after the other, each on the others' result", async (t) => {
      const backend = open(t);
      await Promise.all(
        Array.from({length: 20}, () =>
          backend.update('count', (tx) => tx.put('n.json', ((tx.get('n.json') as number | undefined) ?? 0) + 1)),
        ),
      );
      assert.deepEqual(all(backend, 'n.json'), [20]);
    });

    it('does not let a reader change a document', async (t) => {
      const backend = open(t);
      const mine = {list: [1]};
      await put(backend, {'a.json': mine});
      mine.list.push(2);
      (all(backend, 'a.json')[0] as {list: number[]}).list.push(3);
      assert.deepEqual(all(backend, 'a.json'), [{list: [1]}]);
    });

    it('counts transactions that changed something, and says what they touched', async (t) => {
      const backend = open(t);
      const look = <T>(fn: (r: Reader) => T): T => backend.view(fn);
      const start = look((r) => r.generation);
      assert.deepEqual(
        look((r) => r.changesSince(start)),
        new Set(),
      );
      await put(backend, {'d/a.json': 1, 'd/b.json': 1});
      await backend.update('looks only', (tx) => tx.get('d/a.json'));
      await put(backend, {'d/b.json': undefined, 'd/c.json': 1});
      assert.equal(
        look((r) => r.generation),
        start + 2,
      );
      assert.deepEqual(
        look((r) => r.changesSince(start)),
        new Set(['d/a.json', 'd/b.json', 'd/c.json']),
      );
      assert.deepEqual(
        look((r) => r.changesSince(start + 1)),
        new Set(['d/b.json', 'd/c.json']),
      );
      assert.deepEqual(
        look((r) => r.changesSince(start + 2)),
        new Set(),
      );
      assert.equal(
        look((r) => r.changesSince(start + 3)),
        undefined,
        'from another store, or a later one',
      );
      await backend.update('from inside', (tx) => {
        assert.equal(tx.generation, start + 2);
        tx.put('d/d.json', 1);
        assert.deepEqual(tx.changesSince(start + 1), new Set(['d/b.json', 'd/c.json']), 'its own changes are not made yet');
      });
    });

    it('passes on what a view throws', (t) => {
      const backend = open(t);
      assert.throws(() => backend.view(() => assert.fail('seen')), {message: 'seen'});
    });

    it('handles hundreds of transactions and thousands of documents', async (t) => {
      const backend = open(t);
      for (let i = 0; i < 200; i++) await put(backend, {[`d/${i % 7}.json`]: i, [`e/${i}.json`]: i});
      assert.deepEqual(all(backend, ...[0, 1, 2, 3, 4, 5, 6].map((i) => `d/${i}.json`)), [196, 197, 198, 199, 193, 194, 195]);
      await put(backend, Object.fromEntries(Array.from({length: 3000}, (_, i) => [`many/${i}.json`, {i}])));
      assert.equal(backend.view((r) => r.list('many')).length, 3000);
      await put(backend, Object.fromEntries(Array.from({length: 3000}, (_, i) => [`many/${i}.json`, undefined])));
      assert.deepEqual(
        backend.view((r) => r.list('many')),
        [],
      );
    });
  });
}
