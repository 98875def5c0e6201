/** Blobs that all namespaces share, and their ingests. Content records say which blobs a namespace sees. */
import {
  chmodSync,
  closeSync,
  createReadStream,
  fstatSync,
  fsync,
  fsyncSync,
  ftruncateSync,
  futimesSync,
  lstatSync,
  openSync,
  readFileSync,
  readSync,
  type Stats,
  statSync,
  writeSync,
} from 'node:fs';
import {dirname, join} from 'node:path';
import {ErrdefsError, fromErrno, hasCode} from '../errdefs.ts';
import {listIfPresent, moveInto, readIfPresent, removeTree, sweepTemporary, syncPath, writeAtomic} from '../fs/durable.ts';
import {acquireLock, isLockHeld, type Lock, type LockOptions, withFreeLock} from '../fs/lock.ts';
import {type Descriptor, DIGEST_HEX_LENGTH, type Digest, digestParts, isDigest} from '../oci/descriptor.ts';
import {createHash, type Hash} from '../oci/hash.ts';
import {MAX_CONFIG_BYTES} from '../oci/manifest.ts';
import {Housekeeping} from './cleanup-warnings.ts';
import {type Expected, verifyExpected} from './content-contract.ts';
import {moveToTrash} from './layer-store.ts';
import type {Layout} from './layout.ts';
import {parseIngest, RECORD_VERSION} from './parse-records.ts';
import {DEEP_REPAIR_HINT, REPAIR_HINT} from './read-record-files.ts';
import type {IngestInfo} from './records.ts';

/** Hash for a digest's algorithm. */
export const hashFor = (digest: Digest): Hash => createHash(digestParts(digest)[0]);

export interface IngestState extends IngestInfo {
  readonly key: string;
  /** Bytes so far. */
  readonly offset: number;
  readonly updatedAt: string;
}

/** Ingest key of a digest's download; all namespaces share it. */
export const downloadKey = (digest: Digest): string => digest.replace(':', '-');

/** Ingest key of an ingest that a user named; it belongs to one namespace. */
export const ingestKey = (namespace: string, ref: string): string =>
  `ref-${createHash('sha256').update(`${namespace}\0${ref}`).digest('hex')}`;

/** Whether a directory name has the form of an ingest key. */
export const isIngestKey = (name: string): boolean => /^ref-[0-9a-f]{64}$/.test(name) || isDigest(name.replace('-', ':'));

export class BlobStore {
  readonly #layout: Layout;
  readonly #housekeeping: Housekeeping;
  /** Inodes of the blobs whose names this process has synced. Another process may have replaced a blob since. */
  readonly #synced = new Map<Digest, number>();
  /** Blobs that this process has published without syncing their names. */
  readonly #unsynced = new Set<Digest>();

  constructor(layout: Layout, housekeeping = new Housekeeping()) {
    this.#layout = layout;
    this.#housekeeping = housekeeping;
  }

  path(digest: Digest): string {
    return this.#layout.blob(digest);
  }

  /** Size in bytes; `undefined` when the blob is missing. */
  size(digest: Digest): number | undefined {
    let stat: Stats | undefined;
    try {
      stat = statSync(this.path(digest), {throwIfNoEntry: false});
    } catch (err) {
      throw fromErrno(err, `content ${digest}`);
    }
    if (stat?.isFile() === false) throw this.#notAFile(digest);
    return stat?.size;
  }

