/** `images convert`: other media types, and other compression of the layers. */
import {ErrdefsError} from '../../errdefs.ts';
import {documentType} from '../../oci/mediatypes.ts';
import type {ImageRecord} from '../../store/records.ts';
import type {Context} from '../context.ts';
import type {ConvertOptions} from '../types/index.ts';
import {type DerivedLayer, deriveManifest, type RawDescriptor, replaceDescriptor} from './documents.ts';
import {deriveImage} from './image-build.ts';
import {convertLayer, inParallel} from './layers.ts';
import {checkLevel} from './new-blob.ts';

/**
 * @throws failed_precondition a layer's content is not what the config says, or zstd with docker's media types
 *
 * After containerd, core/images/converter.
 */
export async function convertImage(
  context: Context,
  namespace: string,
  source: string,
  target: string,
  options: ConvertOptions,
): Promise<ImageRecord> {
  const {format, compression, level} = options;
  if (format === 'docker' && compression === 'zstd')
    throw new ErrdefsError('invalid_argument', "docker's media types have none for zstd", {hint: "use OCI's: --oci"});
  if (level !== undefined && compression === undefined)
    throw new ErrdefsError('invalid_argument', `level ${level} without a compression`, {hint: 'name one: --compression gzip|zstd'});
  if (compression !== undefined) checkLevel(compression, level);
  // A layer that several manifests have is converted once for each form.
  const layers = new Map<string, Promise<DerivedLayer>>();
  return deriveImage(context, namespace, source, target, options, async (from, build) => {
    const family = format ?? from.family;
    const pairs = from.manifest.layers.map((raw, i) => ({raw, diffID: from.image.layers[i]!.diffID}));
    const derived = await inParallel(pairs, ({raw, diffID}) => {
      const key = `${family} ${raw.mediaType} ${raw.digest} ${diffID}`;
      const known = layers.get(key) ?? convertLayer(build, raw, diffID, family, options);
      layers.set(key, known);
      return known;
    });
    const {config} = from.manifest;
    const to = {...config, mediaType: documentType('config', family)};
    const descriptors = derived.map(({descriptor}, i) => replaceDescriptor(pairs[i]!.raw, descriptor));
    if (family === from.family && isSame(to, config) && descriptors.every((descriptor, i) => isSame(descriptor, pairs[i]!.raw)))
      return undefined;
    return build.addDocument(documentType('manifest', family), deriveManifest(from, family, to, descriptors));
  });
}

const isSame = (a: RawDescriptor, b: RawDescriptor): boolean => a.digest === b.digest && a.mediaType === b.mediaType;
