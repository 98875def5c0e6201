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
   * Pushes one object to a repository, without what it refers to; a manifest gets the tag of the reference if that has one.
   *
   * @throws not_found @throws data_loss it is damaged here; the registry does not get it
   */
  push(ref: string, digest: string, options?: PushObjectOptions): Promise<PushObjectResult>;
}
