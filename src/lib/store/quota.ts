/**
 * The bound on what a namespace holds: its label `berth/quota-bytes`. Blobs count by their size, unpacked layers and the data of containers by
 * their bytes on disk, each once for each namespace that has it, as `df` counts.
 */
import {ErrdefsError, hasCode, isErrdefs} from '../errdefs.ts';
import type {Descriptor, Digest} from '../oci/descriptor.ts';
import {type TreeUsage, treeUsage} from './disk-usage.ts';
import {isOwnLayer} from './layer-store.ts';
import type {Labels} from './records.ts';
import type {Store} from './store.ts';
import type {NamespaceView} from './transaction-types.ts';

export const QUOTA = 'berth/quota-bytes';

/** @throws invalid_argument the value is no number of bytes */
export function parseQuota(value: string): number {
  const bytes = Number(value);
  if (!/^\d+$/.test(value) || !Number.isSafeInteger(bytes))
    throw new ErrdefsError('invalid_argument', `label ${QUOTA} must be a whole number of bytes`);
  return bytes;
}

/** Bytes that the labels of a namespace let it hold; `undefined`: as many as there are. */
const quotaOf = (labels: Labels = {}): number | undefined => (labels[QUOTA] === undefined ? undefined : parseQuota(labels[QUOTA]));

/** Sizes of layers do not change, but for those that containers write to. */
type LayerSizes = Map<string, number>;

interface Held {
  readonly content: ReadonlyMap<Digest, number>;
  readonly layers: ReadonlyMap<string, number>;
}

function layerBytes(store: Store, id: string, sizes: LayerSizes): number {
  const known = sizes.get(id);
  if (known !== undefined) return known;
  let size = 0;
  try {
    ({size} = treeUsage(store.layers.path(id)));
  } catch (err) {
    // It is missing, which others report.
    if (!hasCode(err, 'data_loss')) throw err;
  }
  if (!isOwnLayer(id)) sizes.set(id, size);
  return size;
}

function heldBy(store: Store, ns: NamespaceView, sizes: LayerSizes): Held {
  const ids = new Set(
    ns.snapshotters().flatMap((name) =>
      ns
        .snapshots(name)
        .list()
        .flatMap(({layer}) => layer ?? []),
    ),
  );
  return {
    content: new Map(ns.content.list().map(({digest, size}) => [digest, size])),
    layers: new Map([...ids].map((id) => [id, layerBytes(store, id, sizes)])),
  };
}

const total = ({content, layers}: Held): number => [...content.values(), ...layers.values()].reduce((sum, bytes) => sum + bytes, 0);

const exceeded = (namespace: string, quota: number, held: number, more: number, what: string): ErrdefsError =>
  new ErrdefsError(
    'resource_exhausted',
    `namespace ${JSON.stringify(namespace)} holds ${held} B of its quota of ${quota} B: ${what} ${more} B more`,
    {
      hint: `remove images of the namespace, or raise its label ${QUOTA}`,
      details: {namespace, quota, held, needed: more},
    },
  );

/** Whether an error, or one that caused it, tells that a namespace has no room. */
export const isBeyondQuota = (err: unknown): boolean => isErrdefs(err) && (err.details?.quota !== undefined || isBeyondQuota(err.cause));

/** Bytes that may be written where no transaction looks before the namespace is measured again. */
const UNSEEN_BYTES = 16 * 2 ** 20;

/** What an unpacked layer may take. */
export interface Room {
  readonly bytes: number;
  readonly quota: number;
  readonly reason: string;
}

/** What a namespace with a quota may still take, while images are fetched and unpacked into it. */
export class Quota {
  readonly #store: Store;
  readonly #namespace: string;
  readonly #bytes: number;
  readonly #sizes: LayerSizes = new Map();
  readonly #held: Held;
  /** Bytes that are admitted. */
  #taken: number;
  /** Bytes written since the namespace was measured. */
  #unseen = 0;

  private constructor(store: Store, namespace: string, bytes: number) {
    this.#store = store;
    this.#namespace = namespace;
    this.#bytes = bytes;
    this.#held = store.view((tx) => heldBy(store, tx.namespace(namespace), this.#sizes));
    this.#taken = total(this.#held);
  }

