/** The contract of content stores. Cases after containerd, core/content/testsuite. */
import assert from 'node:assert/strict';
import {createHash, randomBytes} from 'node:crypto';
import {buffer} from 'node:stream/consumers';
import {describe, it, type TestContext} from 'node:test';
import {setTimeout as sleep} from 'node:timers/promises';
import type {Digest} from '../../src/lib/oci/descriptor.ts';
import type {ContentStore, ContentWriter} from '../../src/lib/store/content-contract.ts';
import type {Labels} from '../../src/lib/store/records.ts';
import {is} from '../support/helpers.ts';

/** Opens the content stores of several namespaces in one store that belongs to the test. */
export type OpenContent = (t: TestContext) => (namespace: string) => ContentStore;

export const sha = (bytes: Uint8Array, algorithm = 'sha256'): Digest =>
  `${algorithm}:${createHash(algorithm).update(bytes).digest('hex')}` as Digest;

interface Blob {
  readonly bytes: Buffer;
  readonly digest: Digest;
  readonly size: number;
}

const blob = (content: number | string): Blob => {
  const bytes = typeof content === 'number' ? randomBytes(content) : Buffer.from(content);
  return {bytes, digest: sha(bytes), size: bytes.length};
};

function feed(writer: ContentWriter, bytes: Buffer, chunk = 32_768): void {
  for (let at = 0; at < bytes.length; at += chunk) writer.write(bytes.subarray(at, at + chunk));
}

async function put(store: ContentStore, {bytes}: Blob, labels: Labels = {}): Promise<void> {
  const writer = await store.writer(`put-${sha(bytes)}`);
  feed(writer, bytes);
  await writer.commit({}, {labels});
}

const bytesOf = async (store: ContentStore, digest: Digest): Promise<Buffer> => buffer(store.read(digest) as AsyncIterable<Buffer>);

