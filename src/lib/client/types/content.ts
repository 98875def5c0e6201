/** Content: blobs, and downloads in progress. */
import type {ContentRecord, Labels} from '../../store/records.ts';
import type {CallOptions, ListOptions} from './common.ts';
import type {PullOptions, PullResult} from './images.ts';
import type {PushObjectOptions, PushObjectResult} from './push.ts';

/** An ingest: a blob that is being written, or whose writing was interrupted. */
export interface IngestStatus {
  /** The key given to `content ingest`, or `<kind>-<digest>` for a download. */
  readonly ref: string;
  /** Bytes so far. */
  readonly offset: number;
  /** Expected bytes; 0 when unknown. */
  readonly total: number;
  readonly startedAt: string;
  readonly updatedAt: string;
}

/** Options of `content.prune`. */
export interface ContentPruneOptions extends CallOptions {
  /** Changes nothing; the result is the same. */
  readonly dryRun?: boolean;
}

/** Result of `content.prune`. */
export interface ContentPruneResult {
  /** Layers whose manifests no longer refer to them, sorted. Other images, or other namespaces, may still have them. */
  readonly layers: readonly ContentRecord[];
}

/** Size and digest that a blob must have. */
export interface ExpectedContent {
  /** Bytes. */
  readonly expectedSize?: number;
  readonly expectedDigest?: string;
}

/** Options of `ingest`. */
export interface IngestOptions extends ExpectedContent {
  readonly labels?: Labels;
  readonly signal?: AbortSignal;
}

/**
 * Writes one blob. What is written outlives the writer, and this process, until it is committed; it is removed a day after the last
 * write. One writer at a time has a ref.
 */
export interface ContentWriter {
  readonly ref: string;
  /** `offset` is where the source resumes; that of a new writer is 0. */
  status(): Promise<IngestStatus>;
  /** @throws failed_precondition more bytes than expected @throws resource_exhausted the disk is full; what was written is kept */
  write(chunk: Uint8Array): Promise<void>;
  /** Discards what was written. */
  truncate(): Promise<IngestStatus>;
  /**
   * Makes the blob durable and visible in the namespace, and closes the writer, also on failure.
   *
   * A blob that nothing refers to is collected with the next removal: give it a label `containerd.io/gc.root`, or add its digest to a lease
   * before.
   *
   * @throws failed_precondition size or digest differ; the bytes stay for the next writer of the ref
   * @throws already_exists the namespace has this content
   */
  commit(options?: ExpectedContent & {readonly labels?: Labels}): Promise<ContentRecord>;
  /** Frees the ref; what was written stays. A second call does nothing. */
  close(): Promise<void>;
}

/** Options of `fetch`. */
export interface FetchOptions extends Omit<PullOptions, 'unpack' | 'snapshotter' | 'ifChanged'> {
  /** Fetches manifests and configs of every platform, and no layers. Default false. */
  readonly metadataOnly?: boolean;
}

/** Content of one namespace. */
export interface ContentClient {
  /** Fetches the content of an image and names it, without unpacking. */
  fetch(ref: string, options?: FetchOptions): Promise<PullResult>;
  list(options?: ListOptions): Promise<readonly ContentRecord[]>;
  get(digest: string): Promise<ContentRecord>;
  /** Reads a blob and verifies its digest. @throws data_loss after the last byte: the digest does not match */
  open(digest: string, options?: {readonly signal?: AbortSignal}): Promise<AsyncIterable<Uint8Array>>;
  ingest(key: string, source: AsyncIterable<Uint8Array>, options?: IngestOptions): Promise<ContentRecord>;
  /**
   * Opens a writer, with what earlier ones of the ref have written, unless they expected another size.
   *
   * @param options.signal ends the wait for another writer of the ref, and that of `commit` for a lock
   * @throws unavailable another writer has the ref
   * @throws already_exists the namespace has the expected content
   */
  writer(ref: string, options?: ExpectedContent & {readonly signal?: AbortSignal}): Promise<ContentWriter>;
  /** Ingests. Filters can use the field `ref`. */
  active(options?: ListOptions): Promise<readonly IngestStatus[]>;
  delete(digest: string, options?: CallOptions): Promise<void>;
  label(digest: string, labels: Labels, options?: CallOptions): Promise<ContentRecord>;
  /**
   * Lets a person change a document in an editor, and stores the result as new content. The document itself stays.
   *
   * @param editor a command for a shell, to which the path of a file is added
   * @throws failed_precondition the content is larger than any document
   * @throws aborted the editor failed
   */
  edit(digest: string, editor: string, options?: CallOptions): Promise<ContentRecord>;
  /**
   * Gives up the blobs of layers that are unpacked, and syncs the unpacked layers. Containers run as before; an export or a push needs the
   * blobs, and the pull that fetches them again.
   */
  prune(options?: ContentPruneOptions): Promise<ContentPruneResult>;
  /**
   * Pushes one object to a repository, without what it refers to; a manifest gets the tag of the reference if that has one.
   *
   * @throws not_found @throws data_loss it is damaged here; the registry does not get it
   */
  push(ref: string, digest: string, options?: PushObjectOptions): Promise<PushObjectResult>;
}
