/** A content store in memory, for tests. */
import {ErrdefsError} from '../../src/lib/errdefs.ts';
import {type Digest, digestParts} from '../../src/lib/oci/descriptor.ts';
import {createHash} from '../../src/lib/oci/hash.ts';
import {validateLabels} from '../../src/lib/oci/identifier.ts';
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
} from '../../src/lib/store/content-contract.ts';
import type {ContentRecord, Labels} from '../../src/lib/store/records.ts';
import {mergeLabels} from '../../src/lib/store/snapshots.ts';

interface MemoryIngest {
  readonly ref: string;
  readonly total: number;
  readonly startedAt: string;
  updatedAt: string;
  bytes: Buffer;
  busy: boolean;
}

/** What the namespaces of one memory share. */
export class MemoryContent {
  readonly namespaces = new Map<string, Map<Digest, ContentRecord>>();
  readonly blobs = new Map<Digest, Buffer>();
}

export class MemoryContentStore implements ContentStore {
  readonly namespace: string;
  readonly #shared: MemoryContent;
  readonly #records: Map<Digest, ContentRecord>;
  readonly #ingests = new Map<string, MemoryIngest>();

  /** @param shared the same for all namespaces that share their bytes */
  constructor(namespace: string, shared = new MemoryContent()) {
    this.namespace = namespace;
    this.#shared = shared;
    this.#records = shared.namespaces.get(namespace) ?? new Map<Digest, ContentRecord>();
    shared.namespaces.set(namespace, this.#records);
  }

  info(digest: Digest): ContentRecord {
    const record = this.#records.get(digest);
    if (record === undefined) throw contentMissing(digest);
    return record;
  }

  list(): readonly ContentRecord[] {
    return [...this.#records.values()].sort((a, b) => (a.digest < b.digest ? -1 : 1));
  }

  async *#chunks(bytes: Buffer): AsyncIterable<Uint8Array> {
    yield bytes;
  }

  read(digest: Digest): AsyncIterable<Uint8Array> {
    this.info(digest);
    return this.#chunks(this.#shared.blobs.get(digest)!);
  }

  open(digest: Digest): ContentReader {
    const {size} = this.info(digest);
    const bytes = this.#shared.blobs.get(digest)!;
    const close = (): void => {};
    return {size, read: (buffer, position) => bytes.copy(buffer, 0, Math.min(position, size)), close, [Symbol.dispose]: close};
  }

  async writer(ref: string, expected: Expected = {}): Promise<ContentWriter> {
    validateRef(ref);
    if (expected.digest !== undefined && this.#records.has(expected.digest)) throw contentExists(expected.digest);
    const before = this.#ingests.get(ref);
    if (before?.busy) throw new ErrdefsError('unavailable', `ingest ${JSON.stringify(ref)} is being written`);
    const total = expected.size ?? before?.total ?? 0;
    const now = new Date().toISOString();
    const fresh: MemoryIngest = {ref, total, startedAt: now, updatedAt: now, bytes: Buffer.alloc(0), busy: true};
    const ingest = before === undefined || before.total !== total ? fresh : before;
    ingest.busy = true;
    this.#ingests.set(ref, ingest);
    const shared = expected.digest === undefined ? undefined : this.#shared.blobs.get(expected.digest);
    if (shared !== undefined && shared.length === (expected.size ?? shared.length)) ingest.bytes = shared;
    return this.#makeWriter(ingest, expected);
  }

  #makeWriter(ingest: MemoryIngest, expected: Expected): ContentWriter {
    const {ref} = ingest;
    const what = `ingest ${JSON.stringify(ref)}`;
    const algorithm = expected.digest === undefined ? 'sha256' : digestParts(expected.digest)[0];
    let closed = false;
    const alive = (): void => {
      if (closed) throw writerClosed(ref);
    };
    const set = (bytes: Buffer): void => {
      alive();
      ingest.bytes = bytes;
      ingest.updatedAt = new Date().toISOString();
    };
    const digest = (): Digest => {
      alive();
      return `${algorithm}:${createHash(algorithm).update(ingest.bytes).digest('hex')}` as Digest;
    };
    const close = (): void => {
      if (closed) return;
      closed = true;
      ingest.busy = false;
    };
    return {
      ref,
      get offset() {
        return ingest.bytes.length;
      },
      write: (chunk) => {
        if (ingest.bytes.length + chunk.length > (expected.size ?? Number.POSITIVE_INFINITY))
          throw new ErrdefsError('failed_precondition', `${what} is longer than the ${expected.size} B expected`);
        set(Buffer.concat([ingest.bytes, chunk]));
      },
      digest,
      status: () => {
        alive();
        return statusOf(ingest);
      },
      truncate: () => set(Buffer.alloc(0)),
      commit: async (atCommit = {}, {labels = {}} = {}) => {
        alive();
        try {
          validateLabels(labels);
          const actual = {size: ingest.bytes.length, digest};
          verifyExpected(what, actual, expected);
          const got = verifyExpected(what, actual, atCommit);
          this.#ingests.delete(ref);
          if (this.#records.has(got)) throw contentExists(got);
          const now = new Date().toISOString();
          const record: ContentRecord = {digest: got, size: ingest.bytes.length, labels, createdAt: now, updatedAt: now};
          this.#shared.blobs.set(got, ingest.bytes);
          this.#records.set(got, record);
          return record;
        } finally {
          close();
        }
      },
      close,
      discard: () => {
        close();
        if (this.#ingests.get(ref) === ingest && !ingest.busy) this.#ingests.delete(ref);
      },
      [Symbol.dispose]: close,
    };
  }

  statuses(): readonly ContentStatus[] {
    return [...this.#ingests.values()].map(statusOf).sort((a, b) => (a.ref < b.ref ? -1 : 1));
  }

  status(ref: string): ContentStatus {
    const ingest = this.#ingests.get(ref);
    if (ingest === undefined) throw ingestMissing(ref);
    return statusOf(ingest);
  }

  abort(ref: string): void {
    const ingest = this.#ingests.get(ref);
    if (ingest === undefined) throw ingestMissing(ref);
    if (ingest.busy) throw new ErrdefsError('unavailable', `ingest ${JSON.stringify(ref)} is being written`);
    this.#ingests.delete(ref);
  }

  async delete(digest: Digest): Promise<void> {
    if (!this.#records.delete(digest)) throw contentMissing(digest);
    if (![...this.#shared.namespaces.values()].some((records) => records.has(digest))) this.#shared.blobs.delete(digest);
  }

  async label(digest: Digest, labels: Labels, {replaceAll = false}: {readonly replaceAll?: boolean} = {}): Promise<ContentRecord> {
    validateLabels(labels);
    const record = this.info(digest);
    const changed: ContentRecord = {
      ...record,
      labels: mergeLabels(replaceAll ? {} : record.labels, labels),
      updatedAt: new Date().toISOString(),
    };
    this.#records.set(digest, changed);
    return changed;
  }
}

const statusOf = ({ref, bytes, total, startedAt, updatedAt}: MemoryIngest): ContentStatus => ({
  ref,
  offset: bytes.length,
  total,
  startedAt,
  updatedAt,
});
