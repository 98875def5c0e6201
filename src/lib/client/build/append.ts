/** `images append`: layers on top of an image. */
import {ErrdefsError} from '../../errdefs.ts';
import {documentType, type MediaTypeFamily} from '../../oci/mediatypes.ts';
import type {ImageRecord} from '../../store/records.ts';
import type {Context} from '../context.ts';
import type {AppendOptions} from '../types/index.ts';
import {createdOf, type DerivedLayer, deriveManifest, historyOf, withLayers} from './documents.ts';
import {deriveImage, type ImageBuild} from './image-build.ts';
import {addLayer} from './layers.ts';
import {checkLevel} from './new-blob.ts';

async function addLayers(
  build: ImageBuild,
  tars: readonly (string | AsyncIterable<Uint8Array>)[],
  family: MediaTypeFamily,
  options: AppendOptions,
): Promise<readonly DerivedLayer[]> {
  const made: DerivedLayer[] = [];
  for (const tar of tars) made.push(await addLayer(build, tar, family, options));
  return made;
}

export async function appendLayers(
  context: Context,
  namespace: string,
  source: string,
  target: string,
  tars: readonly (string | AsyncIterable<Uint8Array>)[],
  options: AppendOptions,
): Promise<ImageRecord> {
  if (tars.length === 0) throw new ErrdefsError('invalid_argument', 'no layer to append');
  const {compression, level, created} = options;
  checkLevel(compression ?? 'gzip', level);
  // For all manifests of an index the same layers.
  const added = new Map<string, readonly DerivedLayer[]>();
  return deriveImage(context, namespace, source, target, options, async (from, build) => {
    const {family} = from;
    const known = added.get(family);
    if (known === undefined && added.size > 0 && tars.some((tar) => typeof tar !== 'string'))
      throw new ErrdefsError('failed_precondition', `${source} has manifests of docker and of OCI, and a stream can be read once only`, {
        hint: 'give the layer as a file, or convert the image first with "berth images convert --oci SOURCE TARGET"',
      });
    const all = known ?? (await addLayers(build, tars, family, options));
    added.set(family, all);
    const history = historyOf(from)?.concat(all.map(() => ({...createdOf(from.config, created), created_by: 'berth images append'})));
    const diffIDs = [...from.image.layers, ...all].map(({diffID}) => diffID);
    const config = {...withLayers(from.config, diffIDs, history), ...(created === undefined ? {} : {created})};
    const descriptors = [...from.manifest.layers, ...all.map(({descriptor}) => descriptor)];
    return build.addDocument(
      documentType('manifest', family),
      deriveManifest(from, family, build.addDocument(documentType('config', family), config), descriptors),
    );
  });
}
