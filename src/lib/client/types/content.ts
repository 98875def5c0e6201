/** Content: blobs, and downloads in progress. */
import type {ContentRecord, Labels} from '../../store/records.ts';
import type {ListOptions} from './common.ts';

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
}
