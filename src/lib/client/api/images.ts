/** Images of one namespace: named descriptors, and which of their content is present. */
import {ErrdefsError, hasCode} from '../../errdefs.ts';
import type {Descriptor, Digest} from '../../oci/descriptor.ts';
import {validateLabels} from '../../oci/identifier.ts';
import type {Kind} from '../../oci/mediatypes.ts';
import {formatReference, parseReference} from '../../oci/reference.ts';
import {walk} from '../../oci/walk.ts';
import {collect, collectIfTouched} from '../../store/gc.ts';
import type {ImageRecord, SnapshotRecord} from '../../store/records.ts';
import {mergeLabels, SnapshotStore, snapshotChain} from '../../store/snapshots.ts';
import {getSnapshotter} from '../../store/snapshotters.ts';
import type {Store} from '../../store/store.ts';
import type {NamespaceTransaction, StoreTransaction} from '../../store/transaction-types.ts';
import {maintainBallast, withBallast} from '../../store/with-ballast.ts';
import type {Context} from '../context.ts';
import {isUnpacked} from '../pull/image-snapshots.ts';
import {imagesOf, makePlan, type Plan, type PlatformChoice, platformChoice} from '../pull/plan.ts';
import {allVisibleAt, findDocument, hasBlob, type IsVisible, lacksContent, readVisible, visibleIn} from '../pull/visible-content.ts';
import {assertAllowed} from '../signatures/assert-allowed.ts';
import type {ImageBuildClient, ImageCheck, ImagesClient, ImageTree, SnapshotUsage} from '../types/index.ts';
import {filtered} from './filter.ts';
import {findImage, imageName, missingImage, planLocally} from './find-image.ts';
import {imageRecords, imageSummaries} from './image-list-cache.ts';

const fields = (image: ImageRecord) => ({
  name: image.name,
  target: {digest: image.target.digest, mediatype: image.target.mediaType},
  labels: image.labels,
  annotations: image.target.annotations ?? {},
});

export function imagesClient(context: Context, namespace: string): Omit<ImagesClient, keyof ImageBuildClient> {
  const {store} = context;
  const change = (
    purpose: string,
    text: string,
    fn: (ns: NamespaceTransaction, tx: StoreTransaction, image: ImageRecord) => ImageRecord,
  ): Promise<ImageRecord> =>
    store.update(purpose, (tx) => {
      const ns = tx.namespace(namespace);
      const name = imageName(ns, text);
      const image = ns.images.find(name);
      if (image === undefined) throw missingImage(context, namespace, name);
      return fn(ns, tx, image);
    });

  const records: ImagesClient['records'] = async ({filters = []} = {}) => filtered(imageRecords(store, namespace), filters, fields);

  return {
    records,

    list: async ({filters = []} = {}) => filtered(imageSummaries(store, namespace), filters, fields),

    get: async (name) => findImage(context, namespace, name),

    delete: (text) =>
      withBallast(store, async () => {
        await store.update(`removal of image ${text}`, (tx) => {
          const ns = tx.namespace(namespace);
          const name = imageName(ns, text);
          if (!ns.images.delete(name)) throw missingImage(context, namespace, name);
          collect(store, tx);
        });
        store.layers.emptyTrash();
      }),

    tag: async (source, target, {force = false} = {}) => {
      const name = formatReference(parseReference(target));
      const approval = await assertAllowed(context, namespace, {name, target: findImage(context, namespace, source, false).target});
      const tagged = await change(`tag ${name}`, source, (ns, tx, image) => {
        approval.assertStill(tx, image.target);
        const before = ns.images.find(name);
        if (before !== undefined && !force)
          throw new ErrdefsError('already_exists', `image ${JSON.stringify(name)}`, {hint: 'replace it with --force'});
        const now = new Date().toISOString();
        const moved: ImageRecord = {...image, name, createdAt: before?.createdAt ?? now, updatedAt: now};
        ns.images.put(moved);
        collectIfTouched(store, tx);
        return moved;
      });
      store.layers.emptyTrash();
      return tagged;
    },

    label: async (text, labels, {replaceAll = false} = {}) => {
      validateLabels(labels);
      const labelled = await change(`labels of image ${text}`, text, (ns, tx, image) => {
        const changed = {...image, labels: mergeLabels(replaceAll ? {} : image.labels, labels), updatedAt: new Date().toISOString()};
        const made = ns.images.put(changed);
        collectIfTouched(store, tx);
        return made;
      });
      store.layers.emptyTrash();
      return labelled;
    },

    verify: async (name, options = {}) => {
      const {verifyImage} = await import('./verify-image.ts');
      return verifyImage(context, namespace, name, options);
    },

    inspect: async (name, {content = false} = {}) => {
      const {target} = findImage(context, namespace, name);
      return inspectTree({store, isVisible: visibleIn(store, namespace)}, target, content);
    },

    check: async ({filters = [], snapshotter} = {}) => {
      const backend = context.snapshotterName(namespace, snapshotter);
      const images = await records({filters});
      const isVisible = store.view((tx) => allVisibleAt(tx, namespace));
      return Promise.all(images.map((image) => checkImage({store, isVisible}, context, namespace, image, backend)));
    },

    mount: async (name, target, options = {}) => {
      const {mountImage} = await import('./host-mounts.ts');
      return mountImage(context, namespace, name, target, options);
    },

    mounts: async () => {
      const {listMounts} = await import('./host-mounts.ts');
      return listMounts(context, namespace);
    },

    import: async (source, options = {}) => {
      const {importImages} = await import('../archives/import.ts');
      const result = await importImages(context, namespace, source, options);
      await maintainBallast(store);
      return result;
    },

    export: async (target, names, options = {}) => {
      const {exportImages} = await import('../archives/export.ts');
      const images = names.map((name) => findImage(context, namespace, name));
      return exportImages(context, namespace, target, images, options);
    },

    unmount: async (target, options = {}) => {
      const {unmountTarget} = await import('./host-mounts.ts');
      return unmountTarget(context, namespace, target, options);
    },

    usage: async (name, {snapshotter} = {}) =>
      imageUsage(context, namespace, findImage(context, namespace, name), context.snapshotterName(namespace, snapshotter)),
  };
}

