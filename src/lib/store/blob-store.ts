/** The bytes that all namespaces share: finished blobs by digest, and downloads under way. What a namespace sees of them stands in its content records. */
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
import {type Expected, verifyExpected} from './content.ts';
import {Housekeeping} from './housekeeping.ts';
import {moveToTrash} from './layer-store.ts';
import type {Layout} from './layout.ts';
import {DEEP_REPAIR_HINT, REPAIR_HINT} from './record-files.ts';
import type {IngestInfo} from './records.ts';
import {parseIngest, RECORD_VERSION} from './schema.ts';

/** Hash for a digest's algorithm. */
export const hashFor = (digest: Digest): Hash => createHash(digestParts(digest)[0]);

export interface IngestState extends IngestInfo {
  readonly key: string;
  /** Bytes so far. */
  readonly offset: number;
  readonly updatedAt: string;
}

/** Directory name of the download of a digest: one for all who want it. */
export const downloadKey = (digest: Digest): string => digest.replace(':', '-');

/** Directory name of an ingest that a user named: his namespace's alone. */
export const ingestKey = (namespace: string, ref: string): string =>
  `ref-${createHash('sha256').update(`${namespace}\0${ref}`).digest('hex')}`;

/** Whether an entry among the ingests can be one. */
export const isIngestKey = (name: string): boolean => /^ref-[0-9a-f]{64}$/.test(name) || isDigest(name.replace('-', ':'));

export class BlobStore {
  readonly #layout: Layout;
  readonly #housekeeping: Housekeeping;
  /** Blobs whose names this process has brought to the disk, with their inodes: another may have replaced one since. */
  readonly #synced = new Map<Digest, number>();
  /** Blobs that this process has given names that may not be on the disk. */
  readonly #unsynced = new Set<Digest>();

  constructor(layout: Layout, housekeeping = new Housekeeping()) {
    this.#layout = layout;
    this.#housekeeping = housekeeping;
  }

  path(digest: Digest): string {
    return this.#layout.blob(digest);
  }

  /** Bytes of the blob, or `undefined` when it is not here. */
  size(digest: Digest): number | undefined {
    let stat: Stats | undefined;
    try {
      stat = statSync(this.path(digest), {throwIfNoEntry: false});
    } catch (err) {
      throw fromErrno(err, `content ${digest}`);
    }
    if (stat?.isFile() === false) throw this.#noFile(digest);
    return stat?.size;
  }

