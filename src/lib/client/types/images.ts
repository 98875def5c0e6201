/** Images, and options for pulling, mounting, importing and exporting them. */
import type {Writable} from 'node:stream';
import type {ErrdefsError} from '../../errdefs.ts';
import type {Descriptor, Digest} from '../../oci/descriptor.ts';
import type {ImageRecord, Labels} from '../../store/records.ts';
import type {ImageBuildClient} from './build.ts';
import type {CallOptions, ListOptions, ProgressEvent, RegistryOptions} from './common.ts';
import type {HostMount} from './host-mounts.ts';
import type {SnapshotUsage} from './snapshots.ts';

/** Options of `pull`. */
export interface PullOptions extends RegistryOptions {
  /** Such as `linux/arm64`; several are allowed. Default: this machine's. */
  readonly platforms?: readonly string[];
  readonly allPlatforms?: boolean;
  /** Fetches manifests and configs of every platform, besides the layers of the chosen ones. Default false. */
  readonly allMetadata?: boolean;
  /** Default true. */
  readonly unpack?: boolean;
  readonly snapshotter?: string;
  /** Fails with `not_modified` when the image is current: complete, and unpacked. */
  readonly ifChanged?: boolean;
  /** Labels of the image record. */
  readonly labels?: Labels;
  /** Public keys in PEM; one of them must have signed the image, besides what the namespace's policy demands. */
  readonly verifyKeys?: readonly string[];
  /** Default 3; of `pullAll`, over all of its references. */
  readonly maxConcurrentDownloads?: number;
  /** Fetches a foreign layer that its registry does not serve from the URLs that its manifest names. Default false. */
  readonly allowForeign?: boolean;
  readonly onEvent?: (event: ProgressEvent) => void;
  readonly signal?: AbortSignal;
}

/** Outcome of one reference of `pullAll`. */
export type PullOutcome =
  | {readonly ref: string; readonly result: PullResult; readonly error?: undefined}
  | {readonly ref: string; readonly result?: undefined; readonly error: ErrdefsError};

/** Result of `pull`. */
export interface PullResult {
  readonly image: ImageRecord;
  /** Downloaded bytes. */
  readonly transferredBytes: number;
  readonly elapsedMs: number;
  /** Chain ID of the top layer for each platform; empty with `unpack: false`. */
  readonly unpacked: readonly {readonly platform: string; readonly chainID: Digest; readonly snapshotter: string}[];
  /** For example, that the image is for another platform. */
  readonly warnings: readonly string[];
}

/** A row of `images ls`. */
export interface ImageSummary extends ImageRecord {
  /** Compressed bytes of manifest, config and layers for this machine's platform; absent unless all of them are known. */
  readonly size?: number;
  /** Platforms of the image whose content is present, as `os/arch[/variant]`, sorted. */
  readonly platforms: readonly string[];
}

/** Completeness of an image, as `ctr images check` reports it. */
export interface ImageCheck {
  readonly name: string;
  readonly target: Descriptor;
  readonly status: 'complete' | 'incomplete' | 'unavailable' | 'error';
  /** Numbers of present and of needed objects; `need` is absent when the manifest is missing. */
  readonly have: number;
  readonly need?: number;
  readonly haveBytes: number;
  readonly needBytes?: number;
  readonly unpacked: boolean;
  readonly missing: readonly Digest[];
}

/** A descriptor and everything below it, for `images inspect`. */
export interface ImageTree {
  readonly descriptor: Descriptor;
  readonly present: boolean;
  /** The parsed document of an index, manifest or config; only with `content: true`. */
  readonly content?: unknown;
  readonly children: readonly ImageTree[];
}

/** Options of `images.mount`. */
export interface ImageMountOptions {
  /** Mounts the tree writable. Default false. */
  readonly rw?: boolean;
  readonly snapshotter?: string;
  /** Such as `linux/arm64`. Default: this machine's. */
  readonly platform?: string;
  readonly signal?: AbortSignal;
}

/** Options of `images.import`. */
export interface ImportOptions {
  /**
   * Repository for images that the archive names by a tag or digest only, and for those without a name. Where it is given, an image that
   * the specification's annotation gives another full name is left out, as in ctr. Default: `import-` and the date.
   */
  readonly baseName?: string;
  /** Names each image by its digest, too: `BASE@DIGEST`. An image without any name is named so in any case. */
  readonly digests?: boolean;
  /** With `digests`: only images without another name. */
  readonly skipDigestForNamed?: boolean;
  /** Name of the archive's whole index. */
  readonly indexName?: string;
  /** Such as `linux/arm64`; several are allowed. Default: this machine's. */
  readonly platforms?: readonly string[];
  readonly allPlatforms?: boolean;
  /** Default true. */
  readonly unpack?: boolean;
  readonly snapshotter?: string;
  /** Labels of the image records. */
  readonly labels?: Labels;
  readonly onEvent?: (event: ProgressEvent) => void;
  readonly signal?: AbortSignal;
}