export function contentSuite(name: string, open: OpenContent): void {
  describe(`content store: ${name}`, () => {
    for (const [promise, size, chunk] of [
      [{}, 3000, 32],
      [{size: true}, 3000, 3000],
      [{digest: true}, 70_000, 4096],
      [{size: true, digest: true}, 70_000, 32],
      [{}, 0, 1],
      [{size: true, digest: true}, 5_000_000, 65_536],
    ] as const)
      it(`returns the ${size} bytes it was given, with ${Object.keys(promise).join(' and ') || 'nothing'} expected`, async (t) => {
        const store = open(t)('default');
        const b = blob(size);
        const before = new Date().toISOString();
        const writer = await store.writer('ref', {
          ...('size' in promise ? {size: b.size} : {}),
          ...('digest' in promise ? {digest: b.digest} : {}),
        });
        feed(writer, b.bytes, chunk);
        assert.equal(writer.offset, size);
        assert.equal(writer.digest(), b.digest);
        const record = await writer.commit({}, {labels: {a: '1'}});
        assert.deepEqual(
          {...record, createdAt: '', updatedAt: ''},
          {digest: b.digest, size, labels: {a: '1'}, createdAt: '', updatedAt: ''},
        );
        assert.ok(record.createdAt >= before && record.updatedAt === record.createdAt && record.createdAt <= new Date().toISOString());
        assert.deepEqual(store.info(b.digest), record);
        assert.deepEqual(store.list(), [record]);
        assert.ok((await bytesOf(store, b.digest)).equals(b.bytes));
        assert.deepEqual(store.statuses(), [], 'nothing is in the making any more');
      });

    it('supports the other algorithms', async (t) => {
      const store = open(t)('default');
      for (const algorithm of ['sha384', 'sha512']) {
        const bytes = randomBytes(1000);
        const writer = await store.writer(algorithm, {digest: sha(bytes, algorithm)});
        writer.write(bytes);
        assert.equal((await writer.commit()).digest, sha(bytes, algorithm));
        assert.ok((await bytesOf(store, sha(bytes, algorithm))).equals(bytes));
      }
    });

    it('lists content, sorted', async (t) => {
      const store = open(t)('default');
      const blobs = [1, 2, 3, 4, 5].map(blob);
      for (const b of blobs) await put(store, b);
      assert.deepEqual(
        store.list().map(({digest}) => digest),
        blobs.map(({digest}) => digest).sort(),
      );
    });

    it('reads at any offset, up to the end', async (t) => {
      const store = open(t)('default');
      const b = blob(1000);
      await put(store, b);
      using reader = store.open(b.digest);
      assert.equal(reader.size, 1000);
      const target = Buffer.alloc(1001);
      assert.equal(reader.read(target, 0), 1000, 'one byte more than there are gives exactly what there is');
      assert.ok(target.subarray(0, 1000).equals(b.bytes));
      assert.equal(reader.read(target.subarray(0, 10), 990), 10);
      assert.ok(target.subarray(0, 10).equals(b.bytes.subarray(990)));
      assert.equal(reader.read(target, 1000), 0);
      assert.equal(reader.read(target, 5000), 0);
    });

    it('shows the progress of a writer', async (t) => {
      const store = open(t)('default');
      const b = blob(256);
      const writer = await store.writer('ref', {size: 256});
      const first = writer.status();
      assert.deepEqual({ref: first.ref, offset: first.offset, total: first.total}, {ref: 'ref', offset: 0, total: 256});
      assert.equal(writer.digest(), sha(Buffer.alloc(0)));
      let {updatedAt} = first;
      for (const [from, to] of [
        [0, 64],
        [64, 192],
        [192, 256],
      ] as const) {
        await sleep(5);
        writer.write(b.bytes.subarray(from, to));
        const status = store.status('ref');
        assert.deepEqual(status, {...first, offset: to, updatedAt: status.updatedAt});
        assert.deepEqual(writer.status(), status);
        assert.deepEqual(store.statuses(), [status]);
        assert.ok(status.updatedAt > updatedAt, `${status.updatedAt} is not after ${updatedAt}`);
        updatedAt = status.updatedAt;
        assert.equal(writer.digest(), sha(b.bytes.subarray(0, to)));
      }
      writer.close();
    });

    it('resumes where an earlier writer of the ref stopped', async (t) => {
      const store = open(t)('default');
      const b = blob(256);
      const first = await store.writer('ref', {size: 256});
      first.write(b.bytes.subarray(0, 128));
      first.close();
      first.close();
      const left = store.status('ref');
      const second = await store.writer('ref');
      assert.deepEqual(second.status(), left);
      assert.equal(second.offset, 128);
      assert.equal(second.digest(), sha(b.bytes.subarray(0, 128)));
      second.write(b.bytes.subarray(128));
      await second.commit({size: 256, digest: b.digest});
      assert.ok((await bytesOf(store, b.digest)).equals(b.bytes));
    });

    for (const size of [500, 5000, 50_000])
      for (const percent of [0, 10, 50, 90, 100])
        it(`completes ${size} bytes after a stop at ${percent} %, resumed or restarted`, async (t) => {
          const store = open(t)('default');
          const cut = (size * percent) / 100;
          for (const again of [false, true]) {
            const b = blob(size);
            const first = await store.writer('ref', {size});
            feed(first, b.bytes.subarray(0, cut));
            first.close();
            const second = await store.writer('ref', {size});
            assert.equal(second.offset, cut);
            if (again) second.truncate();
            assert.equal(second.offset, again ? 0 : cut);
            feed(second, b.bytes.subarray(second.offset));
            await second.commit({size, digest: b.digest});
            assert.ok((await bytesOf(store, b.digest)).equals(b.bytes));
          }
        });

    it('starts again when another size is expected', async (t) => {
      const store = open(t)('default');
      const first = await store.writer('ref', {size: 10});
      first.write(Buffer.from('abc'));
      first.close();
      const second = await store.writer('ref', {size: 5});
      assert.equal(second.offset, 0);
      assert.equal(second.status().total, 5);
      second.close();
    });

    it('refuses more bytes than expected', async (t) => {
      const store = open(t)('default');
      using writer = await store.writer('ref', {size: 3});
      writer.write(Buffer.from('ab'));
      assert.throws(() => writer.write(Buffer.from('cd')), is('failed_precondition'));
      assert.equal(writer.offset, 2);
    });

    it('has one writer of a ref at a time', async (t) => {
      const store = open(t)('default');
      const writer = await store.writer('ref');
      await assert.rejects(store.writer('ref'), is('unavailable'));
      assert.throws(() => store.abort('ref'), is('unavailable'));
      (await store.writer('another')).close();
      writer.close();
      (await store.writer('ref')).close();
    });

    it('refuses an empty ref, and a closed writer', async (t) => {
      const store = open(t)('default');
      await assert.rejects(store.writer(''), is('invalid_argument'));
      const writer = await store.writer('ref');
      writer.close();
      assert.throws(() => writer.write(Buffer.from('a')), is('failed_precondition'));
      assert.throws(() => writer.truncate(), is('failed_precondition'));
      assert.throws(() => writer.status(), is('failed_precondition'));
      await assert.rejects(writer.commit(), is('failed_precondition'));
    });

    it('stores equal bytes once, whatever the ref', async (t) => {
      const store = open(t)('default');
      const b = blob('the same');
      await put(store, b, {first: 'yes'});
      await assert.rejects(store.writer('other', {digest: b.digest}), is('already_exists'));
      for (const promise of [{}, {digest: b.digest, size: b.size}]) {
        const writer = await store.writer('other');
        writer.write(b.bytes);
        await assert.rejects(writer.commit(promise), is('already_exists'));
      }
      assert.deepEqual(store.info(b.digest).labels, {first: 'yes'});
      assert.deepEqual(store.statuses(), []);
    });

    it('keeps the bytes after a commit with unexpected size or digest, for the next writer', async (t) => {
      const store = open(t)('default');
      const b = blob('promised');
      for (const [promise, message] of [
        [{digest: sha(Buffer.from('other'))}, /unexpected commit digest sha256:[0-9a-f]+, expected sha256:/],
        [{size: b.size + 1}, /unexpected commit size 8, expected 9/],
        [{size: b.size - 1, digest: b.digest}, /unexpected commit size/],
      ] as const) {
        const writer = await store.writer('ref');
        if (writer.offset === 0) writer.write(b.bytes);
        assert.equal(writer.offset, b.size);
        await assert.rejects(writer.commit(promise), (err: Error) => is('failed_precondition')(err) && message.test(err.message));
        assert.throws(() => store.info(b.digest), is('not_found'));
        assert.throws(() => store.read(b.digest), is('not_found'));
        await assert.rejects(writer.commit(), is('failed_precondition'), 'a commit closes, whatever happens');
      }
      const writer = await store.writer('ref');
      await writer.commit({size: b.size, digest: b.digest});
      assert.ok((await bytesOf(store, b.digest)).equals(b.bytes));
    });

    it('checks at the commit what was expected at the start', async (t) => {
      const store = open(t)('default');
      for (const promise of [{size: 3}, {digest: sha(Buffer.from('abc'))}]) {
        const writer = await store.writer('ref', promise);
        writer.write(Buffer.from('ab'));
        await assert.rejects(writer.commit(), is('failed_precondition'));
        store.abort('ref');
      }
    });

    it('discards aborted ingests', async (t) => {
      const store = open(t)('default');
      const writer = await store.writer('ref');
      writer.write(Buffer.from('abc'));
      writer.close();
      store.abort('ref');
      assert.throws(() => store.status('ref'), is('not_found'));
      assert.throws(() => store.abort('ref'), is('not_found'));
      const again = await store.writer('ref');
      assert.equal(again.offset, 0);
      again.write(Buffer.from('abc'));
      again.discard();
      assert.deepEqual(store.statuses(), []);
    });

    it('sets labels: all, some, and none', async (t) => {
      const store = open(t)('default');
      const b = blob('labelled');
      await put(store, b, {k1: 'v1', k2: 'v2'});
      const {createdAt} = store.info(b.digest);
      await sleep(2);
      const changed = await store.label(b.digest, {k1: '', k2: 'new', k3: 'v3'});
      assert.deepEqual(changed.labels, {k2: 'new', k3: 'v3'});
      assert.equal(changed.createdAt, createdAt);
      assert.ok(changed.updatedAt > createdAt);
      assert.deepEqual(store.info(b.digest), changed);
      assert.deepEqual((await store.label(b.digest, {only: 'this'}, {replaceAll: true})).labels, {only: 'this'});
      await assert.rejects(store.label(b.digest, {k: 'v'.repeat(5000)}), is('invalid_argument'));
      const writer = await store.writer('ref');
      await assert.rejects(writer.commit({}, {labels: {k: 'v'.repeat(5000)}}), is('invalid_argument'));
    });

    it('reports missing content as not found', async (t) => {
      const store = open(t)('default');
      const {digest} = blob('absent');
      assert.throws(() => store.info(digest), is('not_found'));
      assert.throws(() => store.open(digest), is('not_found'));
      assert.throws(() => store.read(digest), is('not_found'));
      await assert.rejects(store.delete(digest), is('not_found'));
      await assert.rejects(store.label(digest, {a: 'b'}), is('not_found'));
      assert.throws(() => store.status('ref'), is('not_found'));
      assert.deepEqual([store.list(), store.statuses()], [[], []]);
    });

    it('deletes content once', async (t) => {
      const store = open(t)('default');
      const b = blob('deleted');
      await put(store, b);
      await store.delete(b.digest);
      assert.throws(() => store.info(b.digest), is('not_found'));
      await assert.rejects(store.delete(b.digest), is('not_found'));
      await put(store, b);
      assert.ok((await bytesOf(store, b.digest)).equals(b.bytes));
    });

    it('hides content of other namespaces, and yet needs no bytes that they have', async (t) => {
      const namespace = open(t);
      const [one, two] = [namespace('one'), namespace('two')];
      const b = blob(10_000);
      await put(one, b, {whose: 'one'});
      assert.throws(() => two.info(b.digest), is('not_found'));
      assert.throws(() => two.read(b.digest), is('not_found'));
      const writer = await two.writer('ref', {digest: b.digest, size: b.size});
      assert.equal(writer.offset, b.size, 'all is here already');
      assert.equal(writer.digest(), b.digest);
      assert.equal(writer.status().offset, b.size);
      // Without a root label, any removal would collect it.
      const record = await writer.commit({}, {labels: {whose: 'two', 'containerd.io/gc.root': 'yes'}});
      assert.equal(record.size, b.size);
      assert.ok((await bytesOf(two, b.digest)).equals(b.bytes));
      assert.deepEqual(
        [one, two].map((s) => s.info(b.digest).labels.whose),
        ['one', 'two'],
      );
      await one.delete(b.digest);
      assert.ok((await bytesOf(two, b.digest)).equals(b.bytes), 'what one removes stays for the other');
      await assert.rejects(one.label(b.digest, {a: 'b'}), is('not_found'));
    });

    it('does not share a blob whose size differs from the expected one', async (t) => {
      const namespace = open(t);
      const b = blob(100);
      await put(namespace('one'), b);
      const writer = await namespace('two').writer('ref', {digest: b.digest, size: 99});
      assert.equal(writer.offset, 0);
      writer.close();
    });

    it('appends to a shared blob without changing it', async (t) => {
      const namespace = open(t);
      const [one, two] = [namespace('one'), namespace('two')];
      const b = blob(100_000);
      await put(one, b);
      const earlier = await two.writer('ref');
      earlier.write(Buffer.from('what an earlier writer left'));
      earlier.close();
      const writer = await two.writer('ref', {digest: b.digest});
      assert.equal(writer.offset, b.size);
      writer.write(Buffer.from('more'));
      const whole = Buffer.concat([b.bytes, Buffer.from('more')]);
      assert.equal(writer.digest(), sha(whole));
      await assert.rejects(writer.commit(), is('failed_precondition'), 'that is not what was promised');
      const second = await two.writer('ref');
      assert.equal(second.offset, whole.length);
      assert.equal((await second.commit({digest: sha(whole)})).digest, sha(whole));
      assert.ok((await bytesOf(two, sha(whole))).equals(whole));
      assert.ok((await bytesOf(one, b.digest)).equals(b.bytes));
      assert.throws(() => two.info(b.digest), is('not_found'));
    });

    it('lets namespaces use the same ref', async (t) => {
      const namespace = open(t);
      const writers = await Promise.all(['one', 'two'].map((ns) => namespace(ns).writer('ref')));
      for (const [i, writer] of writers.entries()) writer.write(Buffer.from(String(i)));
      for (const ns of ['one', 'two'])
        assert.deepEqual(
          namespace(ns)
            .statuses()
            .map(({ref, offset}) => [ref, offset]),
          [['ref', 1]],
        );
      for (const writer of writers) await writer.commit();
    });
  });
}
