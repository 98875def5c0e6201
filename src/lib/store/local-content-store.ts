/** Content of one namespace on disk: shared blobs, and records of the blobs that are visible in the namespace. */
import {closeSync, openSync, readSync} from 'node:fs';
import {ErrdefsError, fromErrno, hasCode} from '../errdefs.ts';
import type {Lock} from '../fs/lock.ts';
import type {Digest} from '../oci/descriptor.ts';
import {validateLabels} from '../oci/identifier.ts';
import {Ingest, ingestKey} from './blob-store.ts';
import {
  type ContentReader,
  type ContentStatus,
  type ContentStore,
  type ContentWriter,
  contentExists,
  contentMissing,
  type Expected,
  ingestMissing,
  validateRef,
  verifyExpected,
  writerClosed,
} from './content-contract.ts';
import {collect, collectIfTouched} from './gc.ts';
import {assertWithinQuota, Quota} from './quota.ts';
import type {ContentRecord, Labels} from './records.ts';
import {mergeLabels} from './snapshots.ts';
import type {Store} from './store.ts';

const CHUNK = 1 << 18;

export class LocalContentStore implements ContentStore {
  readonly namespace: string;
  readonly #store: Store;
  readonly #lockTimeoutMs: number;

  /** @param options.lockTimeoutMs how long `writer` waits for the lock of its ref, in milliseconds */
  constructor(store: Store, namespace: string, options: {readonly lockTimeoutMs?: number} = {}) {
    this.#store = store;
    this.namespace = namespace;
    this.#lockTimeoutMs = options.lockTimeoutMs ?? 0;
  }

