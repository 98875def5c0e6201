/** Images of one namespace: names for descriptors, and what of their trees is here. */
import {ErrdefsError, is, isErrdefs} from '../errdefs.ts';
import type {Descriptor, Digest} from '../oci/descriptor.ts';
import {validateLabels} from '../oci/identifier.ts';
import {children} from '../oci/manifest.ts';
import {type Kind, kindOf} from '../oci/mediatypes.ts';
import {formatReference, parseReference} from '../oci/reference.ts';
import {collect, collectIfTouched} from '../store/gc.ts';
import type {ImageRecord, SnapshotRecord} from '../store/records.ts';
import {withReserve} from '../store/reserve.ts';
import {mergeLabels, SnapshotStore, snapshotChain} from '../store/snapshots.ts';
import {getSnapshotter} from '../store/snapshotters.ts';
import type {NamespaceTransaction, NamespaceView, StoreTransaction} from '../store/store.ts';
import type {Context} from './context.ts';
import {filtered} from './filtered.ts';
import {notFoundIn} from './missing.ts';
import {makePlan, type Plan, platformChoice} from './plan.ts';
import {imageRecords, imageSummaries} from './summaries.ts';
import type {ImageCheck, ImageTree, NamespaceClient, SnapshotUsage} from './types.ts';
import {imagesOf, isUnpacked} from './unpack.ts';

const fields = (image: ImageRecord) => ({
  name: image.name,
  target: {digest: image.target.digest, mediatype: image.target.mediaType},
  labels: image.labels,
  annotations: image.target.annotations ?? {},
});

/**
 * The name under which a user's reference is kept: as he wrote it, where an image is called just that, else normalised
 * as docker does.
 */
export function imageName(ns: NamespaceView, text: string): string {
  if (text !== '' && ns.images.find(text) !== undefined) return text;
  return formatReference(parseReference(text));
}

/** @throws not_found naming the namespace, and others that have the image */
export function findImage(context: Context, namespace: string, text: string): ImageRecord {
  const {store} = context;
  return store.view((tx) => {
    const ns = tx.namespace(namespace);
    const name = imageName(ns, text);
    const image = ns.images.find(name);
    if (image === undefined) throw missingImage(context, namespace, name, `pull it: ctr images pull ${name}`);
    return image;
  });
}

const missingImage = ({store}: Context, namespace: string, name: string, hint?: string): ErrdefsError =>
  notFoundIn(store, namespace, 'image', name, (ns) => ns.images.find(name) !== undefined, hint);

/** The plan of an image from what is here. @throws not_found a document is missing */
export function planLocally(context: Context, image: ImageRecord, platform?: string): Promise<Plan> {
  const source = async (desc: Descriptor): Promise<Buffer> => {
    const bytes = context.store.blobs.readSmall(desc.digest);
    if (bytes === undefined)
      throw new ErrdefsError('not_found', `content ${desc.digest} of image ${JSON.stringify(image.name)}`, {
        hint: `pull it: ctr images pull ${image.name}`,
      });
    return bytes;
  };
  return makePlan(image.target, source, platformChoice(platform === undefined ? {} : {platforms: [platform]}));
}

