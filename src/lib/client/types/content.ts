/** Content: blobs, and downloads in progress. */
import type {ContentRecord, Labels} from '../../store/records.ts';
import type {ListOptions} from './common.ts';

/** A blob that is being written, or whose writing was interrupted. */
export interface IngestStatus {
  /** The key given to `content ingest`, or `<kind>-<digest>` for a download. */
  readonly ref: string;
  /** Bytes so far. */
  readonly offset: number;
  /** Bytes promised; 0 when unknown. */
  readonly total: number;
  readonly startedAt: string;
  readonly updatedAt: string;
}

/** Content of one namespace. */
export interface ContentClient {
  list(options?: ListOptions): Promise<readonly ContentRecord[]>;
  get(digest: string): Promise<ContentRecord>;
  /** Its bytes, hashed as they go. @throws data_loss after the last of them: they are not what the digest says */
  open(digest: string): Promise<AsyncIterable<Uint8Array>>;
  ingest(
    key: string,
    source: AsyncIterable<Uint8Array>,
    options?: {readonly expectedSize?: number; readonly expectedDigest?: string; readonly labels?: Labels},
  ): Promise<ContentRecord>;
  /** Filters see the field `ref`. */
  active(options?: ListOptions): Promise<readonly IngestStatus[]>;
  delete(digest: string): Promise<void>;
  label(digest: string, labels: Labels): Promise<ContentRecord>;
}
