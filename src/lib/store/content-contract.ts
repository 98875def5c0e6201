/**
 * The contract of a content store: blobs by digest, as one namespace sees them. `local-content-store.ts` keeps them on disk, the store in
 * test/support/content-memory.ts in memory; test/suites/content.ts runs over both.
 *
 * Semantics after containerd, core/content/content.go. Content is shared between namespaces as in its metadata store.
 */
import {ErrdefsError} from '../errdefs.ts';
import type {Digest} from '../oci/descriptor.ts';
import type {ContentRecord, Labels} from './records.ts';

/** Expected size and digest of a blob that is being written. */
export interface Expected {
  /** Bytes. */
  readonly size?: number;
  readonly digest?: Digest;
}

export interface ContentStatus {
  readonly ref: string;
  /** Bytes written so far. */
  readonly offset: number;
  /** Expected size in bytes; 0 when unknown. */
  readonly total: number;
  /** RFC 3339, UTC. */
  readonly startedAt: string;
  readonly updatedAt: string;
}

/** Writes one blob. Its ingest outlives a writer that is closed without a commit, and the process. */
export interface ContentWriter extends Disposable {
  readonly ref: string;
  /** Bytes written so far: where the source resumes. The whole size where another namespace has the expected content. */
  readonly offset: number;
  /**
   * @throws failed_precondition more bytes than expected, or the writer is closed
   * @throws resource_exhausted the disk is full; the bytes written so far are kept
   */
  write(chunk: Uint8Array): void;
  /** Digest of the bytes written so far. */
  digest(): Digest;
  status(): ContentStatus;
  /** Discards the bytes written so far. */
  truncate(): void;
  /**
   * Makes the blob durable and visible in the namespace. Closes the writer, also on failure.
   *
   * @param expected checked in addition to what `writer` was given
   * @throws failed_precondition size or digest differ; the bytes stay for the next writer of the ref
   * @throws already_exists the namespace has this content; the bytes are discarded
   * @throws aborted shared content of another namespace was removed meanwhile
   */
  commit(expected?: Expected, options?: {readonly labels?: Labels}): Promise<ContentRecord>;
  /** Unlocks the ref; the bytes stay. A second call does nothing. */
  close(): void;
  /** Closes the writer and discards its ingest. */
  discard(): void;
}

export interface ContentReader extends Disposable {
  /** Bytes. */
  readonly size: number;
  /** Fills `buffer` from `position` on. @returns bytes read; fewer than asked for only at the end */
  read(buffer: Uint8Array, position: number): number;
  close(): void;
}

export interface ContentStore {
  readonly namespace: string;
  /** @throws not_found */
  info(digest: Digest): ContentRecord;
  /** Sorted by digest. */
  list(): readonly ContentRecord[];
  /** Streams the blob. @throws not_found @throws data_loss the blob is missing on disk, or not all of it is there */
  read(digest: Digest): AsyncIterable<Uint8Array>;
  /** Errors as `read`. */
  open(digest: Digest): ContentReader;
  /**
   * Starts or resumes an ingest.
   *
   * @param ref name of the ingest, private to the namespace. An earlier ingest of the same ref is resumed unless its expected size differs.
   * @throws invalid_argument the ref is empty
   * @throws unavailable another writer has the ref
   * @throws already_exists the namespace has the expected digest
   * @throws canceled | deadline_exceeded `signal` was aborted while another writer had the ref
   */
  writer(ref: string, expected?: Expected, options?: {readonly signal?: AbortSignal | undefined}): Promise<ContentWriter>;
  /** Ingests of this namespace, sorted by ref. */
  statuses(): readonly ContentStatus[];
  /** @throws not_found */
  status(ref: string): ContentStatus;
  /** @throws not_found @throws unavailable a writer has it */
  abort(ref: string): void;
  /** @throws not_found */
  delete(digest: Digest): Promise<void>;
  /**
   * Sets labels; an empty value removes a label.
   *
   * @param options.replaceAll remove all other labels
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

/** @throws failed_precondition size or digest differ. Messages after containerd, plugins/content/local/writer.go. */
export function verifyExpected(what: string, actual: {readonly size: number; digest(): Digest}, {size, digest}: Expected): Digest {
  if (actual.size !== (size ?? actual.size))
    throw new ErrdefsError('failed_precondition', `${what}: unexpected commit size ${actual.size}, expected ${size}`);
  const found = actual.digest();
  if (found !== (digest ?? found))
    throw new ErrdefsError('failed_precondition', `${what}: unexpected commit digest ${found}, expected ${digest}`);
  return found;
}
