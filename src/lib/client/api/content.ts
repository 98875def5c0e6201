/** Content of one namespace: the shared blobs it has records of, and its own labels for them. */
import {type ErrdefsError, hasCode} from '../../errdefs.ts';
import {type Digest, parseDigest} from '../../oci/descriptor.ts';
import {digestOf} from '../../oci/hash.ts';
import {validateLabels} from '../../oci/identifier.ts';
import type {Expected, ContentWriter as StoreWriter} from '../../store/content-contract.ts';
import {LocalContentStore} from '../../store/local-content-store.ts';
import type {ContentRecord} from '../../store/records.ts';
import {maintainBallast, withBallast} from '../../store/with-ballast.ts';
import type {Context} from '../context.ts';
import {notFoundIn} from '../not-found.ts';
import type {ContentClient, ContentWriter, ExpectedContent} from '../types/index.ts';
import {filtered} from './filter.ts';

/** Protects content that no image refers to from collection, as `ctr content ingest` does. */
const ROOT_LABEL = 'containerd.io/gc.root';

const expected = ({expectedSize, expectedDigest}: ExpectedContent): Expected => ({
  ...(expectedSize === undefined ? {} : {size: expectedSize}),
  ...(expectedDigest === undefined ? {} : {digest: parseDigest(expectedDigest)}),
});

/** All but what lies a floor above. */
export function contentClient(context: Context, namespace: string): Omit<ContentClient, 'prune' | 'push'> {
  const {store, lockTimeoutMs} = context;
  const content = new LocalContentStore(store, namespace, {lockTimeoutMs});
  const missing = (digest: Digest): ErrdefsError =>
    notFoundIn(store, namespace, 'content', digest, (ns) => ns.content.find(digest) !== undefined);
  /** Gets a record; the error names other namespaces that have the content. */
  const named = async <T>(text: string, action: (digest: Digest) => T | Promise<T>): Promise<T> => {
    const digest = parseDigest(text);
    try {
      return await action(digest);
    } catch (err) {
      throw hasCode(err, 'not_found') ? missing(digest) : err;
    }
  };

  /** Stores a document, unless the namespace has it. */
  const ingestDocument = async (bytes: Uint8Array): Promise<ContentRecord> => {
    const digest = digestOf(bytes);
    const known = store.view((tx) => tx.namespace(namespace).content.find(digest));
    if (known !== undefined) return known;
    using writer = await content.writer(`edit-${digest}`, {size: bytes.length, digest});
    writer.truncate();
    writer.write(bytes);
    return writer.commit({}, {labels: {[ROOT_LABEL]: new Date().toISOString()}});
  };

  return {
    fetch: async (ref, options = {}) => {
      const {pull} = await import('../pull/pull.ts');
      const result = await pull(context, namespace, ref, {...options, unpack: false});
      await maintainBallast(store);
      return result;
    },

    list: async ({filters = []} = {}) =>
      filtered(content.list(), filters, ({digest, size, labels}) => ({digest, size: String(size), labels})),

    get: (text) => named(text, (digest) => content.info(digest)),

    open: (text, {signal} = {}) => named(text, (digest) => readUntil(content.read(digest), signal)),

    ingest: async (key, source, {labels = {}, signal, ...promised} = {}) => {
      validateLabels(labels);
      using writer = await content.writer(key, expected(promised), {signal});
      // A stream cannot resume where an earlier one stopped, so a partial ingest is of no use.
      writer.truncate();
      try {
        for await (const chunk of source) writer.write(chunk);
        signal?.throwIfAborted();
        return await writer.commit({}, {labels: {[ROOT_LABEL]: new Date().toISOString(), ...labels}});
      } catch (err) {
        writer.discard();
        throw err;
      }
    },

    writer: async (ref, {signal, ...promised} = {}) => writerOf(await content.writer(ref, expected(promised), {signal})),

    active: async ({filters = []} = {}) => filtered(content.statuses(), filters, ({ref}) => ({ref})),

    delete: (text) => named(text, (digest) => withBallast(store, () => content.delete(digest))),

    label: (text, labels) => named(text, (digest) => content.label(digest, labels)),

    edit: (text, editor) =>
      named(text, async (digest) => {
        const {editDocument} = await import('./edit-document.ts');
        const before = content.info(digest);
        return (await editDocument(store.blobs.readSmall(digest), digest, editor, ingestDocument)) ?? before;
      }),
  };
}

async function* readUntil(source: AsyncIterable<Uint8Array>, signal: AbortSignal | undefined): AsyncGenerator<Uint8Array> {
  for await (const chunk of source) {
    yield chunk;
    signal?.throwIfAborted();
  }
}

const writerOf = (writer: StoreWriter): ContentWriter => ({
  ref: writer.ref,
  status: async () => writer.status(),
  write: async (chunk) => writer.write(chunk),
  truncate: async () => {
    writer.truncate();
    return writer.status();
  },
  commit: ({labels = {}, ...promised} = {}) => writer.commit(expected(promised), {labels}),
  close: async () => writer.close(),
});
