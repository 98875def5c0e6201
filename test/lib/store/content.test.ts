import assert from 'node:assert/strict';
import {chmodSync, existsSync, readdirSync, readFileSync, statSync, utimesSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {Ingest} from '../../../src/lib/store/blob-store.ts';
import {LocalContentStore} from '../../../src/lib/store/local-content-store.ts';
import {Store} from '../../../src/lib/store/store.ts';
import {contentSuite, sha} from '../../suites/content.ts';
import {runScript, startScript} from '../../support/children.ts';
import {MemoryContent, MemoryContentStore} from '../../support/content-memory.ts';
import {findProgram, is, requiresProgram, temporaryDirectory} from '../../support/helpers.ts';

contentSuite('memory', () => {
  const shared = new MemoryContent();
  const stores = new Map<string, MemoryContentStore>();
  return (namespace) => {
    const store = stores.get(namespace) ?? new MemoryContentStore(namespace, shared);
    stores.set(namespace, store);
    return store;
  };
});

const openStore = (t: TestContext): Store => new Store({root: join(temporaryDirectory(t), 'root'), lockTimeoutMs: 10_000});

contentSuite('local', (t) => {
  const store = openStore(t);
  return (namespace) => new LocalContentStore(store, namespace);
});

describe('content on disk', () => {
  const bytes = Buffer.from('some bytes');
  const digest = sha(bytes);

  async function stored(t: TestContext) {
    const store = openStore(t);
    const content = new LocalContentStore(store, 'default');
    const writer = await content.writer('ref');
    writer.write(bytes);
    await writer.commit();
    return {store, content, path: store.blobs.path(digest)};
  }

  it('is stored once under its digest, readable by its owner and writable by nobody, with no other file beside it', async (t) => {
    const {store, content, path} = await stored(t);
    assert.equal(path, join(store.layout.root, 'content', 'blobs', 'sha256', digest.slice(7)));
    assert.equal(statSync(path).mode & 0o7777, 0o444);
    const second = new LocalContentStore(store, 'second');
    await (await second.writer('ref', {digest})).commit({}, {labels: {'containerd.io/gc.root': 'yes'}});
    await content.delete(digest);
    assert.ok(existsSync(path));
    await second.delete(digest);
    assert.ok(!existsSync(path), 'the last one to forget it gives its space back');
    assert.deepEqual(readdirSync(store.layout.ingests), []);
    assert.deepEqual(readdirSync(store.layout.locks), []);
    assert.deepEqual(readdirSync(store.layout.trash), []);
  });

  it('is synced before it gets its name, and has its name before a record refers to it', async (t) => {
    if (!requiresProgram(t, 'strace')) return;
    const dir = temporaryDirectory(t);
    const code = `
      const {Store} = await lib('store/store.ts');
      const {LocalContentStore} = await lib('store/local-content-store.ts');
      const store = new Store({root: args[0], lockTimeoutMs: 1000});
      await store.update('first', (tx) => tx.namespace('default'));
      const writer = await new LocalContentStore(store, 'default').writer('ref');
      writer.write(Buffer.from('some bytes'));
      await writer.commit();`;
    await runScript(t, code, [join(dir, 'root')], {
      through: [findProgram('strace')!, '-f', '-y', '-qq', '-e', 'trace=fsync,rename,link', '-o', join(dir, 'trace')],
    });
    const calls = readFileSync(join(dir, 'trace'), 'utf8')
      .split('\n')
      .flatMap((line) => /(\w+)\((.*)\) += 0$/.exec(line)?.slice(1, 3).join(' ') ?? [])
      .filter((call) => !call.includes('/locks/'))
      .map((call) => call.replaceAll(`${dir}/root/`, '').replaceAll(/\d+<|[">]/g, ''));
    const from = calls.findIndex((call) => call.startsWith('fsync content/ingest'));
    assert.deepEqual(
      calls.slice(from, from + 8).map((call) =>
        call
          .replaceAll(/ref-[0-9a-f]+/g, 'KEY')
          .replaceAll(/\.tmp\.[\w.]+/g, 'TMP')
          .replaceAll(/[0-9a-f]{64}/g, 'HEX'),
      ),
      [
        'fsync content/ingest/KEY/data',
        'fsync content',
        'fsync content/blobs',
        'rename content/ingest/KEY/data, content/blobs/sha256/HEX',
        'fsync content/blobs/sha256',
        'fsync journal/TMP',
        'link journal/TMP, journal/0000000000000001',
        'fsync journal',
      ],
    );
  });

  it('that is missing or truncated is data loss, with a hint', async (t) => {
    const {store, content, path} = await stored(t);
    chmodSync(path, 0o644);
    writeFileSync(path, 'some');
    for (const action of [() => content.open(digest), () => content.read(digest)]) assert.throws(action, is('data_loss'));
    assert.throws(() => store.blobs.has({digest, size: bytes.length}), /4 B on disk instead of 10 B/);
    store.blobs.discard(digest, store.layers.trashName());
    assert.throws(
      () => content.open(digest),
      (err: Error & {hint?: string}) => is('data_loss')(err) && /pull/.test(err.hint ?? ''),
    );
  });

  it('is not committed when the shared blob of another namespace was removed meanwhile', async (t) => {
    const {store, content} = await stored(t);
    const writer = await new LocalContentStore(store, 'second').writer('ref', {digest});
    await content.delete(digest);
    await assert.rejects(writer.commit(), is('aborted'));
    assert.throws(() => new LocalContentStore(store, 'second').info(digest), is('not_found'));
  });

  it('is resumed at once after its writer was killed', async (t) => {
    const store = openStore(t);
    const code = `
      const {Store} = await lib('store/store.ts');
      const {LocalContentStore} = await lib('store/local-content-store.ts');
      const content = new LocalContentStore(new Store({root: args[0], lockTimeoutMs: 1000}), 'default');
      const writer = await content.writer('ref', {size: 10});
      writer.write(Buffer.from('some '));
      say('written');
      await go();`;
    const script = startScript(t, code, [store.layout.root]);
    await script.line();
    const content = new LocalContentStore(store, 'default');
    await assert.rejects(content.writer('ref'), (err: Error) => is('unavailable')(err) && err.message.includes(`pid ${script.pid}`));
    script.process.kill('SIGKILL');
    await script.done;
    const writer = await content.writer('ref', {size: 10});
    assert.equal(writer.offset, 5);
    writer.write(Buffer.from('bytes'));
    assert.equal((await writer.commit()).digest, digest);
  });

  it('is not lost when the info file of its ingest is torn', async (t) => {
    const store = openStore(t);
    const content = new LocalContentStore(store, 'default');
    for (const torn of ['', '{', '{}', 'null', '[]', '{"version":1,"ref":7}']) {
      const writer = await content.writer('ref');
      writer.write(Buffer.from('some'));
      writer.close();
      const [key] = store.blobs.ingests();
      writeFileSync(join(store.layout.ingest(key!), 'info.json'), torn);
      assert.deepEqual(content.statuses(), [], torn);
      const again = await content.writer('ref');
      assert.equal(again.offset, 4, torn);
      again.discard();
    }
  });

  it('starts again when an ingest is longer than the expected size', async (t) => {
    const path = join(temporaryDirectory(t), 'data');
    writeFileSync(path, 'too long');
    const ingest = Ingest.open(path, {size: 3}, 'test');
    assert.equal(ingest.offset, 0);
    ingest.write(Buffer.from('abc'));
    assert.deepEqual(ingest.finish(), {digest: sha(Buffer.from('abc')), size: 3});
    ingest.close();
    ingest.close();
    assert.equal(readFileSync(path, 'utf8'), 'abc');
  });

  it('of a wrong digest is discarded by a download, of a wrong size it is kept', (t) => {
    const path = join(temporaryDirectory(t), 'data');
    const expected = {digest: sha(Buffer.from('abc')), size: 3};
    const wrong = Ingest.open(path, expected, 'test');
    wrong.write(Buffer.from('abd'));
    assert.throws(() => wrong.finish(), is('failed_precondition'));
    wrong.close();
    assert.equal(statSync(path).size, 0);
    const short = Ingest.open(path, expected, 'test');
    short.write(Buffer.from('ab'));
    assert.throws(() => short.finish(), is('failed_precondition'));
    short.close();
    const whole = Ingest.open(path, expected, 'test');
    assert.equal(whole.offset, 2);
    whole.write(Buffer.from('c'));
    assert.equal(whole.finish().digest, expected.digest);
    whole.close();
  });

  it('is listed among foreign files, and small documents are verified when read', async (t) => {
    const {store} = await stored(t);
    const {blobs} = store;
    for (const name of ['README', '.tmp.torn', 'sha256.txt', digest.slice(7, 20)])
      writeFileSync(join(store.layout.blobs, 'sha256', name), '');
    writeFileSync(join(store.layout.blobs, 'README'), '');
    assert.deepEqual(blobs.list(), [digest]);
    assert.ok(blobs.readSmall(digest)?.equals(bytes));
    assert.equal(blobs.readSmall(sha(Buffer.from('absent'))), undefined);
    blobs.writeSmall(digest, bytes);
    chmodSync(blobs.path(digest), 0o644);
    writeFileSync(blobs.path(digest), 'same bytes');
    assert.throws(() => blobs.readSmall(digest), is('data_loss'));
    writeFileSync(blobs.path(digest), 'cut');
    blobs.writeSmall(digest, bytes);
    assert.ok(blobs.readSmall(digest)?.equals(bytes), 'a cut one is replaced');
    utimesSync(blobs.path(digest), 1, 1);
    blobs.writeSmall(digest, bytes);
    assert.equal(statSync(blobs.path(digest)).mtimeMs, 1000, 'and one that is there is left');
  });
});
