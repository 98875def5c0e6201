/** Content of one namespace: which of the shared blobs it sees, and its own labels for them. */
import {randomBytes} from 'node:crypto';
import {ErrdefsError} from '../errdefs.ts';
import {formatIdentity, ownIdentity} from '../fs/process.ts';
import {type Digest, parseDigest} from '../oci/descriptor.ts';
import {validateLabels} from '../oci/identifier.ts';
import {Ingest, ingestKey} from '../store/blobs.ts';
import {collect, LEASE_OWNER} from '../store/gc.ts';
import type {ContentRecord} from '../store/records.ts';
import {mergeLabels} from '../store/snapshots.ts';
import type {Context} from './context.ts';
import {filtered} from './filtered.ts';
import {notFoundIn} from './missing.ts';
import type {NamespaceClient} from './types.ts';

/** Keeps content that no image names from being collected, as `ctr content ingest` does. */
const ROOT_LABEL = 'containerd.io/gc.root';

export function contentClient(context: Context, namespace: string): NamespaceClient['content'] {
  const {store} = context;
  const missing = (digest: Digest): ErrdefsError =>
    notFoundIn(store, namespace, 'content', digest, (ns) => ns.content.find(digest) !== undefined);
  const get = (text: string): ContentRecord => {
    const digest = parseDigest(text);
    const record = store.view((tx) => tx.namespace(namespace).content.find(digest));
    if (record === undefined) throw missing(digest);
    return record;
  };

  return {
    list: async ({filters = []} = {}) =>
      filtered(
        store.view((tx) => tx.namespace(namespace).content.list()),
        filters,
        ({digest, size, labels}) => ({digest, size: String(size), labels}),
      ),

    get: async (text) => get(text),

    open: async (text) => {
      const record = get(text);
      store.blobs.has(record);
      return store.blobs.read(record.digest);
    },

    ingest: async (key, source, {expectedSize, expectedDigest, labels = {}} = {}) => {
      if (key === '') throw new ErrdefsError('invalid_argument', 'ingest key must not be empty');
      validateLabels(labels);
      const what = `ingest ${JSON.stringify(key)}`;
      const expected = {
        ...(expectedSize === undefined ? {} : {size: expectedSize}),
        ...(expectedDigest === undefined ? {} : {digest: parseDigest(expectedDigest)}),
      };
      store.prepare();
      const id = ingestKey(namespace, key);
      using _lock = await store.blobs.lock(id, {timeoutMs: context.lockTimeoutMs, purpose: what});
      // A stream cannot be asked to go on where an earlier one stopped.
      store.blobs.discardIngest(id);
      const ingest = Ingest.open(store.blobs.beginIngest(id, {ref: key, namespace, total: expectedSize ?? 0}), expected, what);
      try {
        for await (const chunk of source) ingest.write(chunk);
        const got = ingest.finish();
        return await publish(got, labels);
      } finally {
        ingest.close();
        store.blobs.discardIngest(id);
      }

      async function publish(got: {digest: Digest; size: number}, own: typeof labels): Promise<ContentRecord> {
        const lease = `ingest-${randomBytes(8).toString('hex')}`;
        const now = new Date().toISOString();
        await store.update(what, (tx) => {
          const ns = tx.namespace(namespace);
          if (ns.content.find(got.digest) !== undefined) throw new ErrdefsError('already_exists', `content ${got.digest}`);
          ns.leases.put({
            id: lease,
            labels: {[LEASE_OWNER]: formatIdentity(ownIdentity())},
            expiresAt: now,
            content: [got.digest],
            layers: [],
            snapshots: [],
            createdAt: now,
            updatedAt: now,
          });
        });
        store.blobs.publish(id, got.digest);
        return store.update(what, (tx) => {
          const ns = tx.namespace(namespace);
          const record: ContentRecord = {...got, labels: {[ROOT_LABEL]: now, ...own}, createdAt: now, updatedAt: now};
          ns.content.put(record);
          ns.leases.delete(lease);
          return record;
        });
      }
    },

    active: async () =>
      store.blobs
        .ingests()
        .flatMap((key) => store.blobs.ingestState(key) ?? [])
        .filter((state) => state.namespace === namespace)
        .map(({ref, offset, total, startedAt, updatedAt}) => ({ref, offset, total, startedAt, updatedAt}))
        .sort((a, b) => (a.ref < b.ref ? -1 : 1)),

    delete: async (text) => {
      const digest = parseDigest(text);
      await store.update(`removal of content ${digest}`, (tx) => {
        if (!tx.namespace(namespace).content.delete(digest)) throw missing(digest);
        collect(store, tx);
      });
      store.layers.emptyTrash();
    },

    label: async (text, labels) => {
      const digest = parseDigest(text);
      validateLabels(labels);
      return store.update(`labels of content ${digest}`, (tx) => {
        const {content} = tx.namespace(namespace);
        const record = content.find(digest);
        if (record === undefined) throw missing(digest);
        const changed = {...record, labels: mergeLabels(record.labels, labels), updatedAt: new Date().toISOString()};
        content.put(changed);
        return changed;
      });
    },
  };
}
