/** Options and results of pushing. */
import type {Descriptor} from '../../oci/descriptor.ts';
import type {ProgressEvent, RegistryOptions} from './common.ts';

/** Options of `push`. */
export interface PushOptions extends RegistryOptions {
  /** Name of the image to push. Default: the reference. */
  readonly from?: string;
  /** Pushes the manifest for this platform alone; such as `linux/arm64`. Default: all of the image, its index with every platform. */
  readonly platform?: string;
  /** Digest of a manifest or index of the namespace to push instead of an image. */
  readonly manifest?: string;
  /** Media type of `manifest`. Default: what it says of itself. */
  readonly manifestType?: string;
  /** Pushes foreign layers, too. Default: a registry does not get them, and their descriptors say where they are. */
  readonly allowNonDistributable?: boolean;
  /** Default 3. */
  readonly maxConcurrentUploads?: number;
  readonly onEvent?: (event: ProgressEvent) => void;
  readonly signal?: AbortSignal;
}

/** Numbers of objects (blobs, manifests, indexes) by what became of them. */
export interface PushedObjects {
  readonly uploaded: number;
  /** Taken over from another repository of the registry. */
  readonly mounted: number;
  /** Found there. */
  readonly existing: number;
  /** Foreign layers. */
  readonly skipped: number;
}

/** Result of `push`. */
export interface PushResult {
  /** The reference that was pushed to, in full. */
  readonly name: string;
  readonly target: Descriptor;
  /** Bytes of the uploaded objects. */
  readonly transferredBytes: number;
  readonly elapsedMs: number;
  readonly objects: PushedObjects;
  /** For example, that the image is for another platform. */
  readonly warnings: readonly string[];
}

/** Options of `content.push` and `registry.pushObject`. */
export interface PushObjectOptions extends RegistryOptions {
  /** Default: what a manifest or index says of itself, `application/octet-stream` for anything else. */
  readonly mediaType?: string;
  readonly onEvent?: (event: ProgressEvent) => void;
  readonly signal?: AbortSignal;
}

/** Result of `content.push` and `registry.pushObject`. */
export interface PushObjectResult extends Descriptor {
  readonly status: 'uploaded' | 'mounted' | 'exists';
}