  #find(digest: Digest): ContentRecord | undefined {
    return this.#store.view((tx) => tx.namespace(this.namespace).content.find(digest));
  }

  info(digest: Digest): ContentRecord {
    const record = this.#find(digest);
    if (record === undefined) throw contentMissing(digest);
    return record;
  }

  list(): readonly ContentRecord[] {
    return this.#store.view((tx) => tx.namespace(this.namespace).content.list());
  }

  /** The record of a blob that is present. @throws data_loss the blob is missing or has another size */
  #present(digest: Digest): ContentRecord {
    const record = this.info(digest);
    if (!this.#store.blobs.has(record))
      throw new ErrdefsError('data_loss', `content ${digest} is not on disk`, {
        hint: 'pull the image again, or remove the content',
        details: {path: this.#store.blobs.path(digest)},
      });
    return record;
  }

  read(digest: Digest): AsyncIterable<Uint8Array> {
    this.#present(digest);
    return this.#store.blobs.read(digest);
  }

  open(digest: Digest): ContentReader {
    const {size} = this.#present(digest);
    const what = `content ${digest}`;
    let fd: number;
    try {
      fd = openSync(this.#store.blobs.path(digest), 'r');
    } catch (err) {
      throw fromErrno(err, what);
    }
    const close = (): void => {
      if (fd < 0) return;
      closeSync(fd);
      fd = -1;
    };
    return {
      size,
      read: (buffer, position) => {
        try {
          let done = 0;
          for (let n = -1; n !== 0 && done < buffer.length; done += n)
            n = readSync(fd, buffer, done, buffer.length - done, position + done);
          return done;
        } catch (err) {
          throw fromErrno(err, what);
        }
      },
      close,
      [Symbol.dispose]: close,
    };
  }

  async writer(ref: string, expected: Expected = {}, {signal}: {readonly signal?: AbortSignal | undefined} = {}): Promise<ContentWriter> {
    validateRef(ref);
    const {blobs} = this.#store;
    const {digest} = expected;
    if (digest !== undefined && this.#find(digest) !== undefined) throw contentExists(digest);
    const quota = Quota.of(this.#store, this.namespace);
    quota?.assertRoomFor(expected.size ?? 0);
    this.#store.ensureCreated();
    const key = ingestKey(this.namespace, ref);
    const what = `ingest ${JSON.stringify(ref)}`;
    const lock = await blobs.lock(key, {timeoutMs: this.#lockTimeoutMs, purpose: what, ...(signal && {signal})});
    try {
      const before = blobs.ingestState(key);
      const total = expected.size ?? before?.total ?? 0;
      if (before !== undefined && before.total !== total) blobs.discardIngest(key);
      const shared = digest === undefined ? undefined : blobs.size(digest);
      const writer = new LocalWriter(this.#store, this.namespace, ref, {...expected, total}, lock, quota);
      if (shared !== undefined && shared === (expected.size ?? shared)) writer.share(shared);
      else writer.open();
      return writer;
    } catch (err) {
      lock.release();
      throw err;
    }
  }

  statuses(): readonly ContentStatus[] {
    return this.#ingests()
      .map(({ref, offset, total, startedAt, updatedAt}) => ({ref, offset, total, startedAt, updatedAt}))
      .sort((a, b) => (a.ref < b.ref ? -1 : 1));
  }

  #ingests() {
    const {blobs} = this.#store;
    return blobs
      .ingests()
      .flatMap((key) => blobs.ingestState(key) ?? [])
      .filter(({namespace}) => namespace === this.namespace);
  }

  status(ref: string): ContentStatus {
    const status = this.statuses().find((s) => s.ref === ref);
    if (status === undefined) throw ingestMissing(ref);
    return status;
  }

  abort(ref: string): void {
    const ingest = this.#ingests().find((i) => i.ref === ref);
    if (ingest === undefined) throw ingestMissing(ref);
    if (!this.#store.blobs.discardIdleIngest(ingest.key))
      throw new ErrdefsError('unavailable', `ingest ${JSON.stringify(ref)} is being written`, {hint: 'end its writer first'});
  }

  async delete(digest: Digest): Promise<void> {
    await this.#store.update(`removal of content ${digest}`, (tx) => {
      if (!tx.namespace(this.namespace).content.delete(digest)) throw contentMissing(digest);
      collect(this.#store, tx);
    });
    this.#store.layers.emptyTrash();
  }

  async label(digest: Digest, labels: Labels, {replaceAll = false}: {readonly replaceAll?: boolean} = {}): Promise<ContentRecord> {
    validateLabels(labels);
    const labelled = await this.#store.update(`labels of content ${digest}`, (tx) => {
      const {content} = tx.namespace(this.namespace);
      const record = content.find(digest);
      if (record === undefined) throw contentMissing(digest);
      const merged = mergeLabels(replaceAll ? {} : record.labels, labels);
      const changed: ContentRecord = {...record, labels: merged, updatedAt: new Date().toISOString()};
      content.put(changed);
      collectIfTouched(this.#store, tx);
      return changed;
    });
    this.#store.layers.emptyTrash();
    return labelled;
  }
}

class LocalWriter implements ContentWriter {
  readonly ref: string;
  readonly #store: Store;
  readonly #namespace: string;
  readonly #expected: Expected & {readonly total: number};
  readonly #lock: Lock;
  readonly #quota: Quota | undefined;
  readonly #key: string;
  readonly #what: string;
  readonly #openedAt = new Date().toISOString();
  /** Undefined while the writer shares another namespace's blob, and once it is closed. */
  #ingest: Ingest | undefined;
  /** Size of the shared blob; undefined once the writer has its own bytes. */
  #shared: number | undefined;
  #closed = false;

  constructor(
    store: Store,
    namespace: string,
    ref: string,
    expected: Expected & {readonly total: number},
    lock: Lock,
    quota: Quota | undefined,
  ) {
    this.ref = ref;
    this.#store = store;
    this.#namespace = namespace;
    this.#expected = expected;
    this.#lock = lock;
    this.#quota = quota;
    this.#key = ingestKey(namespace, ref);
    this.#what = `ingest ${JSON.stringify(ref)}`;
  }

  share(size: number): void {
    this.#shared = size;
  }

  open(): Ingest {
    const {total, digest, size} = this.#expected;
    const path = this.#store.blobs.beginIngest(this.#key, {ref: this.ref, namespace: this.#namespace, total});
    const expected = {...(digest === undefined ? {} : {digest}), ...(size === undefined ? {} : {size})};
    this.#ingest = Ingest.open(path, expected, this.#what);
    this.#shared = undefined;
    return this.#ingest;
  }

  #assertOpen(): void {
    if (this.#closed) throw writerClosed(this.ref);
  }

  get offset(): number {
    return this.#shared ?? this.#ingest?.offset ?? 0;
  }

  write(chunk: Uint8Array): void {
    this.#assertOpen();
    this.#quota?.assertRoomFor(this.offset + chunk.length);
    (this.#ingest ?? this.#copyShared()).write(chunk);
  }

  /** Copies the shared blob, so that appending does not change it. */
  #copyShared(): Ingest {
    const ingest = this.open();
    ingest.truncate();
    const fd = openSync(this.#store.blobs.path(this.#expected.digest!), 'r');
    try {
      const buffer = Buffer.allocUnsafe(CHUNK);
      for (let n = readSync(fd, buffer); n > 0; n = readSync(fd, buffer)) ingest.write(buffer.subarray(0, n));
    } finally {
      closeSync(fd);
    }
    return ingest;
  }

  digest(): Digest {
    this.#assertOpen();
    return this.#ingest?.digest() ?? this.#expected.digest!;
  }

  status(): ContentStatus {
    this.#assertOpen();
    const state = this.#ingest === undefined ? undefined : this.#store.blobs.ingestState(this.#key);
    const {startedAt = this.#openedAt, updatedAt = this.#openedAt} = state ?? {};
    return {ref: this.ref, offset: this.offset, total: this.#expected.total, startedAt, updatedAt};
  }

  truncate(): void {
    this.#assertOpen();
    (this.#ingest ?? this.open()).truncate();
  }

  async commit(expected: Expected = {}, {labels = {}}: {readonly labels?: Labels} = {}): Promise<ContentRecord> {
    this.#assertOpen();
    try {
      validateLabels(labels);
      const actual = {size: this.offset, digest: () => this.digest()};
      for (const one of [this.#expected, expected]) verifyExpected(this.#what, actual, one);
      this.#ingest?.sync();
      return await this.#record({digest: this.digest(), size: this.offset}, labels);
    } finally {
      this.close();
    }
  }

  /** Publishes the blob inside the transaction that records it, so that no collection runs in between. */
  async #record(got: Pick<ContentRecord, 'digest' | 'size'>, labels: Labels): Promise<ContentRecord> {
    const {blobs} = this.#store;
    let published = false;
    if (this.#ingest === undefined) this.#store.syncBlobNames([got.digest]);
    try {
      const made = await this.#store.update(this.#what, (tx) => {
        const {content} = tx.namespace(this.#namespace);
        if (content.find(got.digest) !== undefined) throw contentExists(got.digest);
        if (this.#ingest !== undefined && !published) {
          blobs.publish(this.#key, got.digest);
          published = true;
        }
        if (!blobs.has(got)) throw new ErrdefsError('aborted', `content ${got.digest} was removed meanwhile`, {hint: 'write it again'});
        const now = new Date().toISOString();
        const record: ContentRecord = {...got, labels, createdAt: now, updatedAt: now};
        const put = content.put(record);
        assertWithinQuota(this.#store, tx.namespace(this.#namespace));
        return put;
      });
      blobs.discardIngestQuietly(this.#key);
      return made;
    } catch (err) {
      if (published) this.#store.markNeedsFullGc();
      else if (hasCode(err, 'already_exists')) blobs.discardIngestQuietly(this.#key);
      throw err;
    }
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#ingest?.close();
    this.#lock.release();
  }

  discard(): void {
    this.close();
    this.#store.housekeeping.attempt(this.#what, () => void this.#store.blobs.discardIdleIngest(this.#key));
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
