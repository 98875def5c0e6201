/** Registries without a store: images are looked at, copied, referred to and deleted where they are. */
import type {Code, ErrorJSON} from '../../errdefs.ts';
import type {Descriptor, Digest} from '../../oci/descriptor.ts';
import type {HostPlan} from '../../remotes/explained-host.ts';
import type {ProgressEvent, RegistryOptions} from './common.ts';
import type {PushObjectOptions, PushObjectResult} from './push.ts';

/** Options of a call to a registry. */
export interface RegistryCallOptions extends RegistryOptions {
  readonly signal?: AbortSignal;
}

/** Options of `tags` and `catalog`. */
export interface RegistryListOptions extends RegistryCallOptions {
  /** The list ends after so many entries. */
  readonly limit?: number;
}

/** Options of calls that choose one image of an index. */
export interface RemoteImageOptions extends RegistryCallOptions {
  /** Such as `linux/arm64`. Default: this machine's. */
  readonly platform?: string;
}

/** A manifest, index or config as the registry has it. */
export interface RemoteObject {
  readonly descriptor: Descriptor;
  /** Of the size and digest of the descriptor. */
  readonly bytes: Uint8Array;
}

/** An image in a registry, with the member names of `skopeo inspect`. */
export interface RemoteImage {
  /** Repository, such as `docker.io/library/redis`. */
  readonly Name: string;
  /** Of what the reference names: of the index, if it is one. */
  readonly Digest: Digest;
  readonly Created?: string;
  readonly DockerVersion: string;
  readonly Labels: Readonly<Record<string, string>> | null;
  readonly Architecture: string;
  readonly Variant?: string;
  readonly Os: string;
  /** Digests of the layers, the lowest first. */
  readonly Layers: readonly Digest[];
  readonly LayersData: readonly {
    readonly MIMEType: string;
    readonly Digest: Digest;
    /** Bytes. */
    readonly Size: number;
    readonly Annotations: Readonly<Record<string, string>> | null;
  }[];
  readonly Env: readonly string[] | null;
}

/** Options of `attach`. */
export interface AttachOptions extends RegistryCallOptions {
  /**
   * A signature of the one file, in base64: it is attached as cosign attaches its own, under the tag `sha256-<hex>.sig`, where skopeo and
   * podman look for it. The file is the payload of a simple signing, and the artifact's type `application/vnd.dev.cosign.simplesigning.v1+json`.
   */
  readonly signature?: string;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly onEvent?: (event: ProgressEvent) => void;
}

/** A file for `attach`. */
export interface AttachFile {
  readonly path: string;
  /** Default `application/octet-stream`. */
  readonly mediaType?: string;
}

/** Options of `delete`. */
export interface RegistryDeleteOptions extends RegistryCallOptions {
  /** Deletes the manifest that a tag names, and with it all its other tags. Default: only the tag, if the registry can. */
  readonly manifest?: boolean;
}

/** Options of `copy`. */
export interface CopyOptions {
  /** For a source in a registry. */
  readonly source?: RegistryOptions;
  /** For a destination in a registry. */
  readonly destination?: RegistryOptions;
  /** Of an index, copies it and all its images. Default: only the image for one platform. */
  readonly all?: boolean;
  /** Such as `linux/arm64`. Default: this machine's. */
  readonly platform?: string;
  /** Copies the artifacts that refer to the image, too. Both ends must be registries. */
  readonly referrers?: boolean;
  /**
   * Media types of manifests, configs and layers. Default: as they are; in an OCI layout and a tar of one OCI's, unless `preserveDigests`
   * says otherwise, since skopeo and umoci read no others there.
   */
  readonly format?: 'oci' | 'docker';
  /** Fails rather than changing the digest of the image. */
  readonly preserveDigests?: boolean;
  /** Blobs to copy at once. Default 6. */
  readonly maxConcurrent?: number;
  readonly onEvent?: (event: ProgressEvent) => void;
  readonly signal?: AbortSignal;
}

