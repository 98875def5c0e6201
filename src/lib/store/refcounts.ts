/**
 * Reference counts, so that removing one image examines only what it refers to and not ten thousand other images.
 *
 * A count is a document beside the records; the transaction that changes a reference changes the count. Counts are derived data: `rebuild`
 * recreates them from the records, and a collection that finds them inconsistent marks everything instead.
 *
 * Invariant between transactions: every object in a namespace is reachable from a root, or the namespace is due for marking.
 *
 * Labels after containerd, docs/garbage-collection.md and core/metadata/gc.go.
 */
import {hasCode} from '../errdefs.ts';
import type {Digest} from '../oci/descriptor.ts';
import {recordFile, recordPath} from './layout.ts';
import {type Reader, type Writer, WriteSet} from './metadata-contract.ts';
import {isWrongType} from './read-record-files.ts';
import type {ContainerRecord, ContentRecord, ImageRecord, Labels, LeaseRecord, SnapshotRecord} from './records.ts';

/** An object of a namespace, as a key: `content/<digest>`, `image/<name>`, `snapshot/<snapshotter>/<key>`, `container/<id>`. */
export type Node = `content/${string}` | `image/${string}` | `snapshot/${string}` | `container/${string}`;

export const contentNode = (digest: string): Node => `content/${digest}`;
export const imageNode = (name: string): Node => `image/${name}`;
export const snapshotNode = (snapshotter: string, key: string): Node => `snapshot/${snapshotter}/${key}`;
export const containerNode = (id: string): Node => `container/${id}`;

/** Parts of a node; `snapshotter` is empty for all but snapshots. */
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

/** Whether `key` is `prefix`, or continues it with `.` or `/`. */
const hasPrefix = (key: string, prefix: string): boolean => key === prefix || key.startsWith(`${prefix}.`) || key.startsWith(`${prefix}/`);

/** The node that a label refers to: `ref` is a reference, `bref` a back reference from that node. */
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

/** A shared blob or layer, as a key. */
export type SharedKey = `blob/${string}` | `layer/${string}`;

export const blobKey = (digest: Digest): SharedKey => `blob/${digest}`;
export const layerKey = (id: string): SharedKey => `layer/${id}`;

/** References of one record. */
export interface References {
  /** The record's own node; a lease has none, since nothing can refer to it. */
  readonly node?: Node;
  /** Nodes that the record refers to. */
  readonly nodes: readonly Node[];
  /** Those of `nodes` that stand in fields and not in labels; a flat lease follows only these. */
  readonly fieldNodes: readonly Node[];
  readonly shared: readonly SharedKey[];
  /** Nodes with a back reference to the record. */
  readonly referrers: readonly Node[];
  readonly isRoot: boolean;
  /** When the record stops being a root, in milliseconds since the epoch. */
  readonly expires?: number;
  /** A flat lease ignores the labels of its objects. */
  readonly isFlat: boolean;
}

const RFC_3339 = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)$/;

/** Expiry from the label; an invalid time is ignored as in containerd. */
function expiryOf({[EXPIRE]: text = ''}: Labels): Pick<References, 'expires'> {
  const time = RFC_3339.test(text) ? Date.parse(text) : Number.NaN;
  return Number.isNaN(time) ? {} : {expires: time};
}

/** As in containerd, a prefix of the key is enough. */
const hasRootLabel = (labels: Labels): boolean => Object.keys(labels).some((key) => key.startsWith(ROOT));

