/** Records made by hand, for tests without a registry. */
import {createHash, randomBytes} from 'node:crypto';
import {writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {fromErrno} from '../../src/lib/errdefs.ts';
import type {Descriptor, Digest} from '../../src/lib/oci/descriptor.ts';
import {chainIDs} from '../../src/lib/oci/manifest.ts';
import {OCI_CONFIG, OCI_LAYER, OCI_MANIFEST} from '../../src/lib/oci/mediatypes.ts';
import {hostPlatform} from '../../src/lib/oci/platform.ts';
import type {ContainerRecord, ContentRecord, ImageRecord, Labels, LeaseRecord, SnapshotRecord} from '../../src/lib/store/records.ts';
import {getSnapshotter, seedLayer} from '../../src/lib/store/snapshotters.ts';
import type {Store} from '../../src/lib/store/store.ts';

const AT = '2026-01-02T03:04:05.000Z';
const DATED = {createdAt: AT, updatedAt: AT};

export const digestOf = (bytes: string | Uint8Array): Digest => `sha256:${createHash('sha256').update(bytes).digest('hex')}` as Digest;

export const imageRecord = (name: string, digest: Digest, labels: Labels = {}): ImageRecord => ({
  name,
  target: {mediaType: 'application/vnd.oci.image.manifest.v1+json', digest, size: 1},
  labels,
  ...DATED,
});

export const contentRecord = (digest: Digest, labels: Labels = {}, size = 1): ContentRecord => ({digest, size, labels, ...DATED});

export const snapshotRecord = (key: string, over: Partial<SnapshotRecord> = {}): SnapshotRecord => ({
  snapshotter: 'overlayfs',
  key,
  kind: 'committed',
  layer: `overlayfs-${key.replaceAll(/[^A-Za-z0-9-]/g, '-')}`,
  labels: {},
  ...DATED,
  ...over,
});

export const leaseRecord = (id: string, over: Partial<LeaseRecord> = {}): LeaseRecord => ({
  id,
  labels: {},
  content: [],
  layers: [],
  snapshots: [],
  ...DATED,
  ...over,
});

export const containerRecord = (id: string, over: Partial<ContainerRecord> = {}): ContainerRecord => ({
  id,
  image: '',
  labels: {},
  runtime: {name: 'io.containerd.runc.v2'},
  snapshotter: 'overlayfs',
  snapshotKey: '',
  spec: null,
  ...DATED,
  ...over,
});

/** An image in a namespace, as after a pull, but with layers that do not match their diff IDs. */
export interface MadeImage {
  readonly name: string;
  readonly manifest: Digest;
  /** Manifest, config, layers. */
  readonly content: readonly Digest[];
  /** Bottom first; so are the layers. */
  readonly chainIDs: readonly Digest[];
  readonly layers: readonly string[];
}

/**
 * Puts an image with real documents, blobs and layer directories, its records all in one transaction.
 *
 * @param options.seed same seed, same bytes: two images of one seed share everything
 */
export async function makeImage(
  store: Store,
  namespace: string,
  name: string,
  {seed = randomBytes(8).toString('hex'), layers: count = 2}: {readonly seed?: string; readonly layers?: number} = {},
): Promise<MadeImage> {
  store.ensureCreated();
  const blob = (text: string, mediaType: string): Descriptor => {
    const bytes = Buffer.from(text);
    store.blobs.writeSmall(digestOf(bytes), bytes);
    return {mediaType, digest: digestOf(bytes), size: bytes.length};
  };
  const numbers = Array.from({length: count}, (_, i) => i);
  const diffIDs = numbers.map((i) => digestOf(`diff ${i} of ${seed}`));
  const chain = chainIDs(diffIDs);
  const layers = numbers.map((i) => blob(`layer ${i} of ${seed}`, OCI_LAYER));
  const ids = diffIDs.map((diffID) => `overlayfs-${diffID.replace(':', '-')}`);
  for (const [i, id] of ids.entries()) {
    const work = store.layers.createWork();
    seedLayer(getSnapshotter('overlayfs'), work, [], false);
    try {
      writeFileSync(join(work, 'fs', 'file'), `of layer ${i}`);
    } catch (err) {
      throw fromErrno(err, `layer ${id}`);
    }
    store.layers.publish(work, id, {snapshotter: 'overlayfs', diffID: diffIDs[i]!});
  }
  const {os, architecture} = hostPlatform();
  const config = blob(JSON.stringify({os, architecture, rootfs: {type: 'layers', diff_ids: diffIDs}}), OCI_CONFIG);
  const manifest = blob(JSON.stringify({schemaVersion: 2, mediaType: OCI_MANIFEST, config, layers}), OCI_MANIFEST);
  await store.update(`image ${name}`, (tx) => {
    const ns = tx.namespace(namespace);
    const ref = 'containerd.io/gc.ref';
    for (const {digest, size} of layers) ns.content.put(contentRecord(digest, {}, size));
    ns.content.put(contentRecord(config.digest, count === 0 ? {} : {[`${ref}.snapshot.overlayfs`]: chain.at(-1)!}, config.size));
    const children = Object.fromEntries(layers.map(({digest}, i) => [`${ref}.content.l.${i}`, digest]));
    ns.content.put(contentRecord(manifest.digest, {[`${ref}.content.config`]: config.digest, ...children}, manifest.size));
    for (const [i, key] of chain.entries())
      ns.snapshots('overlayfs').put(snapshotRecord(key, {layer: ids[i]!, ...(i === 0 ? {} : {parent: chain[i - 1]!})}));
    ns.images.put({...imageRecord(name, manifest.digest), target: manifest});
  });
  return {
    name,
    manifest: manifest.digest,
    content: [manifest.digest, config.digest, ...layers.map(({digest}) => digest)],
    chainIDs: chain,
    layers: ids,
  };
}
