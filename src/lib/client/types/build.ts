/** Images that are made from images. */
import type {Digest} from '../../oci/descriptor.ts';
import type {ImageRecord} from '../../store/records.ts';
import type {ContainerChange, ProgressEvent} from './common.ts';

/** Options of every method that makes an image from another one. */
export interface BuildOptions {
  /** Manifests of an index that the new image has, such as `linux/arm64`; several are allowed. Default: this machine's. */
  readonly platforms?: readonly string[];
  readonly allPlatforms?: boolean;
  readonly onEvent?: (event: ProgressEvent) => void;
  readonly signal?: AbortSignal;
}

/** How a new layer is compressed. */
export interface LayerCompression {
  readonly compression?: 'gzip' | 'zstd' | 'none';
  /** 1 to 9 for gzip (default 6), 1 to 22 for zstd (default 3). */
  readonly level?: number;
}

/** When an image was made. */
export interface CreatedOption {
  /** RFC 3339, for the config and its history. Default: what the source has, so that the same input gives the same digest. */
  readonly created?: string;
}

/** Options of `images.convert`. */
export interface ConvertOptions extends BuildOptions, LayerCompression {
  /** Media types of the result. Default: those of the source. */
  readonly format?: 'oci' | 'docker';
}

/** Options of `images.flatten`. */
export interface FlattenOptions extends BuildOptions, LayerCompression, CreatedOption {}

/** Options of `images.append`. */
export interface AppendOptions extends BuildOptions, LayerCompression, CreatedOption {}

/** Changes of an image's config and manifest. Each list of `KEY=VALUE` sets; `KEY` alone removes. */
export interface MutateOptions extends BuildOptions, CreatedOption {
  readonly env?: readonly string[];
  readonly labels?: readonly string[];
  /** Annotations of the manifest; docker's has none. */
  readonly annotations?: readonly string[];
  /** Replaces Entrypoint and removes Cmd, as docker does; empty removes. */
  readonly entrypoint?: readonly string[];
  /** Replaces Cmd; empty removes. */
  readonly cmd?: readonly string[];
  /** Empty removes. */
  readonly user?: string;
  /** Empty removes. */
  readonly workdir?: string;
  /** Ports to add, such as `8080` or `53/udp`. */
  readonly expose?: readonly string[];
  /** Of the new entry in the history. */
  readonly comment?: string;
}

/** Options of `images.rebase`. */
export interface RebaseOptions extends BuildOptions, CreatedOption {
  /** Image whose layers the source begins with. Default: what the source's annotations name, `org.opencontainers.image.base.digest` of `….base.name`. */
  readonly oldBase?: string;
  /** Image whose layers take their place. Default: the image that `org.opencontainers.image.base.name` names now. */
  readonly newBase?: string;
}

/** Options of `images.changes`. */
export interface ImageChangesOptions extends UnpackImageOptions {
  readonly snapshotter?: string;
}

/** Options of `images.unpack`. */
export interface UnpackImageOptions {
  /** Such as `linux/arm64`. Default: this machine's. */
  readonly platform?: string;
  readonly signal?: AbortSignal;
}

/** An image unpacked in a directory of its own, with umoci's layout: config.json, rootfs, umoci.json and an mtree file. */
export interface Bundle {
  /** Absolute path. */
  readonly directory: string;
  /** Name of the image. */
  readonly image: string;
  /** Of the manifest. */
  readonly digest: Digest;
}

/** Options of `images.repack`. */
export interface RepackOptions extends LayerCompression {
  readonly author?: string;
  /** Comment in the history. */
  readonly message?: string;
  /** RFC 3339, for config and history; later mtimes in the layer become this. Default: now, and the mtimes as they are. */
  readonly created?: string;
  /** Paths of the tree at which, and below which, changes are left out. */
  readonly maskPaths?: readonly string[];
  /** Leaves out the image's volumes. Default true. */
  readonly maskVolumes?: boolean;
  /** Lets the bundle be one of the new image afterwards. */
  readonly refreshBundle?: boolean;
  /** In which the image is unpacked for the comparison. */
  readonly snapshotter?: string;
  readonly onEvent?: (event: ProgressEvent) => void;
  readonly signal?: AbortSignal;
}

/**
 * Makes images from images. The source stays; the target is replaced if it exists, when the new image is complete. What does not change is
 * shared. The same input gives the same digest.
 */
export interface ImageBuildClient {
  /** Changes media types and the compression of layers. The layers' contents stay, and are verified where they are compressed anew. */
  convert(source: string, target: string, options?: ConvertOptions): Promise<ImageRecord>;
  /** Makes one layer of all, without whiteouts. */
  flatten(source: string, target: string, options?: FlattenOptions): Promise<ImageRecord>;
  /** Adds layers. @param layers tars, plain or compressed, the lowest first: paths of files, or their bytes */
  append(
    source: string,
    target: string,
    layers: readonly (string | AsyncIterable<Uint8Array>)[],
    options?: AppendOptions,
  ): Promise<ImageRecord>;
  /** Changes the config, and annotations of the manifest. */
  mutate(source: string, target: string, options?: MutateOptions): Promise<ImageRecord>;
  /** Replaces the lowest layers, those of `oldBase`, by those of `newBase`. @throws failed_precondition the source does not begin with them */
  rebase(source: string, target: string, options?: RebaseOptions): Promise<ImageRecord>;
  /** What the top layer of an image changes in the tree of those below it, by name. @throws not_found */
  changes(ref: string, options?: ImageChangesOptions): Promise<readonly ContainerChange[]>;
  /**
   * Unpacks an image into a new or empty directory, which a runtime runs as a bundle, and `repack`, or `umoci repack`, makes an image of.
   * After a failure the directory is empty.
   *
   * @throws not_found @throws failed_precondition the directory is not empty
   */
  unpack(ref: string, directory: string, options?: UnpackImageOptions): Promise<Bundle>;
  /**
   * Makes an image of what was changed in a bundle, on top of the image that it was unpacked from. Nothing may change its tree meanwhile.
   * Without changes the image is the same one.
   *
   * @throws not_found the namespace does not have that image
   * @throws failed_precondition the directory is no bundle
   */
  repack(directory: string, target: string, options?: RepackOptions): Promise<ImageRecord>;
}
