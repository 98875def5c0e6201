/** Registries without a store: images are looked at, referred to and deleted where they are. */
import type {Descriptor, Digest} from '../../oci/descriptor.ts';
import type {ProgressEvent, RegistryOptions} from './common.ts';

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

/** Registries. Needs no store, and makes none. References are those of `pull`. */
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
  /** Artifacts that refer to a manifest: by the referrers API, else by the tag `sha256-<hex>`. */
  referrers(ref: string, options?: RegistryCallOptions & {readonly artifactType?: string}): Promise<readonly Descriptor[]>;
  /**
   * Pushes files as an artifact that refers to a manifest.
   *
   * @param artifactType a media type, such as `application/vnd.example.sbom`
   * @returns the artifact's manifest
   */
  attach(ref: string, artifactType: string, files: readonly AttachFile[], options?: AttachOptions): Promise<Descriptor>;
  /** @returns the deleted name, `<repository>:<tag>` or `<repository>@<digest>` @throws not_implemented the registry does not delete this */
  delete(ref: string, options?: RegistryDeleteOptions): Promise<string>;
}
