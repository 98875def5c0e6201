/** `images flatten`: one layer of all. */
import {LayerMerge} from '../../archive/merge-layers.ts';
import {documentType, layerType} from '../../oci/mediatypes.ts';
import type {ImageRecord} from '../../store/records.ts';
import type {Context} from '../context.ts';
import type {FlattenOptions} from '../types/index.ts';
import {createdOf, deriveManifest, type SourceManifest, withLayers} from './documents.ts';
import {deriveImage, type ImageBuild} from './image-build.ts';
import {readLayer, targetCompression, writeLayer} from './layers.ts';
import {checkLevel, type LayerSink} from './new-blob.ts';

export async function flattenImage(
  context: Context,
  namespace: string,
  source: string,
  target: string,
  options: FlattenOptions,
): Promise<ImageRecord> {
  const {compression: asked = 'gzip', level, created} = options;
  checkLevel(asked, level);
  return deriveImage(context, namespace, source, target, options, async (from, build) => {
    const {family} = from;
    const compression = targetCompression(family, asked, asked);
    const count = from.image.layers.length;
    const history = {
      ...createdOf(from.config, created),
      created_by: 'berth images flatten',
      comment: `${count} ${count === 1 ? 'layer' : 'layers'} of ${from.descriptor.digest}`,
    };
    const {digest, size, diffID} = await writeLayer(build, `flatten ${from.descriptor.digest}`, {compression, level}, (sink) =>
      mergeInto(sink, build, from),
    );
    const config = {...withLayers(from.config, [diffID], [history]), ...(created === undefined ? {} : {created})};
    const layer = {mediaType: layerType(family, compression), digest, size};
    build.emit({ref: `layer-${digest}`, status: 'done', offset: size, total: size});
    return build.addDocument(
      documentType('manifest', family),
      deriveManifest(from, family, build.addDocument(documentType('config', family), config), [layer]),
    );
  });
}

async function mergeInto(sink: LayerSink, build: ImageBuild, {image}: SourceManifest): Promise<void> {
  const merge = new LayerMerge();
  const {layers} = image;
  const row = ({digest, size}: (typeof layers)[number]['blob']) => ({ref: `layer-${digest}`, total: size});
  for (const {blob, diffID} of layers) {
    build.emit({...row(blob), status: 'checking', offset: 0});
    const reader = merge.addLayer();
    for await (const chunk of readLayer(build, blob, diffID)) reader.write(chunk);
    reader.end();
  }
  for (const chunk of merge.directories()) await sink.write(chunk);
  for (const [i, {blob, diffID}] of layers.entries()) {
    if (merge.needsLayer(i)) {
      build.emit({...row(blob), status: 'extracting', offset: 0});
      const pieces: Buffer[] = [];
      const reader = merge.copyLayer(i, (chunk) => pieces.push(chunk));
      for await (const chunk of readLayer(build, blob, diffID)) {
        reader.write(chunk);
        for (const piece of pieces.splice(0)) await sink.write(piece);
      }
      reader.end();
      for (const piece of pieces.splice(0)) await sink.write(piece);
    }
    build.emit({...row(blob), status: 'done', offset: blob.size});
  }
  for (const chunk of merge.rest()) await sink.write(chunk);
}
