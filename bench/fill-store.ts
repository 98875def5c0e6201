/** Stores with very many images, quickly: each image has a configuration and a manifest of its own, and the layer of one that was pulled. */
import {createHash} from 'node:crypto';
import {writeFileSync} from 'node:fs';
import type {Descriptor, Digest} from '../src/lib/oci/descriptor.ts';
import {Store} from '../src/lib/store/store.ts';

/** Images in one transaction. */
const BATCH = 500;

export interface Fill {
  readonly root: string;
  /** Name of an image in the namespace `default`, pulled and unpacked: what all are made after. */
  readonly like: string;
  /** Number of the first one. */
  readonly from: number;
  readonly count: number;
  /** Namespace of image number `i`. */
  namespace(i: number): string;
}

/** Name of image number `i`. */
export const imageName = (i: number): string => `registry.example/team${i % 100}/app${i}:1.0`;

export async function fill({root, like, from, count, namespace}: Fill): Promise<void> {
  const store = new Store({root, lockTimeoutMs: 10_000});
  const model = store.view((tx) => {
    const ns = tx.namespace('default');
    const image = ns.images.get(like);
    const manifest = JSON.parse(store.blobs.readSmall(image.target.digest)!.toString()) as {config: Descriptor; layers: Descriptor[]};
    const config = JSON.parse(store.blobs.readSmall(manifest.config.digest)!.toString()) as {config?: object};
    return {
      image,
      manifest,
      config,
      manifestRecord: ns.content.get(image.target.digest),
      configRecord: ns.content.get(manifest.config.digest),
      layerRecords: manifest.layers.map(({digest}) => ns.content.get(digest)),
      snapshots: ns.snapshotters().flatMap((name) => ns.snapshots(name).list()),
    };
  });
  // Not synced one by one: what is measured begins later.
  const addBlob = (value: unknown): {digest: Digest; size: number} => {
    const bytes = Buffer.from(JSON.stringify(value));
    const digest = `sha256:${createHash('sha256').update(bytes).digest('hex')}` as Digest;
    writeFileSync(store.blobs.path(digest), bytes, {mode: 0o444});
    return {digest, size: bytes.length};
  };
  for (let done = 0; done < count; done += BATCH) {
    const made = Array.from({length: Math.min(BATCH, count - done)}, (_, n) => {
      const i = from + done + n;
      const config = addBlob({...model.config, config: {...model.config.config, Labels: {number: String(i)}}});
      const manifest = addBlob({...model.manifest, config: {...model.manifest.config, ...config}});
      return {i, config, manifest};
    });
    await store.update(`images from ${from + done} on`, (tx) => {
      for (const {i, config, manifest} of made) {
        const ns = tx.namespace(namespace(i));
        for (const record of model.layerRecords) if (ns.content.find(record.digest) === undefined) ns.content.put(record);
        for (const record of model.snapshots) {
          const snapshots = ns.snapshots(record.snapshotter);
          if (snapshots.find(record.key) === undefined) snapshots.put(record);
        }
        ns.content.put({...model.configRecord, ...config});
        const labels = {...model.manifestRecord.labels, 'containerd.io/gc.ref.content.config': config.digest};
        ns.content.put({...model.manifestRecord, ...manifest, labels});
        ns.images.put({...model.image, name: imageName(i), target: {...model.image.target, ...manifest}});
      }
    });
  }
}