export function imagesClient(context: Context, namespace: string): NamespaceClient['images'] {
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

  const records: NamespaceClient['images']['records'] = async ({filters = []} = {}) =>
    filtered(imageRecords(store, namespace), filters, fields);

  return {
    records,

    list: async ({filters = []} = {}) => filtered(imageSummaries(store, namespace), filters, fields),

    get: async (name) => findImage(context, namespace, name),

    delete: (text) =>
      withReserve(store, async () => {
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
      const tagged = await change(`tag ${name}`, source, (ns, tx, image) => {
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
        ns.images.put(changed);
        collectIfTouched(store, tx);
        return changed;
      });
      store.layers.emptyTrash();
      return labelled;
    },

    inspect: async (name, {content = false} = {}) => inspectTree(context, findImage(context, namespace, name).target, content, new Set()),

    check: async ({filters = [], snapshotter} = {}) => {
      const backend = context.snapshotterName(namespace, snapshotter);
      const images = await records({filters});
      return Promise.all(images.map((image) => checkImage(context, namespace, image, backend)));
    },

    usage: async (name, {snapshotter} = {}) =>
      imageUsage(context, namespace, findImage(context, namespace, name), context.snapshotterName(namespace, snapshotter)),
  };
}

/** A document of an image, or `undefined` when it is not here, or is no document. @throws data_loss */
function read({store}: Context, desc: Descriptor): Buffer | undefined {
  try {
    return store.blobs.readSmall(desc.digest);
  } catch (err) {
    if (is(err, 'failed_precondition')) return undefined;
    throw err;
  }
}

/** @param shown digests of documents in the tree so far: one that comes again is shown without what is below it */
function inspectTree(context: Context, desc: Descriptor, content: boolean, shown: Set<Digest>): ImageTree {
  const kind = kindOf(desc.mediaType);
  const bytes = kind === 'layer' || kind === 'unknown' || shown.has(desc.digest) ? undefined : read(context, desc);
  shown.add(desc.digest);
  return {
    descriptor: desc,
    present: bytes !== undefined || context.store.blobs.size(desc.digest) === desc.size,
    ...(content && bytes !== undefined ? {content: parsed(bytes)} : {}),
    children: bytes === undefined ? [] : pointedTo(kind, bytes, desc).map((child) => inspectTree(context, child, content, shown)),
  };
}

/** What a document points to; one that is not what it is called points to nothing. */
function pointedTo(kind: Kind, bytes: Buffer, desc: Descriptor): readonly Descriptor[] {
  try {
    return children(kind, bytes, desc);
  } catch (err) {
    if (!isErrdefs(err)) throw err;
    return [];
  }
}

/** A document's value; of one that is no JSON its text. */
function parsed(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString());
  } catch {
    return bytes.toString();
  }
}

async function checkImage(context: Context, namespace: string, image: ImageRecord, snapshotter: string): Promise<ImageCheck> {
  const {store} = context;
  const base = {name: image.name, target: image.target};
  let plan: Plan;
  try {
    plan = await planLocally(context, image);
  } catch (err) {
    const unavailable = is(err, 'not_found');
    return {
      ...base,
      status: unavailable ? 'unavailable' : 'error',
      have: 0,
      haveBytes: 0,
      unpacked: false,
      missing: unavailable ? [image.target.digest] : [],
    };
  }
  const needed = [...[...plan.documents.values()].map(({descriptor}) => descriptor), ...plan.blobs];
  const here = needed.filter((desc) => store.blobs.size(desc.digest) === desc.size);
  const missing = needed.filter((desc) => !here.includes(desc)).map(({digest}) => digest);
  const bytes = (descs: readonly Descriptor[]): number => descs.reduce((sum, {size}) => sum + size, 0);
  const unpacked = imagesOf(plan).every(({layers}) => {
    const top = layers.at(-1);
    return top === undefined || isUnpacked(context, namespace, snapshotter, top.chainID);
  });
  return {
    ...base,
    status: missing.length === 0 ? 'complete' : 'incomplete',
    have: here.length,
    need: needed.length,
    haveBytes: bytes(here),
    needBytes: bytes(needed),
    unpacked,
    missing,
  };
}

async function imageUsage(context: Context, namespace: string, image: ImageRecord, snapshotter: string): Promise<readonly SnapshotUsage[]> {
  getSnapshotter(snapshotter);
  const plan = await planLocally(context, image);
  const top = imagesOf(plan)[0]?.layers.at(-1);
  if (top === undefined) return [];
  const snapshots = new SnapshotStore(context.store, namespace, snapshotter);
  const chain: readonly SnapshotRecord[] = context.store.view((tx) =>
    snapshotChain(tx.namespace(namespace).snapshots(snapshotter), top.chainID),
  );
  return chain.map(({key}) => ({key, ...snapshots.usage(key)}));
}
