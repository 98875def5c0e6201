/** `images rebase`: other layers in the place of an image's lowest ones. */
import {berth} from '../../berth-command.ts';
import {ErrdefsError} from '../../errdefs.ts';
import {parseDigest} from '../../oci/descriptor.ts';
import {documentType} from '../../oci/mediatypes.ts';
import {formatReference, parseReference} from '../../oci/reference.ts';
import {walk} from '../../oci/walk.ts';
import type {ImageRecord} from '../../store/records.ts';
import type {Context} from '../context.ts';
import {findDocument, visibleIn} from '../pull/visible-content.ts';
import type {RebaseOptions} from '../types/index.ts';
import {deriveManifest, historyOf, type JSONObject, replaceDescriptor, type SourceManifest, withLayers} from './documents.ts';
import {deriveImage, type ImageBuild, platformsOf, sourceManifest} from './image-build.ts';
import {convertLayer} from './layers.ts';

/** Annotations of the OCI image specification that name the base of an image. */
const BASE_NAME = 'org.opencontainers.image.base.name';
const BASE_DIGEST = 'org.opencontainers.image.base.digest';

/**
 * The source's config stays, but for layers, history and platform, which are the new base's. Layers are compared by diff ID, so that another
 * compression does not matter.
 *
 * After go-containerregistry, pkg/v1/mutate/rebase.go.
 */
export async function rebaseImage(
  context: Context,
  namespace: string,
  source: string,
  target: string,
  options: RebaseOptions,
): Promise<ImageRecord> {
  const {oldBase, newBase, created} = options;
  return deriveImage(context, namespace, source, target, options, async (from, build) => {
    const {family} = from;
    const old = await baseFor(build, oldBase ?? (await annotatedBase(build, from)), from);
    const fresh = await baseFor(build, newBase ?? annotationOf(from, BASE_NAME, '--new-base'), from);
    const below = old.manifest.image.layers;
    const isBased = below.every(({diffID}, i) => from.image.layers[i]?.diffID === diffID);
    if (!isBased)
      throw new ErrdefsError('failed_precondition', `manifest ${from.descriptor.digest} is not based on ${old.name}`, {
        hint: 'its lowest layers must be those of --old-base: compare both with "berth images inspect REF"',
        details: {layers: from.image.layers.map(({diffID}) => diffID), base: below.map(({diffID}) => diffID)},
      });
    const lower = [];
    for (const [i, raw] of fresh.manifest.manifest.layers.entries())
      lower.push({raw, ...(await convertLayer(build, raw, fresh.manifest.image.layers[i]!.diffID, family, {}))});
    const upper = from.manifest.layers.slice(below.length);
    const diffIDs = [...lower.map(({diffID}) => diffID), ...from.image.layers.slice(below.length).map(({diffID}) => diffID)];
    const {architecture, os, variant, 'os.version': version, 'os.features': features} = fresh.manifest.config;
    const {variant: _, 'os.version': __, 'os.features': ___, ...own} = from.config;
    const platform = {variant, 'os.version': version, 'os.features': features};
    const config = {
      ...withLayers(own, diffIDs, rebasedHistory(from, old.manifest, fresh.manifest)),
      architecture,
      os,
      ...Object.fromEntries(Object.entries(platform).filter(([, value]) => value !== undefined)),
      ...(created === undefined ? {} : {created}),
    };
    const annotations = {
      ...(from.manifest.annotations as object | undefined),
      [BASE_NAME]: fresh.name,
      [BASE_DIGEST]: fresh.manifest.descriptor.digest,
    };
    const manifest = deriveManifest(
      {...from, manifest: {...from.manifest, annotations}},
      family,
      build.addDocument(documentType('config', family), config),
      [...lower.map(({raw, descriptor}) => replaceDescriptor(raw, descriptor)), ...upper],
    );
    return build.addDocument(documentType('manifest', family), manifest);
  });
}

/** What a manifest says about its base. @param flag says it instead @throws failed_precondition it says nothing */
function annotationOf({manifest, descriptor}: SourceManifest, key: string, flag: string): string {
  const value = ((manifest.annotations ?? {}) as JSONObject)[key];
  if (typeof value === 'string' && value !== '') return value;
  throw new ErrdefsError('failed_precondition', `manifest ${descriptor.digest} has no annotation ${key}`, {
    hint: `name the image: ${flag} REF`,
  });
}

/** Name of an image of the namespace that has the base by which the source was made. @throws not_found, with the pull that fetches it */
async function annotatedBase(build: ImageBuild, from: SourceManifest): Promise<string> {
  const {context, namespace} = build;
  const [name, text] = [annotationOf(from, BASE_NAME, '--old-base'), annotationOf(from, BASE_DIGEST, '--old-base')];
  const wanted = formatReference({...parseReference(name), digest: parseDigest(text)});
  const digest = parseDigest(text);
  const isVisible = visibleIn(context.store, namespace);
  const images = context.store.view((tx) => tx.namespace(namespace).images.list());
  const found = images.find(({target}) => {
    const nodes = walk(target, (desc, kind) => (kind === 'index' ? findDocument(context.store, isVisible, desc) : undefined));
    for (const node of nodes) if (node.descriptor.digest === digest) return true;
    return false;
  });
  if (found !== undefined) return found.name;
  throw new ErrdefsError('not_found', `base ${wanted} of manifest ${from.descriptor.digest}`, {
    hint: `name an image that has the same layers with --old-base, or pull it: ${berth`-n ${namespace} images pull ${wanted}`}`,
  });
}

/** The manifest of a base for the platform of the source. */
async function baseFor(
  build: ImageBuild,
  name: string,
  {image}: SourceManifest,
): Promise<{readonly name: string; readonly manifest: SourceManifest}> {
  const {image: record, plan} = await build.source(name, {platforms: platformsOf(image)});
  return {name: record.name, manifest: sourceManifest(plan, plan.manifests[0]!)};
}

/** The new base's history, and then the source's from where that of the old base ends. */
function rebasedHistory(from: SourceManifest, old: SourceManifest, fresh: SourceManifest): ReturnType<typeof historyOf> {
  const [own, before, after] = [from, old, fresh].map(historyOf);
  if (own === undefined || before === undefined || after === undefined) return undefined;
  return [...after, ...own.slice(before.length)];
}