  #notAFile(digest: Digest): ErrdefsError {
    return new ErrdefsError('data_loss', `content ${digest} is not a file on disk`, {
      hint: REPAIR_HINT,
      details: {path: this.path(digest)},
    });
  }

  /**
   * Whether the blob is present with the descriptor's size.
   *
   * @throws failed_precondition the blob is intact, but the descriptor has another size
   * @throws data_loss the blob has another size and another digest
   */
  has(desc: Pick<Descriptor, 'digest' | 'size'>): boolean {
    const size = this.size(desc.digest);
    if (size === undefined) return false;
    if (size === desc.size) return true;
    // A wrong size in a manifest must not make an intact blob look damaged.
    if (this.#hash(desc.digest) === desc.digest)
      throw new ErrdefsError('failed_precondition', `content ${desc.digest} has ${size} B, but the descriptor says ${desc.size} B`, {
        hint: 'the image is malformed: its publisher has to fix it',
      });
    throw new ErrdefsError('data_loss', `content ${desc.digest} has ${size} B on disk instead of ${desc.size} B`, {
      hint: REPAIR_HINT,
      details: {path: this.path(desc.digest)},
    });
  }

  #hash(digest: Digest): string {
    const hash = hashFor(digest);
    let fd: number | undefined;
    try {
      fd = openSync(this.path(digest), 'r');
      const buffer = Buffer.allocUnsafe(CHUNK);
      for (let n = readSync(fd, buffer); n > 0; n = readSync(fd, buffer)) hash.update(buffer.subarray(0, n));
    } catch (err) {
      throw fromErrno(err, `content ${digest}`);
    } finally {
      if (fd !== undefined) closeSync(fd);
    }
    return `${digestParts(digest)[0]}:${hash.digest('hex')}`;
  }

  /**
   * Reads a document and verifies its digest; `undefined` when it is missing.
   *
   * @throws failed_precondition the blob is larger than any document may be, so its media type was wrong
   * @throws data_loss
   */
  readSmall(digest: Digest): Buffer | undefined {
    const size = this.size(digest);
    if (size === undefined) return undefined;
    if (size > MAX_CONFIG_BYTES)
      throw new ErrdefsError('failed_precondition', `content ${digest} has ${size} B, but a document has at most ${MAX_CONFIG_BYTES} B`);
    let bytes: Buffer;
    try {
      bytes = readFileSync(this.path(digest));
    } catch (err) {
      const {code} = err as NodeJS.ErrnoException;
      if (code === 'ENOENT') return undefined;
      throw code === 'EISDIR' ? this.#notAFile(digest) : fromErrno(err, `content ${digest}`);
    }
    const actual = `${digestParts(digest)[0]}:${hashFor(digest).update(bytes).digest('hex')}`;
    if (actual !== digest) throw this.#wrongBytes(digest, actual);
    return bytes;
  }

  #wrongBytes(digest: Digest, actual: string): ErrdefsError {
    return new ErrdefsError('data_loss', `content ${digest} is ${actual} on disk`, {
      hint: DEEP_REPAIR_HINT,
      details: {path: this.path(digest)},
    });
  }

  /**
   * Streams the blob and verifies its digest.
   *
   * @throws not_found at the first read
   * @throws data_loss after the last byte, when the digest differs
   */
  async *read(digest: Digest): AsyncIterable<Uint8Array> {
    const hash = hashFor(digest);
    try {
      for await (const chunk of createReadStream(this.path(digest), {highWaterMark: 1 << 20})) {
        hash.update(chunk as Buffer);
        yield chunk as Buffer;
      }
    } catch (err) {
      throw fromErrno(err, `content ${digest}`);
    }
    const actual = `${digestParts(digest)[0]}:${hash.digest('hex')}`;
    if (actual !== digest) throw this.#wrongBytes(digest, actual);
  }

  /**
   * Publishes a small blob; the caller syncs its name later. An existing blob is success.
   *
   * @param bytes already verified against `digest`
   */
  writeSmall(digest: Digest, bytes: Uint8Array): void {
    if (this.size(digest) === bytes.length) return;
    try {
      writeAtomic(this.path(digest), bytes, {sync: 'bytes', mode: 0o444});
      this.#unsynced.add(digest);
    } catch (err) {
      throw fromErrno(err, `content ${digest}`);
    }
  }

  list(): readonly Digest[] {
    return Object.keys(DIGEST_HEX_LENGTH).flatMap((algorithm) =>
      listIfPresent(join(this.#layout.blobs, algorithm))
        .map((hex) => `${algorithm}:${hex}`)
        .filter(isDigest),
    );
  }

  /** Removes temporary files of killed processes. */
  sweep(): void {
    const directories = [
      ...Object.keys(DIGEST_HEX_LENGTH).map((algorithm) => join(this.#layout.blobs, algorithm)),
      ...this.ingests().map((key) => this.#layout.ingest(key)),
    ];
    for (const directory of directories) this.#housekeeping.attempt(directory, () => sweepTemporary(directory));
  }

  /** Locks an ingest. A waiter resumes from the bytes of the previous holder. */
  lock(key: string, options: LockOptions): Promise<Lock> {
    return acquireLock(this.#layout.lock(`ingest-${key}`), options);
  }

  isIngestHeld(key: string): boolean {
    return isLockHeld(this.#layout.lock(`ingest-${key}`));
  }

  /** Keys of all ingests. */
  ingests(): readonly string[] {
    return listIfPresent(this.#layout.ingests).filter(isIngestKey);
  }

  /**
   * Keys of ingests that are unlocked and have had no write for a day. An ingest without data counts as stale at once: its process was
   * killed before the first byte or after the commit.
   *
   * @param now milliseconds since the epoch
   */
  staleIngests(now: number): readonly string[] {
    return this.ingests().filter((key) => {
      const data = this.#dataOf(key);
      return (data === undefined || now - data.mtimeMs > INGEST_LIFETIME_MS) && !this.isIngestHeld(key);
    });
  }

  /** @returns `undefined` when the ingest is missing or incomplete */
  ingestState(key: string): IngestState | undefined {
    const directory = this.#layout.ingest(key);
    const file = join(directory, 'info.json');
    let text: string | undefined;
    try {
      text = readIfPresent(file);
    } catch (err) {
      // An unreadable info file is the same as none.
      if (hasCode(err, 'resource_exhausted')) throw err;
      return undefined;
    }
    if (text === undefined) return undefined;
    try {
      const info = parseIngest(JSON.parse(text), file);
      const data = this.#dataOf(key);
      return data === undefined ? undefined : {...info, key, offset: data.size, updatedAt: data.mtime.toISOString()};
    } catch (err) {
      if (err instanceof SyntaxError || hasCode(err, 'data_loss')) return undefined; // torn by a power loss; the data is hashed again anyway
      throw fromErrno(err, `ingest ${key}`);
    }
  }

  /** The ingest's data file, if it exists and is a regular file. */
  #dataOf(key: string): Stats | undefined {
    try {
      const stat = lstatSync(join(this.#layout.ingest(key), 'data'), {throwIfNoEntry: false});
      return stat?.isFile() ? stat : undefined;
    } catch (err) {
      if ((err as NodeJS.ErrnoException).code === 'ENOTDIR') return undefined;
      throw fromErrno(err, `ingest ${key}`);
    }
  }

  discardIngest(key: string): void {
    try {
      removeTree(this.#layout.ingest(key));
    } catch (err) {
      throw fromErrno(err, `ingest ${key}`);
    }
  }

  /** As `discardIngest`, but a failure is a warning: the next collection tries again. */
  discardIngestQuietly(key: string): void {
    this.#housekeeping.attempt(`ingest ${key}`, () => this.discardIngest(key));
  }

  /** As `discardIngest`, unless the ingest is locked. @returns whether it was discarded */
  discardIdleIngest(key: string): boolean {
    return withFreeLock(this.#layout.lock(`ingest-${key}`), 'removal of an idle ingest', () => this.discardIngest(key));
  }

  /** Creates the ingest where it is missing. The caller holds its lock. @returns path of its data file, for `Ingest.open` in any thread */
  beginIngest(key: string, info: Omit<IngestInfo, 'startedAt'>): string {
    const directory = this.#layout.ingest(key);
    const [file, data] = [join(directory, 'info.json'), join(directory, 'data')];
    try {
      if (this.ingestState(key) === undefined) {
        const isReplaceable = ![file, data].some((path) => isNotFile(path));
        if (!isReplaceable) this.discardIngest(key);
        writeAtomic(file, `${JSON.stringify({version: RECORD_VERSION, ...info, startedAt: new Date().toISOString()})}\n`, {sync: false});
      }
    } catch (err) {
      throw fromErrno(err, `ingest ${info.ref}`);
    }
    return data;
  }

  /**
   * Publishes a finished ingest as a blob: `Ingest.finish` has synced the bytes; this renames the file and syncs the directory. An existing
   * blob is success.
   *
   * Order of steps after containerd, plugins/content/local/writer.go (Commit).
   *
   * @param options.syncName default true; with false, the caller syncs the name before a record refers to the blob
   */
  publish(key: string, digest: Digest, {syncName = true}: {readonly syncName?: boolean} = {}): void {
    const blob = this.path(digest);
    try {
      const data = join(this.#layout.ingest(key), 'data');
      chmodSync(data, 0o444);
      moveInto(data, blob, {sync: syncName});
      if (syncName) this.#noteSynced(digest);
      else this.#unsynced.add(digest);
    } catch (err) {
      throw fromErrno(err, `content ${digest}`);
    }
    this.discardIngestQuietly(key);
  }

  #inode(digest: Digest): number | undefined {
    return statSync(this.path(digest), {throwIfNoEntry: false})?.ino;
  }

  #noteSynced(digest: Digest): void {
    const inode = this.#inode(digest);
    if (inode !== undefined) this.#synced.set(digest, inode);
    this.#unsynced.delete(digest);
  }

  /** Whether this process has published the blob without syncing its name. */
  isUnsynced(digest: Digest): boolean {
    return this.#unsynced.has(digest);
  }

  /** Whether this process knows that the blob's name is durable. */
  isNameSynced(digest: Digest): boolean {
    const known = this.#synced.get(digest);
    return !this.#unsynced.has(digest) && known !== undefined && known === this.#inode(digest);
  }

  /** Syncs the names of blobs. Their bytes were synced before they got names. */
  syncNames(digests: readonly Digest[]): void {
    const directories = new Set<string>();
    for (const digest of digests)
      for (let path = dirname(this.path(digest)); path.length >= this.#layout.root.length; path = dirname(path)) directories.add(path);
    try {
      for (const directory of directories) syncPath(directory);
    } catch (err) {
      throw fromErrno(err, `content of ${this.#layout.root}`);
    }
    for (const digest of digests) this.#noteSynced(digest);
  }

  /**
   * Moves a blob to the trash, or deletes it where the trash is on another filesystem. A missing blob is success. The caller holds the
   * store's lock.
   */
  discard(digest: Digest, trash: string): void {
    try {
      moveToTrash(this.path(digest), trash);
    } catch (err) {
      if ((err as NodeJS.ErrnoException).code !== 'EXDEV') throw fromErrno(err, `content ${digest}`);
      removeTree(this.path(digest));
    }
  }
}

/** Whether `path` cannot be a regular file because something else is there or in the place of a parent directory. */
function isNotFile(path: string): boolean {
  try {
    return lstatSync(path, {throwIfNoEntry: false})?.isFile() === false;
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code === 'ENOTDIR') return true;
    throw err;
  }
}

/** Lifetime of an ingest without a lease or a lock, in milliseconds. */
const INGEST_LIFETIME_MS = 24 * 3600_000;

const CHUNK = 1 << 18;

/** Bytes between two background syncs of a download; they keep the final sync short. */
const FLUSH_EVERY = 16 << 20;

/**
 * The data file of one ingest. Bytes are hashed as they are appended and synced in the background. Synchronous, for a worker thread.
 *
 * An ingest survives its process: opening it hashes the existing bytes and resumes after them.
 */
export class Ingest {
  readonly #what: string;
  readonly #expected: Expected;
  readonly #algorithm: string;
  readonly #path: string;
  #hash: Hash;
  #fd: number;
  #offset = 0;
  /** Bytes that are synced, or for which a sync has started. */
  #flushed = 0;
  #flushing = false;

  private constructor(path: string, fd: number, expected: Expected, what: string) {
    this.#path = path;
    this.#fd = fd;
    this.#expected = expected;
    this.#what = what;
    this.#algorithm = expected.digest === undefined ? 'sha256' : digestParts(expected.digest)[0];
    this.#hash = createHash(this.#algorithm);
  }

  /** @param path from `BlobStore.beginIngest` @param expected bytes beyond its size are refused; without a digest, SHA-256 is computed */
  static open(path: string, expected: Expected, what: string): Ingest {
    const ingest = Ingest.reopen(path, expected, what);
    for (const _ of ingest.existing());
    return ingest;
  }

  /** As `open`, but the caller exhausts `existing` before any other call. */
  static reopen(path: string, expected: Expected, what: string): Ingest {
    let fd: number | undefined;
    try {
      fd = openSync(path, 'a+', 0o600);
      const size = fstatSync(fd).size;
      if (size > (expected.size ?? size)) ftruncateSync(fd, 0);
      return new Ingest(path, fd, expected, what);
    } catch (err) {
      if (fd !== undefined) closeSync(fd);
      throw fromErrno(err, what);
    }
  }

  /** Yields the existing bytes in order and hashes them. A chunk is valid until the next one. */
  *existing(): Generator<Uint8Array> {
    const buffer = Buffer.allocUnsafe(CHUNK);
    for (;;) {
      let n: number;
      try {
        n = readSync(this.#fd, buffer, 0, CHUNK, this.#offset);
      } catch (err) {
        // Unreadable bytes are fetched again.
        this.truncate();
        throw fromErrno(err, this.#what);
      }
      if (n === 0) break;
      const chunk = buffer.subarray(0, n);
      this.#hash.update(chunk);
      this.#offset += n;
      yield chunk;
    }
    this.#flushed = this.#offset;
  }

  /** Updates the modification time, so that a stalled download does not look abandoned. */
  touch(): void {
    futimesSync(this.#fd, new Date(), new Date());
  }

  /** Bytes so far: where the download resumes. */
  get offset(): number {
    return this.#offset;
  }

  /** @throws failed_precondition more bytes than expected @throws resource_exhausted the disk is full; the bytes written so far are kept */
  write(chunk: Uint8Array): void {
    const {size} = this.#expected;
    if (size !== undefined && this.#offset + chunk.length > size)
      throw new ErrdefsError('failed_precondition', `${this.#what} is longer than the ${size} B expected`);
    let done = 0;
    try {
      while (done < chunk.length) done += writeSync(this.#fd, chunk, done);
    } catch (err) {
      throw fromErrno(err, this.#what);
    } finally {
      this.#hash.update(done === chunk.length ? chunk : chunk.subarray(0, done));
      this.#offset += done;
    }
    if (this.#offset - this.#flushed > FLUSH_EVERY && !this.#flushing) this.#flush();
  }

  digest(): Digest {
    return `${this.#algorithm}:${this.#hash.copy().digest('hex')}` as Digest;
  }

  truncate(): void {
    try {
      ftruncateSync(this.#fd, 0);
    } catch (err) {
      throw fromErrno(err, this.#what);
    }
    this.#hash = createHash(this.#algorithm);
    this.#offset = 0;
    this.#flushed = 0;
  }

  /** Starts a sync in the background. Its failure is reported by the next `sync`. */
  #flush(): void {
    this.#flushed = this.#offset;
    try {
      // Its own descriptor: the sync may outlast this ingest.
      const fd = openSync(this.#path, 'r');
      this.#flushing = true;
      fsync(fd, () => {
        this.#flushing = false;
        closeSync(fd);
      });
    } catch (err) {
      throw fromErrno(err, this.#what);
    }
  }

  sync(): void {
    try {
      fsyncSync(this.#fd);
      this.#flushed = this.#offset;
    } catch (err) {
      throw fromErrno(err, this.#what);
    }
  }

  /**
   * Verifies the bytes and syncs them.
   *
   * @throws failed_precondition size or digest differ; complete bytes with a wrong digest are discarded
   */
  finish(): {digest: Digest; size: number} {
    try {
      return {digest: verifyExpected(this.#what, {size: this.#offset, digest: () => this.digest()}, this.#expected), size: this.#offset};
    } catch (err) {
      if (this.#offset === (this.#expected.size ?? this.#offset)) this.truncate();
      throw err;
    } finally {
      this.sync();
    }
  }

  /** Closes the file; the bytes stay. */
  close(): void {
    if (this.#fd < 0) return;
    closeSync(this.#fd);
    this.#fd = -1;
  }
}