const references = (node: Node, fieldNodes: readonly Node[], labels: Labels, more: Partial<References> = {}): References => ({
  node,
  fieldNodes,
  nodes: [...fieldNodes, ...labelReferences(labels)],
  referrers: Object.entries(labels).flatMap(([key, value]) => labelTarget(key, value, 'bref') ?? []),
  shared: [],
  isRoot: hasRootLabel(labels),
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
  const fieldNodes = [...content.map(contentNode), ...snapshots.map((s): Node => `snapshot/${s}`)];
  const isFlat = labels[FLAT] !== undefined;
  return {
    fieldNodes,
    nodes: isFlat ? fieldNodes : [...fieldNodes, ...labelReferences(labels)],
    shared: [...content.map(blobKey), ...layers.map(layerKey)],
    referrers: [],
    isRoot: true,
    ...(expiresAt === undefined ? expiryOf(labels) : {expires: Date.parse(expiresAt)}),
    isFlat,
  };
}

export const isRootAt = ({isRoot, expires}: References, now: number): boolean => isRoot && (expires === undefined || expires > now);

/** Whether the record has references that counts do not cover. */
const isIndirect = ({referrers, isFlat}: References): boolean => referrers.length > 0 || isFlat;

/** Whether a change of a record can make it unreachable, judged by the record alone. */
function mayLoseReference(before: References | undefined, after: References): boolean {
  if (before === undefined) return !after.isRoot || after.expires !== undefined;
  if (before.isRoot && (!after.isRoot || (after.expires !== undefined && after.expires !== before.expires))) return true;
  return before.referrers.some((referrer) => !after.referrers.includes(referrer));
}

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

/** Document that marks the counts of a namespace, or the shared ones, as complete; without it they are invalid. */
const COMPLETE = 'complete.json';
/** `rules` numbers the counting rules; counts by older rules are rebuilt. */
const COMPLETED = {version: 1, rules: 2};
/** Marker of the previous rules, which covered neither expiry nor back references. */
const COMPLETED_BEFORE = '{"version":1}';
const isCurrent = (document: unknown): boolean => (document as {readonly rules?: unknown} | undefined)?.rules === COMPLETED.rules;

/** What a collection must know of a namespace in addition to its counts. */
interface Uncounted {
  readonly expiring: number;
  /** Number of records with references that counts do not cover. */
  readonly indirect: number;
  /** No later than the first expiry; RFC 3339, UTC. `OVERDUE` when there may be garbage. */
  readonly due?: string | undefined;
}

/** One document for all namespaces: a collection reads it alone to find the namespaces that are due. */
const UNCOUNTED = `${recordPath.sharedRefs}/uncounted.json`;
const NOTHING_UNCOUNTED: Uncounted = {expiring: 0, indirect: 0};
const OVERDUE = '1970-01-01T00:00:00.000Z';

const dueTime = ({due}: Pick<Uncounted, 'due'>): number => (due === undefined ? Number.POSITIVE_INFINITY : Date.parse(due));
const dueAt = (time: number): Pick<Uncounted, 'due'> => (time === Number.POSITIVE_INFINITY ? {} : {due: new Date(time).toISOString()});

/** By namespace; `undefined` for an invalid document. */
function parseUncounted(document: unknown): ReadonlyMap<string, Uncounted> | undefined {
  const {namespaces = {}} = (document ?? {}) as {readonly namespaces?: unknown};
  if (typeof namespaces !== 'object' || namespaces === null) return undefined;
  const entries = Object.entries(namespaces as Readonly<Record<string, Uncounted>>);
  const isValid = entries.every(
    ([, {expiring, indirect, due}]) =>
      [expiring, indirect].every(Number.isSafeInteger) && (due === undefined || !Number.isNaN(Date.parse(due))),
  );
  return isValid ? new Map(entries) : undefined;
}

/** Stands for an unreadable count, which makes the counts inconsistent. */
const UNREADABLE = Symbol('unreadable');

/** References of a node's record; `undefined` when there is no record. @throws data_loss the record cannot be read */
export type FindReferences = (ns: string, node: Node) => References | undefined;

export class RefCounts {
  readonly #io: Reader & Partial<Writer>;
  readonly #findReferences: FindReferences;
  /** Nodes that this transaction created or deleted, or that lost a reference or a root label; by namespace. */
  readonly #touched = new Map<string, Set<Node>>();
  readonly releasedShared = new Set<SharedKey>();
  /** Namespaces that this transaction has marked completely. */
  readonly #marked = new Set<string>();
  /** Whether `releasedShared` is removed after this transaction. */
  #isCollected = false;
  /** False once a count was missing or impossible. */
  #consistent = true;

  constructor(io: Reader & Partial<Writer>, findReferences: FindReferences = () => undefined) {
    this.#io = io;
    this.#findReferences = findReferences;
  }

  /** Whether the counts of a namespace and the shared counts are consistent. */
  isConsistent(ns: string): boolean {
    return this.isSharedConsistent() && isCurrent(this.#get(`${recordPath.refs(ns)}/${COMPLETE}`));
  }

  /** Whether the shared counts and `uncounted.json` are consistent. */
  isSharedConsistent(): boolean {
    return this.#consistent && isCurrent(this.#get(`${recordPath.sharedRefs}/${COMPLETE}`)) && this.#get(UNCOUNTED) !== UNREADABLE;
  }

  /** Namespaces in which this transaction may have made an object unreachable. */
  get touched(): readonly string[] {
    return [...this.#touched].filter(([, nodes]) => nodes.size > 0).map(([ns]) => ns);
  }

  /** Namespaces in which something has expired, or in which an earlier transaction may have left garbage. */
  due(now: number): readonly string[] {
    return [...this.#uncounted()].flatMap(([ns, {due}]) => (dueTime({due}) <= now ? [ns] : []));
  }

  /** Whether a namespace has back references or flat leases, which counts do not cover. */
  isIndirect(ns: string): boolean {
    return this.#uncountedOf(ns).indirect > 0;
  }

  /**
   * The unreachable nodes of a namespace, where `isIndirect` is false and nothing was due.
   *
   * Every node was reachable before this transaction, so an unreachable one is touched or reachable from a touched one. The search follows
   * that subgraph. A node of it has a reference from outside if its count exceeds the references from inside.
   *
   * @throws data_loss the record of an otherwise unreferenced node cannot be read
   */
  unreachable(ns: string, now: number): readonly Node[] {
    const part = new Map<Node, References>();
    const unreadable = new Map<Node, unknown>();
    const queue = [...(this.#touched.get(ns) ?? [])];
    for (let node = queue.pop(); node !== undefined; node = queue.pop()) {
      if (part.has(node) || unreadable.has(node)) continue;
      try {
        const record = this.#findReferences(ns, node);
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

  /** Forgets the touched nodes of a namespace once they are collected. */
  clearTouched(ns: string): void {
    this.#touched.delete(ns);
  }

  /** Notes that a namespace was marked and its unreachable records were deleted. @param records the remaining ones */
  noteMarked(ns: string, records: Iterable<References>): void {
    this.clearTouched(ns);
    this.#marked.add(ns);
    let first = Number.POSITIVE_INFINITY;
    for (const {expires} of records) first = Math.min(first, expires ?? first);
    const {due: _, ...uncounted} = this.#uncountedOf(ns);
    this.#putUncounted(ns, {...uncounted, ...dueAt(first)});
  }

  /** Notes that the caller removes `releasedShared` after the commit. */
  willCollectShared(): void {
    this.#isCollected = true;
  }

  /** Blobs and layers that this transaction released and that nobody removes after it. */
  get uncollected(): readonly SharedKey[] {
    return this.#isCollected ? [] : [...this.releasedShared];
  }

  /** At the end of a transaction: makes namespaces with uncollected garbage due for the next collection. */
  deferCollection(now: number): void {
    for (const ns of this.touched) {
      if (!this.isConsistent(ns)) continue; // the next collection marks everything anyway
      if (this.isIndirect(ns) || this.#leaves(ns, now)) this.#putUncounted(ns, {...this.#uncountedOf(ns), due: OVERDUE});
    }
  }

  #leaves(ns: string, now: number): boolean {
    try {
      return this.unreachable(ns, now).length > 0;
    } catch (err) {
      if (!hasCode(err, 'data_loss')) throw err;
      return false; // everything is marked once the record is repaired
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

  /** Starts the counts of a new, empty namespace, and the shared ones with the first namespace. */
  beginNamespace(ns: string, isFirst: boolean): void {
    this.#io.put!(`${recordPath.refs(ns)}/${COMPLETE}`, COMPLETED);
    if (isFirst) this.#io.put!(`${recordPath.sharedRefs}/${COMPLETE}`, COMPLETED);
  }

  /** Ends the counts of a removed, empty namespace. */
  endNamespace(ns: string): void {
    this.clearTouched(ns);
    this.#incomplete(ns);
    this.#putUncounted(ns, NOTHING_UNCOUNTED);
  }

  #incomplete(ns: string): void {
    this.#io.put!(`${recordPath.refs(ns)}/${COMPLETE}`, undefined);
  }

  /** Counts a change of one record's references; `before` is undefined for a new record, `after` for a deleted one. */
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

  /** Marks all counts as inconsistent until they are rebuilt: a record or a count was unreadable, so references are unknown. */
  invalidate(): void {
    this.#consistent = false;
    for (const ns of this.#io.directories(recordPath.namespaces)) this.#incomplete(ns);
    this.#io.put!(`${recordPath.sharedRefs}/${COMPLETE}`, undefined);
  }

  /** Rebuilds all counts and writes those that differ. @param namespaces references of all records, by namespace */
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

  /** @throws data_loss the path has a wrong file type, so it cannot be replaced */
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
    else this.invalidate(); // also for NaN
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

/** The correct counts by path. @param namespaces references of all records, by namespace */
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
 * Paths of wrong counts.
 *
 * @param namespaces references of all records, by namespace
 * @param found the stored counts by path; an unreadable one is `undefined`
 */
export function wrongCounts(
  namespaces: ReadonlyMap<string, readonly References[]>,
  found: ReadonlyMap<string, unknown>,
): readonly string[] {
  const right = expectedCounts(namespaces);
  // Counts by older rules are not wrong: the next collection rebuilds them.
  const isOld = [...found].some(([path, document]) => path.endsWith(`/${COMPLETE}`) && JSON.stringify(document) === COMPLETED_BEFORE);
  const differs = (path: string): boolean => {
    if (isOld && (path === UNCOUNTED || path.endsWith(`/${COMPLETE}`))) return false;
    if (path === UNCOUNTED) return !isDueEarlyEnough(found.get(path), right.get(path));
    return JSON.stringify(right.get(path)) !== JSON.stringify(found.get(path));
  };
  return [...new Set([...right.keys(), ...found.keys()])].filter(differs).sort();
}

/** Whether each namespace is due no later than it must be; the record that was due first may be gone. */
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
