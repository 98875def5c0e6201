/**
 * Counts of references: so that removing one image looks at what that image kept, and not at ten thousand others.
 *
 * A count is a document beside the records, changed in the same transaction as the record that refers. It is derived:
 * `rebuild` makes it anew from the records, and where anything is odd the collection falls back to marking everything.
 *
 * Between transactions, every object that a namespace shows is reachable from a root, or the namespace is due for marking.
 *
 * Labels after containerd, docs/garbage-collection.md and core/metadata/gc.go.
 */
import {hasCode} from '../errdefs.ts';
import type {Digest} from '../oci/descriptor.ts';
import {recordFile, recordPath} from './layout.ts';
import {type Reader, type Writer, WriteSet} from './metadata-backend.ts';
import {isWrongType} from './record-files.ts';
import type {ContainerRecord, ContentRecord, ImageRecord, Labels, LeaseRecord, SnapshotRecord} from './records.ts';

/** An object of a namespace, as a key: `content/<digest>`, `image/<name>`, `snapshot/<snapshotter>/<key>`, `container/<id>`. */
export type Node = `content/${string}` | `image/${string}` | `snapshot/${string}` | `container/${string}`;

export const contentNode = (digest: string): Node => `content/${digest}`;
export const imageNode = (name: string): Node => `image/${name}`;
export const snapshotNode = (snapshotter: string, key: string): Node => `snapshot/${snapshotter}/${key}`;
export const containerNode = (id: string): Node => `container/${id}`;

/** The parts of a node; the snapshotter of a snapshot only. */
export function nodeParts(node: Node): {
  readonly kind: 'content' | 'image' | 'snapshot' | 'container';
  readonly snapshotter: string;
  readonly key: string;
} {
  const [kind, ...rest] = node.split('/') as ['content' | 'image' | 'snapshot' | 'container', ...string[]];
  const snapshotter = kind === 'snapshot' ? rest.shift()! : '';
  return {kind, snapshotter, key: rest.join('/')};
}

export const ROOT = 'containerd.io/gc.root';
export const FLAT = 'containerd.io/gc.flat';
export const EXPIRE = 'containerd.io/gc.expire';

/** `prefix` itself, or `prefix` followed by `.` or `/`: other suffixes are other labels. */
const hasPrefix = (key: string, prefix: string): boolean => key === prefix || key.startsWith(`${prefix}.`) || key.startsWith(`${prefix}/`);

/** The node that one label names, forwards (`ref`: I keep it) or backwards (`bref`: it keeps me). */
export function labelTarget(key: string, value: string, direction: 'ref' | 'bref'): Node | undefined {
  const prefix = `containerd.io/gc.${direction}.`;
  if (!key.startsWith(prefix)) return undefined;
  if (hasPrefix(key, `${prefix}content`)) return contentNode(value);
  if (hasPrefix(key, `${prefix}image`)) return imageNode(value);
  if (direction === 'bref' && hasPrefix(key, `${prefix}container`)) return containerNode(value);
  if (key.startsWith(`${prefix}snapshot.`)) {
    const snapshotter = key.slice(`${prefix}snapshot.`.length).split('/', 1)[0]!;
    return snapshotNode(snapshotter, value);
  }
  return undefined;
}

export function labelReferences(labels: Labels): readonly Node[] {
  return Object.entries(labels).flatMap(([key, value]) => labelTarget(key, value, 'ref') ?? []);
}

/** What all namespaces share, as a key. */
export type SharedKey = `blob/${string}` | `layer/${string}`;

export const blobKey = (digest: Digest): SharedKey => `blob/${digest}`;
export const layerKey = (id: string): SharedKey => `layer/${id}`;

/** What one record means for a collection. */
export interface References {
  /** The object itself. Nothing can refer to a lease: it has none. */
  readonly node?: Node;
  /** Objects that it keeps. */
  readonly nodes: readonly Node[];
  /** Those of `nodes` that it keeps by its fields, and not by its labels: all that a flat lease follows. */
  readonly own: readonly Node[];
  readonly shared: readonly SharedKey[];
  /** Objects that keep it: its back references. */
  readonly referrers: readonly Node[];
  readonly isRoot: boolean;
  /** From when on it is no root any more, in milliseconds since the epoch. */
  readonly expires?: number;
  /** A lease that does not keep what the labels of its objects name. */
  readonly isFlat: boolean;
}

