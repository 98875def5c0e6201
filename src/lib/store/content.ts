/**
 * The contract of a content store: bytes by digest, as one namespace sees them. `content-local.ts` keeps them on disk,
 * `content-memory.ts` in memory; test/suites/content.ts runs over both.
 *
 * Semantics after containerd, core/content/content.go, with content shared between namespaces as its metadata store does.
 */
import {ErrdefsError} from '../errdefs.ts';
import type {Digest} from '../oci/descriptor.ts';
import type {ContentRecord, Labels} from './records.ts';

/** What is known of some bytes before they are there. */
export interface Expected {
  /** Bytes. */
  readonly size?: number;
  readonly digest?: Digest;
}

/** How far a writer has come. */
export interface ContentStatus {
  readonly ref: string;
  /** Bytes so far. */
  readonly offset: number;
  /** Bytes expected; 0 when unknown. */
  readonly total: number;
  /** RFC 3339, UTC. */
  readonly startedAt: string;
  readonly updatedAt: string;
}

/** Content in the making. It outlives the writer that is closed without a commit, and the process. */
export interface ContentWriter extends Disposable {
  readonly ref: string;
  /** Bytes that are here: where the source goes on. All of them, where another namespace has the expected content. */
  readonly offset: number;
  /** @throws failed_precondition more bytes than expected, or the writer is closed @throws resource_exhausted the disk is full; the bytes so far are kept */
  write(chunk: Uint8Array): void;
  /** Digest of the bytes so far. */
  digest(): Digest;
  status(): ContentStatus;
  /** Throws away what was written. */
  truncate(): void;
  /**
   * Makes the bytes visible in the namespace, durably, and closes the writer, whatever happens.
   *
   * @param expected checked besides what was expected at the beginning
   * @throws failed_precondition size or digest are not as expected; the bytes stay, and the next writer of the ref has them
   * @throws already_exists the namespace has this content; the bytes are thrown away
   * @throws aborted content that another namespace had was removed meanwhile
   */
  commit(expected?: Expected, options?: {readonly labels?: Labels}): Promise<ContentRecord>;
  /** Gives the ref back; the bytes stay. A second call does nothing. */
  close(): void;
  /** Closes, and throws the bytes away; after a commit, what that left. */
  discard(): void;
}

/** Content to be read from any place. */
export interface ContentReader extends Disposable {
  /** Bytes. */
  readonly size: number;
  /** Fills `buffer` from `position` on. @returns bytes read; fewer than asked for at the end only */
  read(buffer: Uint8Array, position: number): number;
  close(): void;
}

export interface ContentStore {
  readonly namespace: string;
  /** @throws not_found */
  info(digest: Digest): ContentRecord;
  /** Sorted by digest. */
  list(): readonly ContentRecord[];
  /** The bytes in order. @throws not_found @throws data_loss they are not on disk, or not all */
  read(digest: Digest): AsyncIterable<Uint8Array>;
  /** Errors as `read`. */
  open(digest: Digest): ContentReader;
  /**
   * Begins or goes on writing.
   *
   * @param ref a name for it, the namespace's own; what an earlier writer of it has left is gone on with, unless that was expected another size
   * @throws invalid_argument the ref is empty @throws unavailable somebody is writing it
   * @throws already_exists the namespace has the expected digest
   */
  writer(ref: string, expected?: Expected): Promise<ContentWriter>;
  /** What is in the making in this namespace, sorted by ref. */
  statuses(): readonly ContentStatus[];
  /** @throws not_found */
  status(ref: string): ContentStatus;
  /** Throws away what is in the making. @throws not_found @throws unavailable somebody is writing it */
  abort(ref: string): void;
  /** @throws not_found */
  delete(digest: Digest): Promise<void>;
  /**
   * Sets labels; an empty value removes its label.
   *
   * @param options.replaceAll other labels go
   * @throws not_found
   */
  label(digest: Digest, labels: Labels, options?: {readonly replaceAll?: boolean}): Promise<ContentRecord>;
}

export const contentMissing = (digest: Digest): ErrdefsError => new ErrdefsError('not_found', `content ${digest}`);
export const contentExists = (digest: Digest): ErrdefsError => new ErrdefsError('already_exists', `content ${digest}`);
export const ingestMissing = (ref: string): ErrdefsError => new ErrdefsError('not_found', `ingest ${JSON.stringify(ref)}`);
export const writerClosed = (ref: string): ErrdefsError =>
  new ErrdefsError('failed_precondition', `writer of ${JSON.stringify(ref)} is closed`);

/** @throws invalid_argument */
export function validateRef(ref: string): void {
  if (ref === '') throw new ErrdefsError('invalid_argument', 'ref of an ingest must not be empty');
}

/** @throws failed_precondition some bytes are not as expected. Messages after containerd, plugins/content/local/writer.go. */
export function verifyExpected(what: string, actual: {readonly size: number; digest(): Digest}, {size, digest}: Expected): Digest {
  if (actual.size !== (size ?? actual.size))
    throw new ErrdefsError('failed_precondition', `${what}: unexpected commit size ${actual.size}, expected ${size}`);
  const found = actual.digest();
  if (found !== (digest ?? found))
    throw new ErrdefsError('failed_precondition', `${what}: unexpected commit digest ${found}, expected ${digest}`);
  return found;
}
