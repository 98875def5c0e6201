/** From what is here back to where it came from: which image a layer belongs to, and what a blob is called in a registry. */
import {hasCode, isErrdefs} from '../../errdefs.ts';
import type {Descriptor, Digest} from '../../oci/descriptor.ts';
import {gcLabels, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES} from '../../oci/manifest.ts';
import {type Kind, kindOf} from '../../oci/mediatypes.ts';
import {parseReference, type Reference} from '../../oci/reference.ts';
import {walk} from '../../oci/walk.ts';
import type {Labels} from '../../store/records.ts';
import {getSnapshotter, type Snapshotter, snapshotterNames} from '../../store/snapshotters.ts';
import type {Store} from '../../store/store.ts';
import type {RecordSurvey} from '../../store/survey-records.ts';
import {layerCandidates} from '../pull/layer-lookup.ts';
import {makePlan, type Plan, type PlannedImage, type PlannedLayer, type PlannedManifest, platformChoice} from '../pull/plan.ts';
import type {Pause} from './pause.ts';

/** One of the images that a layer belongs to. */
export interface LayerOrigin {
  readonly namespace: string;
  /** The image's name. */
  readonly image: string;
  readonly manifest: PlannedManifest;
  readonly planned: PlannedImage;
  readonly layer: PlannedLayer;
  readonly snapshotter: Snapshotter;
}

export interface Origins {
  /** What the manifests that are here say of a blob; with the labels by which it keeps others, where it is a document that is here. */
  readonly content: ReadonlyMap<Digest, {readonly descriptor: Descriptor; readonly labels: Labels}>;
  /** By directory under `layers/`. */
  readonly layers: ReadonlyMap<string, LayerOrigin>;
  /** By `<namespace>/<snapshotter>/<chain ID>`. */
  readonly snapshots: ReadonlyMap<string, LayerOrigin>;
  /** Repositories that may have a blob, the one that it came from first. */
  sources(digest: Digest): readonly Reference[];
}

const SOURCE = 'containerd.io/distribution.source.';

/** Label of content with the repositories of a registry that it came from. */
export const sourceLabel = (domain: string): string => `${SOURCE}${domain}`;

/** The document, if it is here and whole. */
function read(store: Store, {digest, size, mediaType}: Descriptor): Buffer | undefined {
  const limit = kindOf(mediaType) === 'config' ? MAX_CONFIG_BYTES : MAX_MANIFEST_BYTES;
  return size > limit ? undefined : attempt(() => (store.blobs.size(digest) === size ? store.blobs.readSmall(digest) : undefined));
}

/** What is damaged, malformed or of a kind that nobody here knows leads no further; of what the machine has too little for nothing is known. */
const leadsNowhere = (err: unknown): boolean => isErrdefs(err) && !hasCode(err, 'resource_exhausted');

function attempt<T>(action: () => T): T | undefined {
  try {
    return action();
  } catch (err) {
    if (!leadsNowhere(err)) throw err;
    return undefined;
  }
}

/** Reads what every image says of its blobs and layers, as far as its documents are here and whole. @param pause what it throws ends that */
export async function findOrigins(store: Store, survey: RecordSurvey, pause: Pause): Promise<Origins> {
  const content = new Map<Digest, {descriptor: Descriptor; labels: Labels}>();
  const layers = new Map<string, LayerOrigin>();
  const snapshots = new Map<string, LayerOrigin>();
  const repositories = new Map<Digest, Set<string>>();
  const snapshotters = snapshotterNames().map(getSnapshotter);

  const name = (digest: Digest, repository: string): void => {
    repositories.set(digest, (repositories.get(digest) ?? new Set()).add(repository));
  };
  for (const ns of survey.namespaces)
    for (const {digest, labels} of ns.content)
      for (const [label, paths] of Object.entries(labels))
        if (label.startsWith(SOURCE)) for (const path of paths.split(',')) name(digest, `${label.slice(SOURCE.length)}/${path}`);

  const planOf = async (desc: Descriptor): Promise<Plan | undefined> => {
    const documents = async (wanted: Descriptor): Promise<Buffer> => {
      const bytes = read(store, wanted);
      if (bytes === undefined) throw new Missing();
      return bytes;
    };
    try {
      return await makePlan(desc, documents, platformChoice({allPlatforms: true}));
    } catch (err) {
      if (err instanceof Missing || leadsNowhere(err)) return undefined;
      throw err;
    }
  };
  const plans = new Map<Digest, Promise<Plan | undefined>>();

  for (const ns of survey.namespaces) {
    for (const image of ns.images) {
      const reference = attempt(() => parseReference(image.name));
      const documents = (desc: Descriptor, kind: Kind): Buffer | undefined =>
        kind === 'index' || kind === 'manifest' ? read(store, desc) : undefined;
      for (const {descriptor, kind, bytes, children} of walk(image.target, documents)) {
        content.set(descriptor.digest, {descriptor, labels: gcLabels(descriptor, children)});
        if (reference !== undefined) name(descriptor.digest, `${reference.domain}/${reference.path}`);
        if (kind !== 'manifest' || bytes === undefined) continue;
        const plan = plans.get(descriptor.digest) ?? planOf(descriptor);
        plans.set(descriptor.digest, plan);
        const [manifest] = (await plan)?.manifests ?? [];
        if (manifest?.image === undefined) continue;
        const planned = manifest.image;
        for (const layer of planned.layers)
          for (const snapshotter of snapshotters) {
            const origin: LayerOrigin = {namespace: ns.name, image: image.name, manifest, planned, layer, snapshotter};
            for (const id of layerCandidates(snapshotter, layer)) if (!layers.has(id)) layers.set(id, origin);
            snapshots.set(`${ns.name}/${snapshotter.name}/${layer.chainID}`, origin);
          }
      }
      await pause();
    }
  }
  return {
    content,
    layers,
    snapshots,
    sources: (digest) => [...(repositories.get(digest) ?? [])].flatMap((text) => attempt(() => parseReference(text)) ?? []),
  };
}

class Missing extends Error {}