/** Result of `images.import`. */
export interface ImportResult extends Pick<PullResult, 'unpacked' | 'elapsedMs' | 'warnings'> {
  readonly images: readonly ImageRecord[];
  /** Bytes of blobs read from the archive after its images were known. */
  readonly transferredBytes: number;
}

/** Options of `images.export`. */
export interface ExportOptions {
  /**
   * Such as `linux/arm64`; several are allowed. An index is written anew with these manifests only, which changes its digest. Default: the
   * index as it is, with the content of this machine's platform.
   */
  readonly platforms?: readonly string[];
  /** Content of all platforms; fails if any is missing. */
  readonly allPlatforms?: boolean;
  /** Leaves out `manifest.json`, by which docker reads the archive. */
  readonly skipManifestJSON?: boolean;
  /** Leaves out layers that registries need not have. */
  readonly skipNonDistributable?: boolean;
  /** Of the archive as a whole; not for a directory. Default `none`. */
  readonly compression?: 'none' | 'gzip' | 'zstd';
  readonly onEvent?: (event: ProgressEvent) => void;
  readonly signal?: AbortSignal;
}

/** Result of `images.export`. */
export interface ExportResult extends Pick<PullResult, 'unpacked' | 'elapsedMs' | 'warnings'> {
  /** Images as the archive has them; with `platforms`, an index may have another digest than in the store. */
  readonly images: readonly {readonly name: string; readonly target: Descriptor}[];
  /** Bytes of the blobs that were written. */
  readonly transferredBytes: number;
}

/** Options of `images.verify`. */
export interface VerifyOptions extends RegistryOptions {
  /** Public keys in PEM; one of them must have signed the image, besides what the namespace's policy demands. */
  readonly keys?: readonly string[];
  readonly signal?: AbortSignal;
}

/** A signature that was verified. */
export interface ImageSignature {
  readonly form: 'simple-signing' | 'bundle';
  /** SHA-256 of the key's DER form. */
  readonly key: string;
  /** Reference that the signer named; bundles have none. */
  readonly identity?: string;
}

/** Result of `images.verify`. */
export interface ImageVerification {
  readonly name: string;
  readonly target: Descriptor;
  /** One for the policy, and one for the caller's keys. */
  readonly signatures: readonly ImageSignature[];
}

/** Images of one namespace. */
export interface ImagesClient extends ImageBuildClient {
  list(options?: ListOptions): Promise<readonly ImageSummary[]>;
  /** As `list`, without size and platforms; reads no manifest. */
  records(options?: ListOptions): Promise<readonly ImageRecord[]>;
  get(name: string): Promise<ImageRecord>;
  delete(name: string, options?: CallOptions): Promise<void>;
  tag(source: string, target: string, options?: CallOptions & {readonly force?: boolean}): Promise<ImageRecord>;
  label(name: string, labels: Labels, options?: CallOptions & {readonly replaceAll?: boolean}): Promise<ImageRecord>;
  /**
   * Verifies that an image is signed: by signatures that a pull has kept, else by those in its registry.
   *
   * @throws failed_precondition it is not, or that cannot be verified
   */
  verify(name: string, options?: VerifyOptions): Promise<ImageVerification>;
  inspect(name: string, options?: {readonly content?: boolean}): Promise<ImageTree>;
  check(options?: ListOptions & {readonly snapshotter?: string}): Promise<readonly ImageCheck[]>;
  usage(name: string, options?: {readonly snapshotter?: string}): Promise<readonly SnapshotUsage[]>;
  /**
   * Mounts an image's tree until `unmount` or the end of the boot. The target is the key of its snapshot, and the ID of a lease that
   * protects the snapshot. A snapshot from an earlier mount at the target is reused.
   */
  mount(name: string, target: string, options?: ImageMountOptions): Promise<HostMount>;
  /** Mounts of images and snapshots of this namespace. */
  mounts(): Promise<readonly HostMount[]>;
  /**
   * Imports the images of an archive: an OCI layout, as a directory or a tar, or what `docker save` writes; plain, gzip or zstd.
   *
   * @param source a path, or the archive's bytes
   * @throws invalid_argument it is no such archive, or it is malformed @throws data_loss it is damaged
   * @throws failed_precondition a blob is not what its digest says
   * @throws not_found something is missing in it, or no image is left of it
   */
  import(source: string | AsyncIterable<Uint8Array>, options?: ImportOptions): Promise<ImportResult>;
  /**
   * Writes images as an OCI layout that docker reads as well.
   *
   * @param target a path; one that ends with a slash, or leads to a directory, for a layout directory. Or a stream, which is ended
   * @throws not_found an image, or content of it, is missing; the hint is the pull that would fetch it
   */
  export(target: string | Writable, names: readonly string[], options?: ExportOptions): Promise<ExportResult>;
  /** @param options.rm removes the image's snapshot, too; otherwise it is kept for 24 hours, or longer if it was writable */
  unmount(target: string, options?: CallOptions & {readonly rm?: boolean}): Promise<HostMount>;
}