const RFC_3339 = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)$/;

/** What the label for it says of when something expires; as in containerd, a time that cannot be read says nothing. */
function expiryOf({[EXPIRE]: text = ''}: Labels): Pick<References, 'expires'> {
  const time = RFC_3339.test(text) ? Date.parse(text) : Number.NaN;
  return Number.isNaN(time) ? {} : {expires: time};
}

/** As in containerd, any key that begins so. */
const hasRoot = (labels: Labels): boolean => Object.keys(labels).some((key) => key.startsWith(ROOT));

const references = (node: Node, own: readonly Node[], labels: Labels, more: Partial<References> = {}): References => ({
  node,
  own,
  nodes: [...own, ...labelReferences(labels)],
  referrers: Object.entries(labels).flatMap(([key, value]) => labelTarget(key, value, 'bref') ?? []),
  shared: [],
  isRoot: hasRoot(labels),
  isFlat: false,
  ...more,
});

export const referencesOfImage = ({name, target, labels}: ImageRecord): References =>
  references(imageNode(name), [contentNode(target.digest)], labels, {isRoot: true, ...expiryOf(labels)});

export const referencesOfContainer = ({id, snapshotter, snapshotKey, labels}: ContainerRecord): References =>
  references(containerNode(id), snapshotKey === '' ? [] : [snapshotNode(snapshotter, snapshotKey)], labels, {isRoot: true});

export const referencesOfContent = ({digest, labels}: ContentRecord): References =>
  references(contentNode(digest), [], labels, {shared: [blobKey(digest)]});

export const referencesOfSnapshot = ({snapshotter, key, parent, layer, labels}: SnapshotRecord): References =>
  references(snapshotNode(snapshotter, key), parent === undefined ? [] : [snapshotNode(snapshotter, parent)], labels, {
    shared: layer === undefined ? [] : [layerKey(layer)],
  });

export function referencesOfLease({content, snapshots, layers, labels, expiresAt}: LeaseRecord): References {
  const own = [...content.map(contentNode), ...snapshots.map((s): Node => `snapshot/${s}`)];
  const isFlat = labels[FLAT] !== undefined;
  return {
    own,
    nodes: isFlat ? own : [...own, ...labelReferences(labels)],
    shared: [...content.map(blobKey), ...layers.map(layerKey)],
    referrers: [],
    isRoot: true,
    ...(expiresAt === undefined ? expiryOf(labels) : {expires: Date.parse(expiresAt)}),
    isFlat,
  };
}

export const isRootAt = ({isRoot, expires}: References, now: number): boolean => isRoot && (expires === undefined || expires > now);

/** Whether it keeps something, or is kept, in a way that counts do not tell. */
const isIndirect = ({referrers, isFlat}: References): boolean => referrers.length > 0 || isFlat;

/** Whether an object that stays may have lost what kept it, as far as its own record says. */
function mayLoseReference(before: References | undefined, after: References): boolean {
  if (before === undefined) return !after.isRoot || after.expires !== undefined;
  if (before.isRoot && (!after.isRoot || (after.expires !== undefined && after.expires !== before.expires))) return true;
  return before.referrers.some((referrer) => !after.referrers.includes(referrer));
}

/** All nodes reachable from `roots`. */
export function reachableFrom(roots: Iterable<Node>, refs: (node: Node) => Iterable<Node>): Set<Node> {
  const live = new Set<Node>();
  const queue = [...roots];
  for (let node = queue.pop(); node !== undefined; node = queue.pop()) {
    if (live.has(node)) continue;
    live.add(node);
    for (const next of refs(node)) queue.push(next);
  }
  return live;
}

/** Says that the counts of a namespace, or the shared ones, are complete. Without it they mean nothing. */
const COMPLETE = 'complete.json';
/** `rules` is of what is counted: counts by older ones are counted anew. */
const COMPLETED = {version: 1, rules: 2};
/** What says so of counts by the rules before, which told neither of expiry nor of what is kept indirectly. */
const COMPLETED_BEFORE = '{"version":1}';
const isCurrent = (document: unknown): boolean => (document as {readonly rules?: unknown} | undefined)?.rules === COMPLETED.rules;

