/** Images that are made from images. */
import type {ImageRecord} from '../../store/records.ts';
import type {ProgressEvent} from './common.ts';

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
}