/** Where documents are looked for. */
interface Here {
  readonly store: Store;
  readonly isVisible: IsVisible;
}

function inspectTree({store, isVisible}: Here, root: Descriptor, content: boolean): ImageTree {
  const documents = (desc: Descriptor, kind: Kind): Buffer | undefined =>
    kind === 'layer' || kind === 'unknown' ? undefined : findDocument(store, isVisible, desc);
  const visits = new Map([...walk(root, documents)].map((visit) => [visit.descriptor.digest, visit]));
  const shown = new Set<Digest>();
  const show = (descriptor: Descriptor): ImageTree => {
    // A digest that comes again is shown without its document and children.
    const {bytes, children = []} = shown.has(descriptor.digest) ? {} : (visits.get(descriptor.digest) ?? {});
    shown.add(descriptor.digest);
    return {
      descriptor,
      present: bytes !== undefined || hasBlob(store, isVisible, descriptor),
      ...(content && bytes !== undefined ? {content: parsed(bytes)} : {}),
      children: children.map(show),
    };
  };
  return show(root);
}

/** A document's value; its text when it is not JSON. */
function parsed(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString());
  } catch {
    return bytes.toString();
  }
}

/**
 * Checks an image by its manifest for this machine, as ctr does. Where only manifests of other platforms are present, the image was
 * pulled for those, and they count instead.
 *
 * Missing content is listed as far as it is known: what a missing document refers to is unknown.
 */
async function checkImage(here: Here, context: Context, namespace: string, image: ImageRecord, snapshotter: string): Promise<ImageCheck> {
  const known = new Map<Digest, Descriptor>();
  const missing = new Set<Digest>();
  const source = async (desc: Descriptor): Promise<Buffer> => {
    const bytes = readVisible(here.store, here.isVisible, desc);
    if (bytes === undefined) {
      missing.add(desc.digest);
      throw lacksContent(namespace, image.name, desc.digest);
    }
    known.set(desc.digest, desc);
    return bytes;
  };
  const plans: Plan[] = [];
  let failure: unknown;
  const plan = async (root: Descriptor, choice: PlatformChoice): Promise<void> => {
    try {
      plans.push(await makePlan(root, source, choice));
    } catch (err) {
      failure = err;
    }
  };
  await plan(image.target, platformChoice({}));
  const others = hasCode(failure, 'not_found') ? manifestsHere(here, image.target) : [];
  if (others.length > 0) missing.clear();
  for (const manifest of others) await plan(manifest, platformChoice({allPlatforms: true}));

  for (const {documents, blobs} of plans)
    for (const desc of [...[...documents.values()].map(({descriptor}) => descriptor), ...blobs]) known.set(desc.digest, desc);
  const all = [...known.values()];
  const present = all.filter((desc) => hasBlob(here.store, here.isVisible, desc));
  for (const {digest} of all.filter((desc) => !present.includes(desc))) missing.add(digest);
  const bytes = (descs: readonly Descriptor[]): number => descs.reduce((sum, {size}) => sum + size, 0);
  const base = {name: image.name, target: image.target, have: present.length, haveBytes: bytes(present), missing: [...missing]};
  if (plans.length === 0) return {...base, status: hasCode(failure, 'not_found') ? 'unavailable' : 'error', unpacked: false};
  const unpacked = plans.flatMap(imagesOf).every(({layers}) => {
    const top = layers.at(-1);
    return top === undefined || isUnpacked(context, namespace, snapshotter, top.chainID);
  });
  return {...base, status: missing.size === 0 ? 'complete' : 'incomplete', need: all.length, needBytes: bytes(all), unpacked};
}

/** Manifests of an image that are present, without attestations, which have no platform. */
function manifestsHere({store, isVisible}: Here, root: Descriptor): readonly Descriptor[] {
  const indexes = (desc: Descriptor, kind: Kind): Buffer | undefined =>
    kind === 'index' ? findDocument(store, isVisible, desc) : undefined;
  return [...walk(root, indexes)].flatMap(({descriptor, kind}) =>
    kind === 'manifest' && descriptor.platform?.os !== 'unknown' && hasBlob(store, isVisible, descriptor) ? [descriptor] : [],
  );
}

async function imageUsage(context: Context, namespace: string, image: ImageRecord, snapshotter: string): Promise<readonly SnapshotUsage[]> {
  getSnapshotter(snapshotter);
  const plan = await planLocally(context, namespace, image);
  const top = imagesOf(plan)[0]?.layers.at(-1);
  if (top === undefined) return [];
  const snapshots = new SnapshotStore(context.store, namespace, snapshotter);
  const chain: readonly SnapshotRecord[] = context.store.view((tx) =>
    snapshotChain(tx.namespace(namespace).snapshots(snapshotter), top.chainID),
  );
  return chain.map(({key}) => ({key, ...snapshots.usage(key)}));
}