/** What a collection has to know of a namespace beside its counts. */
interface Uncounted {
  /** Records that expire. */
  readonly expiring: number;
  /** Records that keep something, or are kept, in a way that counts do not tell. */
  readonly indirect: number;
  /** No later than the first of those that expire does; RFC 3339, UTC. `OVERDUE` where there may be garbage. */
  readonly due?: string | undefined;
}

/** Beside the shared counts: a deletion in one namespace collects in all that are due, and looks into no other. */
const UNCOUNTED = `${recordPath.sharedRefs}/uncounted.json`;
const NOTHING_UNCOUNTED: Uncounted = {expiring: 0, indirect: 0};
const OVERDUE = '1970-01-01T00:00:00.000Z';

const dueTime = ({due}: Pick<Uncounted, 'due'>): number => (due === undefined ? Number.POSITIVE_INFINITY : Date.parse(due));
const dueAt = (time: number): Pick<Uncounted, 'due'> => (time === Number.POSITIVE_INFINITY ? {} : {due: new Date(time).toISOString()});

/** By namespace; `undefined` for what is no such document. */
function parseUncounted(document: unknown): ReadonlyMap<string, Uncounted> | undefined {
  const {namespaces = {}} = (document ?? {}) as {readonly namespaces?: unknown};
  if (typeof namespaces !== 'object' || namespaces === null) return undefined;
  const entries = Object.entries(namespaces as Readonly<Record<string, Uncounted>>);
  const isWhole = entries.every(
    ([, {expiring, indirect, due}]) =>
      [expiring, indirect].every(Number.isSafeInteger) && (due === undefined || !Number.isNaN(Date.parse(due))),
  );
  return isWhole ? new Map(entries) : undefined;
}

/** In the place of a count that cannot be read: it counts as wrong, and everything is looked at instead. */
const UNREADABLE = Symbol('unreadable');

/** What the record of an object keeps; `undefined` when it has none. @throws data_loss it cannot be read */
export type LookUp = (ns: string, node: Node) => References | undefined;

/** The counts as one transaction sees and changes them. */
export class RefCounts {
  readonly #io: Reader & Partial<Writer>;
  readonly #lookUp: LookUp;
  /** Objects that this transaction has removed or made, or that have lost a reference or a label that kept them; by namespace. */
  readonly #touched = new Map<string, Set<Node>>();
  /** Shared things whose last reference went in this transaction. */
  readonly releasedShared = new Set<SharedKey>();
  /** Namespaces in which this transaction has marked everything. */
  readonly #marked = new Set<string>();
  /** Whether what is released is removed after this transaction. */
  #isCollected = false;
  /** False once a count was found missing or impossible. */
  #consistent = true;

  constructor(io: Reader & Partial<Writer>, lookUp: LookUp = () => undefined) {
    this.#io = io;
    this.#lookUp = lookUp;
  }