  #noFile(digest: Digest): ErrdefsError {
    return new ErrdefsError('data_loss', `content ${digest} is not a file on disk`, {
      hint: REPAIR_HINT,
      details: {path: this.path(digest)},
    });
  }

  /**
   * Whether the blob is here, whole.
   *
   * @throws failed_precondition it is, and the descriptor says another size
   * @throws data_loss a file of that name has another size
   */
  has(desc: Pick<Descriptor, 'digest' | 'size'>): boolean {
    const size = this.size(desc.digest);
    if (size === undefined) return false;
    if (size === desc.size) return true;
    // A stranger's manifest must not talk us into taking good bytes for damaged ones.
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
   * A document, whole, or `undefined`. Its digest is checked.
   *
   * @throws failed_precondition it is larger than any document may be: whoever called it one was wrong
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
      throw code === 'EISDIR' ? this.#noFile(digest) : fromErrno(err, `content ${digest}`);
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
   * The blob's bytes in order, hashed as they go.
   *
   * @throws not_found at the first read @throws data_loss after the last byte: they are not what `digest` says
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
   * Makes a small blob visible; its name is to be settled. Content already there is success.
   *
   * @param bytes what `digest` names, as the caller has checked
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

  /** All finished blobs. */
  list(): readonly Digest[] {
    return Object.keys(DIGEST_HEX_LENGTH).flatMap((algorithm) =>
      listIfPresent(join(this.#layout.blobs, algorithm))
        .map((hex) => `${algorithm}:${hex}`)
        .filter(isDigest),
    );
  }

  /** Removes what killed processes left half-written. */
  sweep(): void {
    const directories = [
      ...Object.keys(DIGEST_HEX_LENGTH).map((algorithm) => join(this.#layout.blobs, algorithm)),
      ...this.ingests().map((key) => this.#layout.ingest(key)),
    ];
    for (const directory of directories) this.#housekeeping.attempt(directory, () => sweepTemporary(directory));
  }

  /** Takes the ingest `key` for this process alone. Whoever waits here continues from the bytes that the other one got. */
  lock(key: string, options: LockOptions): Promise<Lock> {
    return acquireLock(this.#layout.lock(`ingest-${key}`), options);
  }

  isIngestHeld(key: string): boolean {
    return isLockHeld(this.#layout.lock(`ingest-${key}`));
  }

  /** Directories of all ingests. */
  ingests(): readonly string[] {
    return listIfPresent(this.#layout.ingests).filter(isIngestKey);
  }

  /**
   * Ingests that nobody holds, and that nobody has gone on with for a day, or cannot: one without bytes has not begun, or
   * is finished, and its process was killed before it was gone.
   *
   * @param now milliseconds since the epoch
   */
  staleIngests(now: number): readonly string[] {
    return this.ingests().filter((key) => {
      const data = this.#dataOf(key);
      return (data === undefined || now - data.mtimeMs > INGEST_LIFETIME_MS) && !this.isIngestHeld(key);
    });
  }

  /** @returns `undefined` when there is no such ingest, or its first step was not finished or is lost, or its last one was done */
  ingestState(key: string): IngestState | undefined {
    const directory = this.#layout.ingest(key);
    const file = join(directory, 'info.json');
    let text: string | undefined;
    try {
      text = readIfPresent(file);
    } catch (err) {
      // Something else is in its place, or the disk does not give it back.
      if (hasCode(err, 'resource_exhausted')) throw err;
      return undefined;
    }
    if (text === undefined) return undefined;
    try {
      const info = parseIngest(JSON.parse(text), file);
      const data = this.#dataOf(key);
      return data === undefined ? undefined : {...info, key, offset: data.size, updatedAt: data.mtime.toISOString()};
    } catch (err) {
      if (err instanceof SyntaxError || hasCode(err, 'data_loss')) return undefined; // torn: its bytes will be hashed anyhow
      throw fromErrno(err, `ingest ${key}`);
    }
  }

  /** The bytes of an ingest, where it has a file for them. */
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

  /** As `discardIngest`, of what is done with: what cannot be removed is left to a collection, with a warning. */
  discardIngestQuietly(key: string): void {
    this.#housekeeping.attempt(`ingest ${key}`, () => this.discardIngest(key));
  }

  /** As `discardIngest`, unless somebody works on it. @returns whether it is gone */
  discardIdleIngest(key: string): boolean {
    return withFreeLock(this.#layout.lock(`ingest-${key}`), 'removal of an idle ingest', () => this.discardIngest(key));
  }

  /** Path of an ingest's bytes, for `Ingest.open` in whichever thread writes them. The caller holds its lock. */
  beginIngest(key: string, info: Omit<IngestInfo, 'startedAt'>): string {
    const directory = this.#layout.ingest(key);
    const [file, data] = [join(directory, 'info.json'), join(directory, 'data')];
    try {
      if (this.ingestState(key) === undefined) {
        const isReplaceable = ![file, data].some((path) => isNoFile(path));
        if (!isReplaceable) this.discardIngest(key);
        writeAtomic(file, `${JSON.stringify({version: RECORD_VERSION, ...info, startedAt: new Date().toISOString()})}\n`, {sync: false});
      }
    } catch (err) {
      throw fromErrno(err, `ingest ${info.ref}`);
    }
    return data;
  }

  /**
   * Makes a finished ingest visible as a blob. Durable before visible: `Ingest.finish` has synced the bytes; here the file
   * is renamed and the directory synced. Content already there is success.
   *
   * @param options.syncName default true; false: its name is to be settled before a record has it
   *
   * Order of steps after containerd, plugins/content/local/writer.go (Commit).
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

  /** Whether this process has made a blob visible and its name is still to be settled. */
  isUnsynced(digest: Digest): boolean {
    return this.#unsynced.has(digest);
  }

  /** Whether this process knows that a blob's name is on the disk. */
  isNameSynced(digest: Digest): boolean {
    const known = this.#synced.get(digest);
    return !this.#unsynced.has(digest) && known !== undefined && known === this.#inode(digest);
  }

  /** Brings the names of these blobs to the disk; their bytes are, since before they had names. */
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

  /** Moves a blob out of sight, if it is there; where the trash is on another filesystem, deletes it. The caller holds the store's lock. */
  discard(digest: Digest, trash: string): void {
    try {
      moveToTrash(this.path(digest), trash);
    } catch (err) {
      if ((err as NodeJS.ErrnoException).code !== 'EXDEV') throw fromErrno(err, `content ${digest}`);
      removeTree(this.path(digest));
    }
  }
}

/** Whether something is at `path`, or on the way to it, that cannot be replaced by a file, or appended to. */
function isNoFile(path: string): boolean {
  try {
    return lstatSync(path, {throwIfNoEntry: false})?.isFile() === false;
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code === 'ENOTDIR') return true;
    throw err;
  }
}

/** How long a download that nobody leases and nobody works on is kept, in milliseconds. */
const INGEST_LIFETIME_MS = 24 * 3600_000;

const CHUNK = 1 << 18;

/** Bytes after which a download's way to the disk is begun, so that the last wait for it is short. */
const FLUSH_EVERY = 16 << 20;

/**
 * One download's bytes: appended, hashed as they come, flushed on the way. Synchronous, for a worker thread.
 *
 * An ingest survives its process. Opening it again hashes what is there, so that it goes on where the other one stopped.
 */
export class Ingest {
  readonly #what: string;
  readonly #expected: Expected;
  readonly #algorithm: string;
  readonly #path: string;
  #hash: Hash;
  #fd: number;
  #offset = 0;
  /** Bytes that are on the disk, or on their way. */
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

  /**
   * @param path as `BlobStore.beginIngest` gave it
   * @param expected what was expected; bytes beyond a expected size are refused. Without a digest SHA-256 is taken.
   */
  static open(path: string, expected: Expected, what: string): Ingest {
    const ingest = Ingest.reopen(path, expected, what);
    for (const _ of ingest.existing());
    return ingest;
  }

  /** As `open`, but `existing` is the caller's to exhaust before anything else. */
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

  /** The bytes that an earlier attempt left, in order, hashed as they are taken; a chunk is valid until the next one. */
  *existing(): Generator<Uint8Array> {
    const buffer = Buffer.allocUnsafe(CHUNK);
    for (;;) {
      let n: number;
      try {
        n = readSync(this.#fd, buffer, 0, CHUNK, this.#offset);
      } catch (err) {
        // What the disk does not give back is fetched again.
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

  /** Shows that somebody works on it, while nothing is written. */
  touch(): void {
    futimesSync(this.#fd, new Date(), new Date());
  }

  /** Bytes so far: where the download goes on. */
  get offset(): number {
    return this.#offset;
  }

  /** @throws failed_precondition more bytes than expected @throws resource_exhausted the disk is full; the bytes so far are kept */
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

  /** Digest of the bytes so far. */
  digest(): Digest {
    return `${this.#algorithm}:${this.#hash.copy().digest('hex')}` as Digest;
  }

  /** Throws the bytes away. */
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

  /** Begins to bring the bytes so far to the disk, while more come. What goes wrong with it, `sync` is told too. */
  #flush(): void {
    this.#flushed = this.#offset;
    try {
      // A descriptor of its own: it may take longer than this ingest is open.
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

  /** Brings the bytes so far to the disk. */
  sync(): void {
    try {
      fsyncSync(this.#fd);
      this.#flushed = this.#offset;
    } catch (err) {
      throw fromErrno(err, this.#what);
    }
  }

  /**
   * Checks what arrived against what was expected at the beginning, and brings it to the disk.
   *
   * @throws failed_precondition size or digest differ; bytes of a wrong digest are thrown away, they cannot be completed
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

  /** Gives the descriptor back; the bytes stay. */
  close(): void {
    if (this.#fd < 0) return;
    closeSync(this.#fd);
    this.#fd = -1;
  }
}
