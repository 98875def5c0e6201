/** Content: blobs, and downloads in progress. */
import type {ContentRecord, Labels} from '../../store/records.ts';
import type {ListOptions} from './common.ts';
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
export interface ContentPruneOptions {
  /** Changes nothing; the result is the same. */
  readonly dryRun?: boolean;
}

/** Result of `content.prune`. */
export interface ContentPruneResult {
  /** Layers whose manifests no longer refer to them, sorted. Other images, or other namespaces, may still have them. */
  readonly layers: readonly ContentRecord[];
}

/** Content of one namespace. */
export interface ContentClient {
  list(options?: ListOptions): Promise<readonly ContentRecord[]>;
  get(digest: string): Promise<ContentRecord>;
  /** Reads a blob and verifies its digest. @throws data_loss after the last byte: the digest does not match */
  open(digest: string): Promise<AsyncIterable<Uint8Array>>;
  ingest(
    key: string,
    source: AsyncIterable<Uint8Array>,
    options?: {readonly expectedSize?: number; readonly expectedDigest?: string; readonly labels?: Labels},
  ): Promise<ContentRecord>;
  /** Ingests. Filters can use the field `ref`. */
  active(options?: ListOptions): Promise<readonly IngestStatus[]>;
  delete(digest: string): Promise<void>;
  label(digest: string, labels: Labels): Promise<ContentRecord>;
  /**
   * Lets a person change a document in an editor, and stores the result as new content. The document itself stays.
   *
   * @param editor a command for a shell, to which the path of a file is added
   * @throws failed_precondition the content is larger than any document
   * @throws aborted the editor failed
   */
  edit(digest: string, editor: string): Promise<ContentRecord>;
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