  /** Whether the counts of a namespace and the shared ones can be believed. */
  isConsistent(ns: string): boolean {
    return this.isSharedConsistent() && isCurrent(this.#get(`${recordPath.refs(ns)}/${COMPLETE}`));
  }

  /** Whether the shared counts can be believed, and what is known of all namespaces beside their counts. */
  isSharedConsistent(): boolean {
    return this.#consistent && isCurrent(this.#get(`${recordPath.sharedRefs}/${COMPLETE}`)) && this.#get(UNCOUNTED) !== UNREADABLE;
  }

  /** Namespaces in which this transaction may have cut something off. */
  get touched(): readonly string[] {
    return [...this.#touched].filter(([, nodes]) => nodes.size > 0).map(([ns]) => ns);
  }

  /** Namespaces in which something has expired, or an earlier transaction has left what nothing keeps. */
  due(now: number): readonly string[] {
    return [...this.#uncounted()].flatMap(([ns, {due}]) => (dueTime({due}) <= now ? [ns] : []));
  }

  /** Whether counts are not enough in a namespace: it has back references, or leases that are flat. */
  isIndirect(ns: string): boolean {
    return this.#uncountedOf(ns).indirect > 0;
  }

  /**
   * The objects of a namespace that nothing keeps any more, where nothing in it is kept indirectly and nothing was due.
   *
   * Everything was reachable before this transaction, so what is not now hangs on what was touched: that part of the graph
   * is followed, and of each object in it the references from outside of it are what its count has beyond those from inside.
   *
   * @throws data_loss the record of one that nothing else keeps cannot be read
   */
  unreachable(ns: string, now: number): readonly Node[] {
    const part = new Map<Node, References>();
    const unreadable = new Map<Node, unknown>();
    const queue = [...(this.#touched.get(ns) ?? [])];
    for (let node = queue.pop(); node !== undefined; node = queue.pop()) {
      if (part.has(node) || unreadable.has(node)) continue;
      try {
        const record = this.#lookUp(ns, node);
        if (record === undefined || isRootAt(record, now)) continue;
        part.set(node, record);
        for (const next of record.nodes) queue.push(next);
      } catch (err) {
        if (!hasCode(err, 'data_loss')) throw err;
        unreadable.set(node, err);
      }
    }
    const inside = new Map<Node, number>();
    for (const {nodes} of part.values()) for (const node of new Set(nodes)) inside.set(node, (inside.get(node) ?? 0) + 1);
    const isKept = (node: Node): boolean => this.count(ns, node) > (inside.get(node) ?? 0);
    const live = reachableFrom([...part.keys()].filter(isKept), (node) => part.get(node)?.nodes ?? []);
    for (const [node, err] of unreadable) if (!live.has(node) && !isKept(node)) throw err;
    return [...part.keys()].filter((node) => !live.has(node));
  }

  /** What was touched in a namespace is dealt with. */
  clearTouched(ns: string): void {
    this.#touched.delete(ns);
  }

  /** Everything in a namespace was marked, and what was not reached is gone. @param records what is left */
  noteMarked(ns: string, records: Iterable<References>): void {
    this.clearTouched(ns);
    this.#marked.add(ns);
    let first = Number.POSITIVE_INFINITY;
    for (const {expires} of records) first = Math.min(first, expires ?? first);
    const {due: _, ...uncounted} = this.#uncountedOf(ns);
    this.#putUncounted(ns, {...uncounted, ...dueAt(first)});
  }

  /** Somebody removes, after this transaction, what is in `releasedShared` then. */
  willCollectShared(): void {
    this.#isCollected = true;
  }

  /** Shared things that this transaction has released, and that nobody removes after it. */
  get uncollected(): readonly SharedKey[] {
    return this.#isCollected ? [] : [...this.releasedShared];
  }

  /** At the end of a transaction: what it has cut off and not collected is left to the next collection. */
  deferCollection(now: number): void {
    for (const ns of this.touched) {
      if (!this.isConsistent(ns)) continue; // the next collection marks everything
      if (this.isIndirect(ns) || this.#leaves(ns, now)) this.#putUncounted(ns, {...this.#uncountedOf(ns), due: OVERDUE});
    }
  }

  #leaves(ns: string, now: number): boolean {
    try {
      return this.unreachable(ns, now).length > 0;
    } catch (err) {
      if (!hasCode(err, 'data_loss')) throw err;
      return false; // once it is repaired everything is marked
    }
  }

  count(ns: string, node: Node): number {
    const n = this.#read(nodePath(ns, node));
    if (Number.isNaN(n)) this.invalidate();
    return n;
  }

  countShared(key: SharedKey): number {
    return this.#read(sharedPath(key));
  }

  /** A new, empty namespace has complete counts; so have the shared ones when it is the first. */
  beginNamespace(ns: string, isFirst: boolean): void {
    this.#io.put!(`${recordPath.refs(ns)}/${COMPLETE}`, COMPLETED);
    if (isFirst) this.#io.put!(`${recordPath.sharedRefs}/${COMPLETE}`, COMPLETED);
  }

  /** The namespace is gone, and all that was in it. */
  endNamespace(ns: string): void {
    this.clearTouched(ns);
    this.#incomplete(ns);
    this.#putUncounted(ns, NOTHING_UNCOUNTED);
  }

  #incomplete(ns: string): void {
    this.#io.put!(`${recordPath.refs(ns)}/${COMPLETE}`, undefined);
  }

  /** A record of `ns` kept `before` and keeps `after`; either may be nothing. */
  change(ns: string, before: References | undefined, after: References | undefined): void {
    const [oldNodes, newNodes] = [new Set(before?.nodes), new Set(after?.nodes)];
    const [oldShared, newShared] = [new Set(before?.shared), new Set(after?.shared)];
    const touched = this.#touched.get(ns) ?? new Set();
    this.#touched.set(ns, touched);
    for (const node of newNodes.difference(oldNodes)) this.#add(nodePath(ns, node), 1);
    for (const node of oldNodes.difference(newNodes)) {
      this.#add(nodePath(ns, node), -1);
      touched.add(node);
    }
    if (after === undefined ? before?.node !== undefined : after.node !== undefined && mayLoseReference(before, after))
      touched.add((after ?? before)!.node!);
    this.#changeUncounted(ns, before, after);
    for (const key of newShared.difference(oldShared)) {
      this.#add(sharedPath(key), 1);
      this.releasedShared.delete(key);
    }
    for (const key of oldShared.difference(newShared)) if (this.#add(sharedPath(key), -1) === 0) this.releasedShared.add(key);
  }

  #changeUncounted(ns: string, before: References | undefined, after: References | undefined): void {
    const tally = (one: References | undefined, of: (one: References) => boolean): number => Number(one !== undefined && of(one));
    const change = (of: (one: References) => boolean): number => tally(after, of) - tally(before, of);
    const expires = ({expires}: References): boolean => expires !== undefined;
    if (tally(before, expires) + tally(after, expires) + tally(before, isIndirect) + tally(after, isIndirect) === 0) return;
    const old = this.#uncountedOf(ns);
    const [expiring, indirect] = [old.expiring + change(expires), old.indirect + change(isIndirect)];
    if (expiring < 0 || indirect < 0) {
      this.invalidate();
      return;
    }
    const first = Math.min(dueTime(old), after?.expires ?? Number.POSITIVE_INFINITY);
    const due = old.due === OVERDUE ? {due: OVERDUE} : expiring === 0 ? {} : dueAt(first);
    this.#putUncounted(ns, {expiring, indirect, ...due});
  }

  #uncounted(): ReadonlyMap<string, Uncounted> {
    const document = this.#get(UNCOUNTED);
    const uncounted = document === UNREADABLE ? undefined : parseUncounted(document);
    if (uncounted === undefined) this.invalidate();
    return uncounted ?? new Map();
  }

  #uncountedOf(ns: string): Uncounted {
    return this.#uncounted().get(ns) ?? NOTHING_UNCOUNTED;
  }

  #putUncounted(ns: string, uncounted: Uncounted): void {
    const all = new Map(this.#uncounted());
    const isThere = all.delete(ns);
    if (uncounted.expiring + uncounted.indirect > 0 || uncounted.due !== undefined) all.set(ns, uncounted);
    else if (!isThere) return;
    this.#io.put!(UNCOUNTED, all.size === 0 ? undefined : {version: 1, namespaces: Object.fromEntries([...all].sort())});
  }

  /**
   * A record or a count was there that could not be read: what is kept is not known, and is not even where it can be read again,
   * until everything is counted anew.
   */
  invalidate(): void {
    this.#consistent = false;
    for (const ns of this.#io.directories(recordPath.namespaces)) this.#incomplete(ns);
    this.#io.put!(`${recordPath.sharedRefs}/${COMPLETE}`, undefined);
  }

  /** Counts everything anew, and writes what is not as it should be. @param namespaces all of them, with what each of their records keeps */
  rebuild(namespaces: ReadonlyMap<string, readonly References[]>): void {
    const counts = expectedCounts(namespaces);
    for (const directory of [recordPath.sharedRefs, ...[...namespaces.keys()].map(recordPath.refs)])
      for (const name of this.#io.list(directory)) {
        const path = `${directory}/${name}`;
        if (!counts.has(path)) this.#io.put!(path, undefined);
      }
    for (const [path, count] of counts) if (!this.#holds(path, count)) this.#io.put!(path, count);
    this.#consistent = true;
    for (const ns of namespaces.keys()) if (!this.#marked.has(ns)) this.#putUncounted(ns, {...this.#uncountedOf(ns), due: OVERDUE});
  }

  #holds(path: string, count: unknown): boolean {
    try {
      return JSON.stringify(this.#io.get(path)) === JSON.stringify(count);
    } catch (err) {
      if (hasCode(err, 'data_loss') || hasCode(err, 'permission_denied')) return false;
      throw err;
    }
  }

  #read(path: string): number {
    const document = this.#get(path);
    if (document === UNREADABLE) return Number.NaN;
    const n = (document as {readonly n?: unknown} | undefined)?.n ?? 0;
    return typeof n === 'number' ? n : Number.NaN;
  }

  /** @throws data_loss something else is in the place of the file, so that it cannot be replaced */
  #get(path: string): unknown {
    try {
      return this.#io.get(path);
    } catch (err) {
      if (!(hasCode(err, 'data_loss') || hasCode(err, 'permission_denied')) || isWrongType(err)) throw err;
      return UNREADABLE;
    }
  }

  #add(path: string, by: number): number {
    const n = this.#read(path) + by;
    if (n >= 0) this.#io.put!(path, n === 0 ? undefined : {version: 1, n});
    else this.invalidate(); // also where the count was no number
    return n;
  }
}

const EMPTY_READER: Reader = {
  get: () => undefined,
  list: () => [],
  directories: () => [],
  locate: (path) => path,
  lost: () => [],
  generation: 0,
  changesSince: () => undefined,
};

/** The counts as they should be, by path. @param namespaces all of them, with what each of their records keeps */
export function expectedCounts(namespaces: ReadonlyMap<string, readonly References[]>): ReadonlyMap<string, unknown> {
  const counted = new WriteSet(EMPTY_READER);
  const counts = new RefCounts(counted);
  for (const [ns, all] of namespaces) {
    counts.beginNamespace(ns, false);
    for (const one of all) counts.change(ns, undefined, one);
  }
  counted.put(`${recordPath.sharedRefs}/${COMPLETE}`, COMPLETED);
  return counted.writes;
}

/**
 * Paths at which counts are not as they should be.
 *
 * @param namespaces all of them, with what each of their records keeps
 * @param found the counts that there are, by path; one that cannot be read is `undefined`
 */
export function wrongCounts(
  namespaces: ReadonlyMap<string, readonly References[]>,
  found: ReadonlyMap<string, unknown>,
): readonly string[] {
  const right = expectedCounts(namespaces);
  // Counts by older rules are not wrong: the next collection counts anew.
  const isOld = [...found].some(([path, document]) => path.endsWith(`/${COMPLETE}`) && JSON.stringify(document) === COMPLETED_BEFORE);
  const differs = (path: string): boolean => {
    if (isOld && (path === UNCOUNTED || path.endsWith(`/${COMPLETE}`))) return false;
    if (path === UNCOUNTED) return !isDueEarlyEnough(found.get(path), right.get(path));
    return JSON.stringify(right.get(path)) !== JSON.stringify(found.get(path));
  };
  return [...new Set([...right.keys(), ...found.keys()])].filter(differs).sort();
}

/** Whether each namespace is looked at no later than it should be; what was due first may be gone. */
function isDueEarlyEnough(found: unknown, right: unknown): boolean {
  const [one, other] = [found, right].map(parseUncounted);
  if (one === undefined || other === undefined) return false;
  return [...new Set([...one.keys(), ...other.keys()])].every((ns) => {
    const [a, b] = [one.get(ns) ?? NOTHING_UNCOUNTED, other.get(ns) ?? NOTHING_UNCOUNTED];
    return a.expiring === b.expiring && a.indirect === b.indirect && dueTime(a) <= dueTime(b);
  });
}

const nodePath = (ns: string, node: Node): string => `${recordPath.refs(ns)}/${recordFile(node)}`;
const sharedPath = (key: SharedKey): string => `${recordPath.sharedRefs}/${recordFile(key)}`;