/** Result of `copy`. */
export interface CopyResult {
  readonly source: string;
  readonly destination: string;
  /** What the destination has now. */
  readonly target: Descriptor;
  /** Blobs by what became of them. */
  readonly blobs: {readonly copied: number; readonly mounted: number; readonly exists: number};
  /** Bytes that were read from the source, without manifests. */
  readonly transferredBytes: number;
  readonly elapsedMs: number;
}

/** What `sync` copies: a list, YAML in the format of `skopeo sync`; or the images of a directory that a sync has filled. */
export type SyncSource = string | {readonly directory: string};

/** Options of `sync`. */
export interface SyncOptions extends Pick<CopyOptions, 'destination' | 'all' | 'platform' | 'maxConcurrent' | 'onEvent' | 'signal'> {
  /** For the sources, where the file says nothing else. */
  readonly source?: RegistryOptions;
  /** Puts the name of the registry and the whole repository below the destination, instead of the last component. */
  readonly scoped?: boolean;
  /** Appended to each tag of the destination. */
  readonly appendSuffix?: string;
  /** Lists what would be copied, and copies nothing. */
  readonly dryRun?: boolean;
  /** Copies the rest after a failure. */
  readonly keepGoing?: boolean;
  /** Gets the report when a failure or an abort ends the sync, before that is thrown. */
  readonly onReport?: (report: SyncResult) => void;
  /** Images to copy at once. Default 3. */
  readonly maxConcurrentImages?: number;
}

/** One image of `sync`. */
export interface SyncedImage {
  readonly source: string;
  readonly destination: string;
  /** `pending`: not reached when the sync ended. */
  readonly status: 'copied' | 'exists' | 'planned' | 'failed' | 'pending';
  readonly digest?: Digest;
  readonly transferredBytes?: number;
  readonly error?: ErrorJSON;
}

/** Result of `sync`. */
export interface SyncResult {
  readonly images: readonly SyncedImage[];
  readonly copied: number;
  readonly exists: number;
  readonly failed: number;
  readonly transferredBytes: number;
  readonly elapsedMs: number;
}

/** Options of `login`. Nothing is written before the registry has taken the credentials. */
export interface LoginOptions extends Omit<RegistryOptions, 'credentials' | 'refreshToken'> {
  readonly signal?: AbortSignal;
}

/** Where a login keeps its credentials. */
export interface LoginResult {
  readonly registry: string;
  readonly username: string;
  /** The changed file. */
  readonly file: string;
  /** The helper that has the password; without one, the file does. */
  readonly helper?: string;
  /** False where the registry asks for no credentials, so that these could not be checked. */
  readonly verified: boolean;
}

/** Options of `loggedIn`. */
export interface LoggedInOptions {
  /** The only file to use. Default: all that are read. */
  readonly authFile?: string;
  readonly signal?: AbortSignal;
}

/** Options of `logout`. */
export interface LogoutOptions extends LoggedInOptions {
  /** Removes the credentials of all registries. */
  readonly all?: boolean;
}

/** What a logout has removed. */
export interface LogoutResult {
  /** Registries, as the files name them, whose credentials are gone. */
  readonly registries: readonly string[];
  /** The changed files, and the helpers. */
  readonly from: readonly string[];
}

/** What a host answered to a ping. */
export interface HostAnswer {
  readonly url: string;
  readonly ms: number;
  /** `ok`, or the class of the failure. */
  readonly code: Code | 'ok';
  /** HTTP status. */
  readonly status?: number;
  /** Whether it wanted credentials and got some. */
  readonly credentials: boolean;
  readonly message?: string;
  readonly hint?: string;
}

/** How a host would be asked; no member is a secret. */
export interface ExplainedHost extends Omit<HostPlan, 'domain'> {
  /** Where credentials would be looked for, in order. Helpers are not asked. */
  readonly credentials: readonly {readonly source: string; readonly key?: string; readonly user?: string; readonly helper?: string}[];
}

