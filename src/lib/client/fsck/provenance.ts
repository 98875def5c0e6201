/** Provenance of local objects: the image of a layer or snapshot, and the repositories of a blob. */
import {hasCode, isErrdefs} from '../../errdefs.ts';
import type {Descriptor, Digest} from '../../oci/descriptor.ts';
import {gcLabels, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES} from '../../oci/manifest.ts';
import {type Kind, kindOf, OCI_MANIFEST} from '../../oci/mediatypes.ts';
import {parseReference, type Reference} from '../../oci/reference.ts';
import {walk} from '../../oci/walk.ts';
import type {Labels} from '../../store/records.ts';
import {getSnapshotter, type Snapshotter, snapshotterNames} from '../../store/snapshotters.ts';
import type {Store} from '../../store/store.ts';
import type {RecordSurvey} from '../../store/survey-records.ts';
import {allSources} from '../pull/distribution-source.ts';
import {layerCandidates} from '../pull/layer-lookup.ts';
import {makePlan, type Plan, type PlannedImage, type PlannedLayer, type PlannedManifest, platformChoice} from '../pull/plan.ts';
import {signaturesOf} from '../signatures/signature-sources.ts';
import type {Pause} from './yield-to-event-loop.ts';

/** An image that a layer belongs to. */
export interface LayerOrigin {
  readonly namespace: string;
  /** The image's name. */
  readonly image: string;
  readonly manifest: PlannedManifest;
  readonly planned: PlannedImage;
  readonly layer: PlannedLayer;
  readonly snapshotter: Snapshotter;
}

export interface Provenance {
  /** Descriptors of blobs according to local manifests. A local document also has the labels by which it refers to others. */
  readonly content: ReadonlyMap<Digest, {readonly descriptor: Descriptor; readonly labels: Labels}>;
  /** By directory under `layers/`. */
  readonly layers: ReadonlyMap<string, LayerOrigin>;
  /** By `<namespace>/<snapshotter>/<chain ID>`. */
  readonly snapshots: ReadonlyMap<string, LayerOrigin>;
  /** Repositories that may have a blob; recorded sources come first. */
  sources(digest: Digest): readonly Reference[];
}

/** The document; `undefined` unless it is present and complete. */
function read(store: Store, {digest, size, mediaType}: Descriptor): Buffer | undefined {
  const limit = kindOf(mediaType) === 'config' ? MAX_CONFIG_BYTES : MAX_MANIFEST_BYTES;
  return size > limit ? undefined : attempt(() => (store.blobs.size(digest) === size ? store.blobs.readSmall(digest) : undefined));
}

/** Whether an error means that a document is damaged, malformed or of an unknown kind. A lack of memory or disk space means neither. */
const isDeadEnd = (err: unknown): boolean => isErrdefs(err) && !hasCode(err, 'resource_exhausted');

function attempt<T>(action: () => T): T | undefined {
  try {
    return action();
  } catch (err) {
    if (!isDeadEnd(err)) throw err;
    return undefined;
  }
}

/** Reads the local documents of every image. @param pause called often; an error of it ends the search */
export async function findProvenance(store: Store, survey: RecordSurvey, pause: Pause): Promise<Provenance> {
  const content = new Map<Digest, {descriptor: Descriptor; labels: Labels}>();
  const layers = new Map<string, LayerOrigin>();
  const snapshots = new Map<string, LayerOrigin>();
  const repositories = new Map<Digest, Set<string>>();
  const snapshotters = snapshotterNames().map(getSnapshotter);

  const name = (digest: Digest, repository: string): void => {
    repositories.set(digest, (repositories.get(digest) ?? new Set()).add(repository));
  };
  for (const ns of survey.namespaces)
    for (const {digest, labels} of ns.content) for (const {domain, path} of allSources(labels)) name(digest, `${domain}/${path}`);

  const planOf = async (desc: Descriptor): Promise<Plan | undefined> => {
    const documents = async (wanted: Descriptor): Promise<Buffer> => {
      const bytes = read(store, wanted);
      if (bytes === undefined) throw new MissingDocument();
      return bytes;
    };
    try {
      return await makePlan(desc, documents, platformChoice({allPlatforms: true}));
    } catch (err) {
      if (err instanceof MissingDocument || isDeadEnd(err)) return undefined;
      throw err;
    }
  };
  const plans = new Map<Digest, Promise<Plan | undefined>>();

  for (const ns of survey.namespaces) {
    const records = new Map(ns.content.map((record) => [record.digest, record]));
    for (const image of ns.images) {
      for (const digest of signaturesOf(records.get(image.target.digest)?.labels ?? {})) {
        const record = records.get(digest);
        if (record !== undefined)
          content.set(digest, {descriptor: {mediaType: OCI_MANIFEST, digest, size: record.size}, labels: record.labels});
      }
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

class MissingDocument extends Error {}
