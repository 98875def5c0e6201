/** Places that images are copied from and to. */
import type {Descriptor, Digest} from '../../oci/descriptor.ts';
import type {MediaTypeFamily} from '../../oci/mediatypes.ts';
import type {Reference} from '../../oci/reference.ts';

export type Repository = Pick<Reference, 'domain' | 'path'>;

/** A manifest or index. */
export interface Document {
  readonly descriptor: Descriptor;
  readonly bytes: Buffer;
}

/** A manifest or index, with all below it. */
export interface Node extends Document {
  readonly children: readonly Node[];
  readonly blobs: readonly Descriptor[];
}

/** One image, or one index with its images, to be read. */
export interface ImageSource {
  /** The place in full, for messages and results. */
  readonly name: string;
  /** Where blobs may be mounted from. */
  readonly repository?: Repository;
  /** The manifest or index that the place names. @throws not_found */
  root(): Promise<Document>;
  /** A manifest, index or config below the root, verified. @param limit most bytes to accept */
  document(desc: Descriptor, limit: number): Promise<Buffer>;
  /** Bytes of a blob from `offset` on. The caller verifies the digest. */
  blob(desc: Descriptor, offset: number): AsyncIterable<Buffer>;
  /** Tells that a blob did not have its digest. @returns whether another host may have it. Absent where there is only one */
  rejected?(desc: Descriptor): boolean;
  /** Manifests that refer to this one. Absent where a place cannot tell. */
  referrers?(subject: Digest): Promise<readonly Descriptor[]>;
  /** What a tag of the same repository names; absent where there are none. @returns undefined for a tag that does not exist */
  tagged?(tag: string): Promise<Document | undefined>;
  /** Closes files, removes temporary ones. */
  close(): Promise<void>;
}

/** What became of a blob. */
export type BlobOutcome = 'copied' | 'mounted' | 'exists';

export interface BlobOptions {
  /** A repository that has the blob; it counts only in the same registry. */
  readonly from?: Repository | undefined;
  /** @param offset bytes that the target has so far */
  readonly onProgress: (offset: number) => void;
}

/** Where one image is written. Calls for different blobs may run at once. */
export interface ImageTarget {
  /** The place in full, for messages and results. */
  readonly name: string;
  /** Whether layers of foreign media types, whose descriptors have URLs, stay where those lead. */
  readonly keepsForeignLayers: boolean;
  /** Whether a blob may be given again after it failed. */
  readonly takesAgain?: boolean;
  /** Whether the image always gets another digest in it. */
  readonly rewrites?: boolean;
  /** Media types that others expect there. */
  readonly format?: MediaTypeFamily;
  /** Whether the place names this one already, and has all below it. */
  isCurrent(root: Descriptor): Promise<boolean>;
  /** Whether it has this manifest and all below it. */
  hasManifest(desc: Descriptor): Promise<boolean>;
  /** Called with each image's manifest before its blobs come. Absent where only digests matter. @param read reads a document, verified */
  prepare?(document: Document, read: (desc: Descriptor, limit: number) => Promise<Buffer>): Promise<void>;
  /** @param open the verified bytes from `offset` on; may be called several times */
  blob(desc: Descriptor, open: (offset: number) => AsyncIterable<Buffer>, options: BlobOptions): Promise<BlobOutcome>;
  /** Called after everything below the manifest is there. */
  manifest(document: Document): Promise<void>;
  /** Makes the image visible under the name of the place, all at once. @returns what the place names now */
  commit(root: Document): Promise<Descriptor>;
  /** As `manifest`, of an artifact that refers to another manifest, and lists it there. Absent where a place cannot have any. */
  addReferrer?(subject: Digest, document: Document): Promise<void>;
  /** Puts a document under another tag of the repository, after all below it. */
  addTagged?(tag: string, document: Document): Promise<void>;
  /** Removes what was not committed. */
  close(): Promise<void>;
}
