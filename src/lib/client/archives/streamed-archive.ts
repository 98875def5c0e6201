/**
 * Takes in an archive that can be read only once: from a pipe, or compressed. Entries come in any order, and what they are is known at
 * the end only. So documents are kept in memory, and everything else is stored as an ingest while it streams by, and unpacked already
 * where it looks like a layer. Nothing becomes a blob before the images are known and leased.
 */

import {digestOfFile, MAX_LAYOUT_BYTES} from '../../archive/archive-documents.ts';
import {type ArchiveFiles, LinkTable, ofArchive} from '../../archive/archive-reader.ts';
import {detectCompression, openInflater} from '../../archive/inflate.ts';
import {openFile, readRange, readTarStream} from '../../archive/outer-tar-reader.ts';
import type {TarHeader} from '../../archive/tar.ts';
import {ErrdefsError} from '../../errdefs.ts';
import {requireFreeSpace} from '../../fs/free-space.ts';
import type {Lock} from '../../fs/lock.ts';
import {uniqueName} from '../../fs/process.ts';
import type {Digest} from '../../oci/descriptor.ts';
import {digestOf} from '../../oci/hash.ts';
import {ingestKey} from '../../store/blob-store.ts';
import {type Snapshotter, seedLayer} from '../../store/snapshotters.ts';
import type {Context} from '../context.ts';
import type {PreparedLayer} from '../pull/fetch-and-unpack.ts';
import {MAX_DOCUMENTS, MAX_DOCUMENTS_BYTES} from '../pull/plan.ts';
import type {ProgressEvent} from '../types/index.ts';
import type {LayerTask} from '../workers/pool.ts';

export interface StreamedArchiveOptions {
  readonly context: Context;
  readonly namespace: string;
  readonly source: AsyncIterable<Uint8Array>;
  /** The archive, for messages. */
  readonly what: string;
  /** Absent: nothing is unpacked. */
  readonly snapshotter?: Snapshotter;
  readonly onEvent: (event: ProgressEvent) => void;
  readonly signal?: AbortSignal;
}

/** Compressed bytes that are inflated at once: a bomb takes little memory before its bytes are counted. */
const INFLATE_BYTES = 4096;

/** Milliseconds between two progress events of one entry. */
const PROGRESS_MS = 100;

/** Files up to this size stay in memory whatever they are. */
const SMALL_BYTES = 16 << 10;

/** Bytes that tell what a file is: a tar has its magic in its first block. */
const HEAD_BYTES = 512;

/** A file that is stored as an ingest. */
interface Stored {
  readonly key: string;
  readonly path: string;
  readonly size: number;
  readonly digest: Digest;
  readonly lock: Lock;
}

/** Inflates an archive unless it is not compressed. */
async function* inflated(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  let output: Uint8Array[] = [];
  // An inflater reuses its memory; uncompressed bytes are passed on as they are.
  const inflater = openInflater((chunk) => void output.push(inflater.kind === 'none' ? chunk : Buffer.from(chunk)));
  const taken = (): readonly Uint8Array[] => {
    const those = output;
    output = [];
    return those;
  };
  try {
    for await (const chunk of source) {
      const step = inflater.kind === 'none' ? chunk.length : INFLATE_BYTES;
      for (let at = 0; at < chunk.length; at += step) {
        await inflater.write(chunk.subarray(at, at + step));
        yield* taken();
      }
    }
    await inflater.end();
    yield* taken();
  } finally {
    inflater.close();
  }
}

/** Whether bytes begin as layers do: compressed, or as a tar. */
const looksLikeLayer = (head: Buffer): boolean =>
  detectCompression(head.subarray(0, 4)) !== 'none' || head.toString('latin1', 257, 262) === 'ustar';

