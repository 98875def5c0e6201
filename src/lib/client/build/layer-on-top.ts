/** One more layer on an image, with its entry in the history. */
import {documentType, layerType} from '../../oci/mediatypes.ts';
import type {LayerCompression, MutateOptions} from '../types/index.ts';
import {deriveManifest, historyOf, type RawDescriptor, type SourceManifest, withLayers} from './documents.ts';
import type {ImageBuild} from './image-build.ts';
import {targetCompression, writeLayer} from './layers.ts';
import {changeConfig} from './mutate.ts';

export interface NewLayer {
  /** Names the layer in `content active`. */
  readonly ref: string;
  readonly author?: string | undefined;
  readonly message?: string | undefined;
  readonly createdBy: string;
  /** RFC 3339; default: now. */
  readonly created?: string | undefined;
  readonly changes?: MutateOptions;
  readonly compression?: LayerCompression['compression'];
  readonly level?: number | undefined;
  /**
   * The tar.
   *
   * @param latest latest mtime, in seconds since 1970: only a time that the caller chose makes the same bytes of the same tree at any time
   */
  readonly content: (latest: number | undefined) => AsyncIterable<Uint8Array>;
}

/** @returns the new manifest */
export async function layerOnTop(
  build: ImageBuild,
  from: SourceManifest,
  {ref, author, message, createdBy, created: asOf, changes = {}, content, compression: asked = 'gzip', level}: NewLayer,
): Promise<RawDescriptor> {
  const created = asOf ?? new Date().toISOString();
  const latest = asOf === undefined ? undefined : Math.floor(Date.parse(asOf) / 1000);
  const {family} = from;
  const compression = targetCompression(family, asked, asked);
  const {digest, size, diffID} = await writeLayer(build, ref, {compression, level}, async (sink) => {
    for await (const chunk of content(latest)) await sink.write(chunk);
  });
  build.emit({ref: `layer-${digest}`, status: 'done', offset: size, total: size});
  const entry = {
    created,
    created_by: createdBy,
    ...(author === undefined ? {} : {author}),
    ...(message === undefined ? {} : {comment: message}),
  };
  const diffIDs = [...from.image.layers.map((layer) => layer.diffID), diffID];
  const config = {
    ...withLayers(changeConfig(from.config, changes), diffIDs, historyOf(from)?.concat(entry)),
    created,
    ...(author === undefined ? {} : {author}),
  };
  const layer = {mediaType: layerType(family, compression), digest, size};
  const manifest = deriveManifest(from, family, build.addDocument(documentType('config', family), config), [
    ...from.manifest.layers,
    layer,
  ]);
  return build.addDocument(documentType('manifest', family), manifest);
}