/** How a registry would be asked. */
export interface RegistryExplanation {
  readonly registry: string;
  readonly repository?: string;
  /** In the order of use. */
  readonly hosts: readonly ExplainedHost[];
  /** URLs of the hosts that are asked what a tag names, for content, and to push to. */
  readonly order: {readonly tags: readonly string[]; readonly content: readonly string[]; readonly push: readonly string[]};
  /** Directories and files that were searched. */
  readonly hostsDirs: readonly string[];
  readonly credentialFiles: readonly string[];
}

/** Registries and archives. Needs no store, and makes none. References are those of `pull`. */
export interface RegistryClient {
  /** The descriptor of a tag or digest. @throws not_found */
  resolve(ref: string, options?: RegistryCallOptions): Promise<Descriptor>;
  /** The tags of a repository in the registry's order, requested page by page. */
  tags(repository: string, options?: RegistryListOptions): Promise<AsyncIterable<string>>;
  /** The repositories of a registry, as `tags`. @param registry its host, such as `registry.example:5000` */
  catalog(registry: string, options?: RegistryListOptions): Promise<AsyncIterable<string>>;
  /** Manifest and config of one image; reads no list of tags. */
  inspect(ref: string, options?: RemoteImageOptions): Promise<RemoteImage>;
  /** The config of one image. */
  config(ref: string, options?: RemoteImageOptions): Promise<RemoteObject>;
  /** The manifest or index that a reference names. */
  fetchObject(ref: string, options?: RegistryCallOptions): Promise<RemoteObject>;
  /** Any blob or manifest of the repository. @throws failed_precondition after the last byte: the digest does not match */
  fetchBlob(ref: string, digest: string, options?: RegistryCallOptions): Promise<AsyncIterable<Uint8Array>>;
  /**
   * Pushes one blob, manifest or index, and nothing that it refers to. A manifest gets the tag of the reference if that has one.
   *
   * @param source a file, or bytes, which are kept in a temporary file meanwhile
   */
  pushObject(ref: string, source: string | AsyncIterable<Uint8Array>, options?: PushObjectOptions): Promise<PushObjectResult>;
  /** Artifacts that refer to a manifest: by the referrers API, else by the tag `sha256-<hex>`. */
  referrers(ref: string, options?: RegistryCallOptions & {readonly artifactType?: string}): Promise<readonly Descriptor[]>;
  /**
   * Pushes files as an artifact that refers to a manifest.
   *
   * @param artifactType a media type, such as `application/vnd.example.sbom`
   * @returns the artifact's manifest; with `signature` that of all signatures of the image
   */
  attach(ref: string, artifactType: string, files: readonly AttachFile[], options?: AttachOptions): Promise<Descriptor>;
  /** Checks credentials at a registry, and keeps them where podman and docker find them. @param registry or `registry/repository` */
  login(registry: string, username: string, password: string, options?: LoginOptions): Promise<LoginResult>;
  /** Removes credentials. @param registry undefined with `all` @throws not_found there are none */
  logout(registry?: string, options?: LogoutOptions): Promise<LogoutResult>;
  /** The user name that is kept for a registry. @throws not_found there is none */
  loggedIn(registry: string, options?: LoggedInOptions): Promise<string>;
  /** Asks each host of a registry whether it speaks the protocol, with credentials. @param target a registry or a reference */
  ping(target: string, options?: RegistryCallOptions): Promise<readonly HostAnswer[]>;
  /** How the hosts of a registry would be asked; without a connection, and without asking helpers. */
  explain(target: string, options?: RegistryCallOptions): Promise<RegistryExplanation>;
  /** @returns the deleted name, `<repository>:<tag>` or `<repository>@<digest>` @throws not_implemented the registry does not delete this */
  delete(ref: string, options?: RegistryDeleteOptions): Promise<string>;
  /**
   * Copies an image from one place to another, without a store. A place is a reference, or `docker://`, `oci:`, `oci-archive:`,
   * `docker-archive:` or `dir:` as in skopeo. What the destination has is not copied again; what is half done is not visible there.
   */
  copy(source: string, destination: string, options?: CopyOptions): Promise<CopyResult>;
  /** Copies the images of a list, or of a directory, to a registry or a directory. */
  sync(source: SyncSource, destination: string, options?: SyncOptions): Promise<SyncResult>;
}
