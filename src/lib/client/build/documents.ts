/** Documents of an image as JSON values, which keep the fields that nobody here knows. */
import type {Descriptor, Digest} from '../../oci/descriptor.ts';
import {documentType, familyOf, type MediaTypeFamily} from '../../oci/mediatypes.ts';
import type {PlannedImage} from '../pull/plan.ts';

/** A JSON object. */
export type JSONObject = {[key: string]: unknown};

/** What a document says about a blob: its descriptor with all fields, of which only these are known here. */
export type RawDescriptor = JSONObject & Pick<Descriptor, 'mediaType' | 'digest' | 'size'>;

/** One manifest of an image, to derive another one from. */
export interface SourceManifest {
  readonly descriptor: Descriptor;
  readonly image: PlannedImage;
  readonly family: MediaTypeFamily;
  /** The manifest; parsed anew for each derivation, so that it may be changed. */
  readonly manifest: JSONObject & {readonly config: RawDescriptor; readonly layers: readonly RawDescriptor[]};
  readonly config: JSONObject;
}

/** A layer of a derived image. */
export interface DerivedLayer {
  readonly descriptor: RawDescriptor;
  readonly diffID: Digest;
}

/** Annotations of a layer that describe its compressed bytes, and are wrong for others. */
const COMPRESSED_ANNOTATIONS = /^(?:containerd\.io\/snapshot\/stargz\/|io\.containers\.estargz\.|io\.github\.containers\.zstd-chunked\.)/;

/** A descriptor of other bytes in the place of `raw`: without what described the old ones. */
export function replaceDescriptor(raw: RawDescriptor, to: Pick<Descriptor, 'mediaType' | 'digest' | 'size'>): RawDescriptor {
  const {data: _, urls: __, annotations, ...rest} = raw;
  if (to.digest === raw.digest) return {...raw, mediaType: to.mediaType};
  const kept = Object.entries((annotations ?? {}) as JSONObject).filter(([key]) => !COMPRESSED_ANNOTATIONS.test(key));
  return {...rest, ...to, ...(kept.length === 0 ? {} : {annotations: Object.fromEntries(kept)})};
}

/** A manifest like the source's with another config and other layers. Docker's has no annotations, subject or artifact type. */
export function deriveManifest(
  {manifest}: SourceManifest,
  family: MediaTypeFamily,
  config: RawDescriptor,
  layers: readonly RawDescriptor[],
): JSONObject {
  const {schemaVersion: _, mediaType: __, config: ___, layers: ____, ...rest} = manifest;
  if (family === 'docker') for (const key of ['annotations', 'artifactType', 'subject']) delete rest[key];
  return {schemaVersion: 2, mediaType: documentType('manifest', family), config, layers, ...rest};
}

/** The object at a key of a config, or an empty one. */
export const objectAt = (value: JSONObject, key: string): JSONObject => (value[key] ?? {}) as JSONObject;

/** An entry of a config's history. */
export interface HistoryEntry {
  readonly created?: string;
  readonly created_by?: string;
  readonly comment?: string;
  readonly empty_layer?: boolean;
}

/** The source's history, if it tells of each layer; else none, because what comes after it could not be told apart. */
export function historyOf({config, image}: Pick<SourceManifest, 'config' | 'image'>): readonly HistoryEntry[] | undefined {
  const history = config.history as readonly HistoryEntry[] | null | undefined;
  if (!Array.isArray(history)) return undefined;
  return history.filter(({empty_layer}) => empty_layer !== true).length === image.layers.length ? history : undefined;
}

/** A config with other layers. Without a history it says nothing of how it was made. */
export function withLayers(config: JSONObject, layers: readonly Digest[], history: readonly HistoryEntry[] | undefined): JSONObject {
  const {rootfs: _, history: __, ...rest} = config;
  return {...rest, rootfs: {type: 'layers', diff_ids: layers}, ...(history === undefined ? {} : {history})};
}

/** A time for new history: the caller's, else the config's own. */
export function createdOf(config: JSONObject, created: string | undefined): {readonly created?: string} {
  const time = created ?? config.created;
  return typeof time === 'string' ? {created: time} : {};
}

/** The family of the root that a derived image gets. */
export const rootFamily = (mediaType: string, asked: MediaTypeFamily | undefined): MediaTypeFamily => asked ?? familyOf(mediaType);