/** Whether bytes begin as a JSON document does. */
const looksLikeJSON = (head: Buffer): boolean => /^\s*[[{]/.test(head.toString('latin1', 0, 64));

/** An archive that has been taken in. */
export class StreamedArchive implements ArchiveFiles {
  readonly what: string;
  readonly #o: StreamedArchiveOptions;
  readonly #links: LinkTable;
  readonly #documents = new Map<string, Buffer>();
  readonly #stored = new Map<string, Stored>();
  readonly #locks = new Set<Lock>();
  readonly #keys = new Set<string>();
  readonly #works = new Set<string>();
  /** Layers that are unpacked, by the digests of their blobs. */
  readonly prepared = new Map<Digest, PreparedLayer>();
  #documentBytes = 0;

  private constructor(options: StreamedArchiveOptions) {
    this.#o = options;
    this.what = options.what;
    this.#links = new LinkTable(options.what);
  }

  /**
   * Reads an archive to its end. The caller calls `dispose`.
   *
   * @throws data_loss | invalid_argument the archive is damaged @throws failed_precondition a blob is not what its name says
   * @throws resource_exhausted the disk is full
   */
  static async receive(options: StreamedArchiveOptions): Promise<StreamedArchive> {
    const archive = new StreamedArchive(options);
    try {
      await archive.#receive();
      return archive;
    } catch (err) {
      archive.dispose();
      throw ofArchive(options.what, err);
    }
  }

  async #receive(): Promise<void> {
    const events = readTarStream(inflated(this.#o.source));
    const unpacking = new Set<Promise<void>>();
    let failure: {readonly err: unknown} | undefined;
    try {
      for (let next = await events.next(); next.done !== true; next = await events.next()) {
        if (next.value.type !== 'entry') continue;
        this.#o.signal?.throwIfAborted();
        const name = this.#links.add(next.value.header);
        if (name === undefined) continue;
        const entry = new EntryReader(events);
        const head = await entry.take(Math.min(HEAD_BYTES, next.value.header.size));
        if (this.#isDocument(next.value.header, head)) this.#documents.set(name, Buffer.concat([head, ...(await entry.rest())]));
        else {
          const {unpacked} = await this.#store(name, next.value.header.size, head, entry);
          const done = unpacked.catch((err: unknown) => {
            failure ??= {err};
          });
          unpacking.add(done);
          void done.then(() => unpacking.delete(done));
        }
        if (failure !== undefined) throw failure.err;
      }
    } finally {
      // Work that goes on would write to what `dispose` removes.
      await Promise.all(unpacking);
      await events.return(undefined);
    }
    if (failure !== undefined) throw (failure as {readonly err: unknown}).err;
  }

  #isDocument({size}: TarHeader, head: Buffer): boolean {
    const isSmall = size <= SMALL_BYTES || (size <= MAX_LAYOUT_BYTES && looksLikeJSON(head));
    if (!isSmall || this.#documentBytes + size > MAX_DOCUMENTS_BYTES) return false;
    this.#documentBytes += size;
    return true;
  }

  /** Stores an entry, and unpacks it if it looks like a layer. @returns once its last byte is read, a promise of its unpacking */
  async #store(name: string, size: number, head: Buffer, entry: EntryReader): Promise<{readonly unpacked: Promise<void>}> {
    const {context, namespace, snapshotter, signal} = this.#o;
    const {store, workers} = context;
    store.ensureCreated();
    requireFreeSpace(store.layout.root, size, 'import');
    if (this.#keys.size === MAX_DOCUMENTS)
      throw new ErrdefsError('resource_exhausted', `the archive has more than ${MAX_DOCUMENTS} files that are no documents`, {
        hint: 'it is larger than any archive of images needs to be',
      });
    const promised = digestOfFile(name);
    const key = ingestKey('', `archive ${uniqueName()}`);
    const lock = await store.blobs.lock(key, {timeoutMs: context.lockTimeoutMs, purpose: `import of ${name}`});
    this.#locks.add(lock);
    this.#keys.add(key);
    const ref = `layer-${promised ?? name}`;
    const path = store.blobs.beginIngest(key, {ref, namespace, total: size});
    const work =
      snapshotter !== undefined && snapshotter.form !== 'plain' && looksLikeLayer(head) ? this.#createWork(snapshotter) : undefined;
    const expected = {size, ...(promised === undefined ? {} : {digest: promised})};
    const task = await workers.run(
      {
        what: `blob ${promised ?? name}`,
        size,
        source: {kind: 'network', ingestPath: path, expected, isNew: true},
        ...(work === undefined
          ? {}
          : {
              unpack: {
                directory: work,
                form: snapshotter!.form,
                ...(snapshotter!.form === 'erofs' ? {backing: context.erofsBacking()} : {}),
              },
            }),
      },
      () => {},
    );
    const onAbort = (): void => task.abort(signal!.reason);
    signal?.addEventListener('abort', onAbort, {once: true});
    task.result.catch(() => {}); // awaited below
    const finish = async (): Promise<void> => {
      try {
        const digest = (await task.stored)!;
        this.#stored.set(name, {key, path, size, digest, lock});
        await this.#keepUnpacked(task, digest, work);
      } finally {
        signal?.removeEventListener('abort', onAbort);
      }
    };
    try {
      await this.#feed(task, ref, size, head, entry);
    } catch (err) {
      task.abort(err);
      signal?.removeEventListener('abort', onAbort);
      throw err;
    }
    return {unpacked: finish()};
  }

  async #feed(task: LayerTask, ref: string, size: number, head: Buffer, entry: EntryReader): Promise<void> {
    const {onEvent, signal} = this.#o;
    await task.offset;
    let received = 0;
    let shown = Number.NEGATIVE_INFINITY;
    const write = async (chunk: Buffer): Promise<void> => {
      received += chunk.length;
      const now = performance.now();
      if (now - shown >= PROGRESS_MS) {
        shown = now;
        onEvent({ref, status: 'reading', offset: received, total: size});
      }
      await task.write(chunk);
      signal?.throwIfAborted();
    };
    await write(head);
    for await (const chunk of entry) await write(chunk);
    onEvent({ref, status: 'reading', offset: size, total: size});
    task.end();
  }

  /** Keeps what was unpacked. A blob that cannot be unpacked may be something else than a layer: the images tell. */
  async #keepUnpacked(task: LayerTask, digest: Digest, work: string | undefined): Promise<void> {
    try {
      const unpacked = await task.result;
      if (unpacked === undefined || work === undefined || this.prepared.has(digest)) return;
      this.prepared.set(digest, {work, unpacked});
    } catch {
      if (work !== undefined) this.#discardWork(work);
    }
  }

  #createWork(snapshotter: Snapshotter): string {
    const work = this.#o.context.store.layers.createWork();
    this.#works.add(work);
    seedLayer(snapshotter, work, [], false);
    return work;
  }

  #discardWork(work: string): void {
    this.#works.delete(work);
    this.#o.context.store.layers.discardWork(work);
  }

  get storedDigests(): ReadonlySet<Digest> {
    return new Set([...this.#stored.values()].map(({digest}) => digest));
  }

  /** Bytes of the files that were stored. */
  get storedBytes(): number {
    return [...this.#stored.values()].reduce((sum, {size}) => sum + size, 0);
  }

  size(name: string): number | undefined {
    const at = this.#links.resolve(name);
    return this.#documents.get(at)?.length ?? this.#stored.get(at)?.size;
  }

  resolve(name: string): string | undefined {
    return this.size(name) === undefined ? undefined : this.#links.resolve(name);
  }

  digest(name: string): Digest | undefined {
    const at = this.#links.resolve(name);
    const document = this.#documents.get(at);
    return document === undefined ? this.#stored.get(at)?.digest : digestOf(document);
  }

  async *read(name: string, offset = 0): AsyncGenerator<Buffer> {
    const at = this.#links.resolve(name);
    const document = this.#documents.get(at);
    if (document !== undefined) {
      yield document.subarray(offset);
      return;
    }
    const {path, size} = this.#stored.get(at)!;
    const {fd, close} = openFile(path, `${name} of ${this.what}`);
    try {
      yield* readRange(fd, offset, size, `${name} of ${this.what}`);
    } finally {
      close();
    }
  }

  /** Makes stored files visible as blobs. The caller has leased them. @param wanted their digests */
  publish(wanted: ReadonlySet<Digest>): void {
    const {blobs} = this.#o.context.store;
    for (const {key, digest, size} of this.#stored.values()) {
      if (!wanted.has(digest) || blobs.size(digest) === size) continue;
      blobs.publish(key, digest, {syncName: false});
      this.#keys.delete(key);
    }
  }

  close(): void {
    this.dispose();
  }

  /** Removes everything that has not become a blob or a layer. */
  dispose(): void {
    for (const work of [...this.#works]) this.#discardWork(work);
    for (const key of this.#keys) this.#o.context.store.blobs.discardIngestQuietly(key);
    this.#keys.clear();
    for (const lock of this.#locks) lock.release();
    this.#locks.clear();
  }
}

/** The bytes of the entry that a tar's events have come to. */
class EntryReader {
  readonly #events: ReturnType<typeof readTarStream>;
  /** Bytes that were read and not yet taken. */
  #left: Buffer | undefined;
  #ended = false;

  constructor(events: ReturnType<typeof readTarStream>) {
    this.#events = events;
  }

  /** The next bytes; `undefined` at the entry's end. */
  async #next(): Promise<Buffer | undefined> {
    const left = this.#left;
    this.#left = undefined;
    if (left !== undefined || this.#ended) return left;
    const {value, done} = await this.#events.next();
    if (done !== true && value.type === 'data') return value.chunk;
    this.#ended = true;
    return undefined;
  }

  /** So many bytes, or all that there are. */
  async take(bytes: number): Promise<Buffer> {
    const chunks: Buffer[] = [];
    for (let missing = bytes; missing > 0; ) {
      const chunk = await this.#next();
      if (chunk === undefined) break;
      chunks.push(chunk.subarray(0, missing));
      if (chunk.length > missing) this.#left = chunk.subarray(missing);
      missing -= Math.min(missing, chunk.length);
    }
    return Buffer.concat(chunks);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Buffer> {
    for (let chunk = await this.#next(); chunk !== undefined; chunk = await this.#next()) yield chunk;
  }

  async rest(): Promise<readonly Buffer[]> {
    const chunks: Buffer[] = [];
    for await (const chunk of this) chunks.push(chunk);
    return chunks;
  }
}