  /** `undefined` for a namespace without a quota, of which only its record is read. */
  static of(store: Store, namespace: string): Quota | undefined {
    const bytes = store.view((tx) => quotaOf(tx.namespaces.find(namespace)?.labels));
    return bytes === undefined ? undefined : new Quota(store, namespace, bytes);
  }

  #take(bytes: number, what: string): void {
    this.#check(bytes, what);
    this.#taken += bytes;
  }

  #check(bytes: number, what: string): void {
    if (bytes > 0 && this.#taken + bytes > this.#bytes) throw exceeded(this.#namespace, this.#bytes, this.#taken, bytes, what);
  }

  /** @throws resource_exhausted these blobs, and layers that are on the disk for others, are too much */
  takeContent(blobs: readonly Descriptor[], layers: readonly string[]): void {
    const added = new Map(blobs.filter(({digest}) => !this.#held.content.has(digest)).map(({digest, size}) => [digest, size]));
    const shared = new Set(layers.filter((id) => !this.#held.layers.has(id)));
    const content = [...added.values()].reduce((sum, size) => sum + size, 0);
    this.#take(
      [...shared].reduce((sum, id) => sum + layerBytes(this.#store, id, this.#sizes), content),
      'this needs',
    );
  }

  /** @throws resource_exhausted the layer, which is unpacked now, is too much */
  takeLayer(id: string): void {
    if (!this.#held.layers.has(id)) this.#take(layerBytes(this.#store, id, this.#sizes), 'an unpacked layer needs');
  }

  /**
   * For what is about to be written to what the namespace has already, where no transaction looks.
   *
   * @throws resource_exhausted so many bytes more are too much
   */
  takeBytes(bytes: number): void {
    this.#take(bytes, 'this needs');
  }

  /**
   * After bytes were written that were taken before: measures the namespace now and then. So those who write side by side, each with room for
   * itself, exceed the quota by `UNSEEN_BYTES` each at most.
   *
   * @throws resource_exhausted others have written as well, and the namespace holds more than its quota
   */
  wrote(bytes: number): void {
    this.#unseen += bytes;
    if (this.#unseen < UNSEEN_BYTES) return;
    this.#unseen = 0;
    const held = this.#store.view((tx) => total(heldBy(this.#store, tx.namespace(this.#namespace), this.#sizes)));
    if (held > this.#bytes) throw exceeded(this.#namespace, this.#bytes, held, bytes, 'others write as well, and this needs');
  }

  /** As `takeBytes`, for a copy of a tree. */
  takeTree({size}: TreeUsage): void {
    this.#take(size, 'a copy needs');
  }

  /** As `takeBytes`, and nothing is taken. */
  assertRoomFor(bytes: number): void {
    this.#check(bytes, 'this needs');
  }

  /**
   * As `assertWithinQuota`; what was there when this was made is not measured again.
   *
   * @throws resource_exhausted the namespace would hold more than its quota, and more than before
   */
  assertWithin(ns: NamespaceView): void {
    const after = heldBy(this.#store, ns, new Map(this.#held.layers));
    const {content, layers} = this.#held;
    const grows = [...after.content.keys()].some((key) => !content.has(key)) || [...after.layers.keys()].some((key) => !layers.has(key));
    const [old, now] = [total(this.#held), total(after)];
    if (grows && now > this.#bytes) throw exceeded(this.#namespace, this.#bytes, old, now - old, 'this needs');
  }

  /** For the thread that unpacks a layer: the bytes at which it stops, and why. */
  get room(): Room {
    const left = Math.max(0, this.#bytes - this.#taken);
    return {
      bytes: left,
      quota: this.#bytes,
      reason: `namespace ${JSON.stringify(this.#namespace)} has ${left} B left of its quota of ${this.#bytes} B`,
    };
  }
}

/**
 * Checks a transaction that has given blobs or layers to a namespace. Whatever happened side by side, it decides.
 *
 * @throws resource_exhausted the namespace would hold more than its quota, and more than before
 */
export function assertWithinQuota(store: Store, ns: NamespaceView): void {
  Quota.of(store, ns.name)?.assertWithin(ns);
}
