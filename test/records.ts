/** Records by hand, for tests that need no registry. */
import {createHash, randomBytes} from 'node:crypto';
import type {Digest} from '../src/lib/oci/descriptor.ts';
import type {ContainerRecord, ContentRecord, ImageRecord, Labels, LeaseRecord, SnapshotRecord} from '../src/lib/store/records.ts';
import type {Store} from '../src/lib/store/store.ts';

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

/** An image in a namespace, as far as a store knows images: a manifest, a config and layers as content that keeps each other, unpacked snapshots. */
export interface MadeImage {
  readonly name: string;
  readonly manifest: Digest;
  readonly content: readonly Digest[];
  readonly chainIDs: readonly string[];
  readonly layers: readonly string[];
}

/**
 * Puts an image with real blobs and layers, all in one transaction.
 *
 * @param seed same seed, same bytes: two images of one seed share everything
 */
export async function makeImage(
  store: Store,
  namespace: string,
  name: string,
  {seed = randomBytes(8).toString('hex'), layers: count = 2}: {readonly seed?: string; readonly layers?: number} = {},
): Promise<MadeImage> {
  store.prepare();
  const blob = (text: string): {digest: Digest; size: number} => {
    const bytes = Buffer.from(text);
    store.blobs.writeSmall(digestOf(bytes), bytes);
    return {digest: digestOf(bytes), size: bytes.length};
  };
  const layers = Array.from({length: count}, (_, i) => blob(`layer ${i} of ${seed}`));
  const chainIDs = layers.map((_, i) => digestOf(`chain ${i} of ${seed}`));
  const ids = layers.map((_, i) => `overlayfs-sha256-${digestOf(`diff ${i} of ${seed}`).slice(7)}`);
  for (const [i, id] of ids.entries()) {
    const work = store.layers.createWork();
    store.layers.publish(work, id, {snapshotter: 'overlayfs', diffID: digestOf(`diff ${i} of ${seed}`)});
  }
  const config = blob(`config of ${seed}`);
  const manifest = blob(`manifest of ${seed}`);
  await store.update(`image ${name}`, (tx) => {
    const ns = tx.namespace(namespace);
    for (const layer of layers) ns.content.put(contentRecord(layer.digest, {}, layer.size));
    ns.content.put(contentRecord(config.digest, {'containerd.io/gc.ref.snapshot.overlayfs': chainIDs.at(-1)!}, config.size));
    const children: [string, string][] = layers.map(({digest}, i) => [`containerd.io/gc.ref.content.l.${i}`, digest]);
    ns.content.put(
      contentRecord(
        manifest.digest,
        {'containerd.io/gc.ref.content.config': config.digest, ...Object.fromEntries(children)},
        manifest.size,
      ),
    );
    for (const [i, key] of chainIDs.entries())
      ns.snapshots('overlayfs').put(snapshotRecord(key, {layer: ids[i]!, ...(i === 0 ? {} : {parent: chainIDs[i - 1]!})}));
    ns.images.put({...imageRecord(name, manifest.digest), target: {...imageRecord(name, manifest.digest).target, size: manifest.size}});
  });
  return {
    name,
    manifest: manifest.digest,
    content: [manifest.digest, config.digest, ...layers.map(({digest}) => digest)],
    chainIDs,
    layers: ids,
  };
}
