/** What is wrong with a store, as far as one sees without reading all its bytes. Looks, and touches nothing. */
import {closeSync, lstatSync, openSync, readSync, type Stats} from 'node:fs';
import {dirname, join} from 'node:path';
import {type Code, fromErrno, isErrdefs} from '../../errdefs.ts';
import {type Digest, isDigest} from '../../oci/descriptor.ts';
import {downloadKey} from '../../store/blob-store.ts';
import {isFormerMountLease, isLeaseExpired} from '../../store/gc.ts';
import {isOwnLayer} from '../../store/layer-store.ts';
import {recordFile, recordPath} from '../../store/layout.ts';
import type {ContentRecord, SnapshotRecord} from '../../store/records.ts';
import {wrongCounts} from '../../store/refcounts.ts';
import {snapshotterNames} from '../../store/snapshotters.ts';
import type {Store} from '../../store/store.ts';
import {type EntryFinding, surveyStructure} from '../../store/survey-entries.ts';
import {type RecordSurvey, referencesIn, type SurveyedNamespace, type Unreadable} from '../../store/survey-records.ts';
import type {Finding} from '../types/index.ts';
import type {Pause} from './pause.ts';

/** What a finding is about, for those who repair. */
export type Subject =
  | {readonly kind: 'record'; readonly record: Unreadable}
  | {readonly kind: 'namespace'; readonly name: string}
  /** The bytes of a blob. */
  | {readonly kind: 'blob'; readonly digest: Digest}
  /** A namespace lacks the record of content that it needs. */
  | {readonly kind: 'content'; readonly namespace: string; readonly digest: Digest}
  | {readonly kind: 'layer'; readonly id: string}
  /** A snapshot that somebody needs and that has no record. */
  | {readonly kind: 'snapshot'; readonly namespace: string; readonly snapshotter: string; readonly key: string}
  | {readonly kind: 'container'; readonly namespace: string; readonly id: string}
  | {readonly kind: 'run'; readonly namespace: string; readonly id: string}
  /** What a process mounted for a moment. */
  | {readonly kind: 'view'}
  | {readonly kind: 'counts'}
  | {readonly kind: 'ingest'; readonly key: string}
  /** The next collection takes it. */
  | {readonly kind: 'garbage'}
  | {readonly kind: 'odd'; readonly oddity: EntryFinding}
  | {readonly kind: 'none'};

export interface Problem extends Pick<Finding, 'severity' | 'object' | 'namespace' | 'problem' | 'path'> {
  readonly subject: Subject;
}

export type ProblemOf<K extends Subject['kind']> = Problem & {readonly subject: Extract<Subject, {readonly kind: K}>};

/** Those of `problems` that are about such subjects. */
export const problemsOf = <K extends Subject['kind']>(problems: readonly Problem[], ...kinds: readonly K[]): readonly ProblemOf<K>[] =>
  problems.filter((problem): problem is ProblemOf<K> => (kinds as readonly string[]).includes(problem.subject.kind));

/** The same problem has the same key whenever it is seen. */
export const keyOf = ({severity, object, namespace = '', problem, path}: Problem): string =>
  [severity, namespace, object, problem, path].join('\n');

export interface Inspection {
  readonly survey: RecordSurvey;
  readonly problems: readonly Problem[];
  /** Blobs that a record names, with the size that it says. */
  readonly blobs: ReadonlyMap<Digest, number>;
  /** Layers that a record names, with the name of a snapshotter whose snapshot does. */
  readonly layers: ReadonlyMap<string, string>;
  /** Blobs and layers that no record names. */
  readonly unnamed: {readonly blobs: readonly Digest[]; readonly layers: readonly string[]};
}

const ODD = {
  link: ['damage', 'is a symbolic link'],
  type: ['damage', 'has the wrong file type'],
  foreign: ['garbage', 'was not created by berth'],
  leftover: ['garbage', 'was left by a process that has ended'],
  unreadable: ['damage', 'cannot be listed'],
} as const satisfies Readonly<Record<EntryFinding['kind'], readonly [Finding['severity'], string]>>;

/** What is odd below a directory, in words. */
export const oddities = (odd: readonly EntryFinding[], top: string): readonly Problem[] =>
  odd.map((oddity) => {
    const {kind, path} = oddity;
    const [severity, problem] = ODD[kind];
    const object = `entry ${path.slice(top.length + 1)}`;
    return {severity, object, problem, path, subject: kind === 'leftover' ? {kind: 'garbage'} : {kind: 'odd', oddity}};
  });

/** @param survey as it is now; blobs and layers are looked at after it @param pause what it throws ends the look */
export function inspect(store: Store, survey: RecordSurvey, pause: Pause): Promise<Inspection> {
  return new Inspector(store, survey, pause).run();
}

const lstat = (path: string): Stats | undefined => {
  try {
    return lstatSync(path, {throwIfNoEntry: false});
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code === 'ENOTDIR') return undefined;
    throw fromErrno(err, path);
  }
};

/** Whether a file gives back its first byte, in a few words why not. Reads no more: `check --deep` does. */
function unreadable(path: string): string | undefined {
  try {
    const fd = openSync(path, 'r');
    try {
      readSync(fd, Buffer.alloc(1), 0, 1, 0);
    } finally {
      closeSync(fd);
    }
    return undefined;
  } catch (err) {
    return cannotBeRead(err);
  }
}

/** The problem of something that the system does not give back. @throws err it is another one */
export function cannotBeRead(err: unknown): string {
  const failure = fromErrno(err, 'cannot be read');
  if (!isErrdefs(failure) || !UNREADABLE.includes(failure.code)) throw failure;
  return failure.message.replace(/: [a-z ]+$/, '');
}

const UNREADABLE: readonly Code[] = ['data_loss', 'permission_denied', 'failed_precondition', 'not_found', 'unknown'];

/** Keys of the labels by which a manifest keeps its config and its layers; see oci/manifest.ts (gcLabels). */
const NEEDED = /^containerd\.io\/gc\.ref\.content\.(?:config|l\.\d+)$/;
const CHILD = /^containerd\.io\/gc\.ref\.content\.m\.\d+$/;
const UNPACKED = 'containerd.io/gc.ref.snapshot.';

class Inspector {
  readonly #pause: Pause;
  readonly #store: Store;
  readonly #survey: RecordSurvey;
  readonly #problems: Problem[] = [];
  readonly #blobs = new Map<Digest, number>();
  readonly #layers = new Map<string, string>();
  readonly #unnamed = {blobs: [] as Digest[], layers: [] as string[]};
  /** What only leases name: it need not be there. */
  readonly #leased = {blobs: new Set<Digest>(), layers: new Set<string>()};

  /** Paths of records that are there and cannot be read, and of directories: what they say is not missing. */
  readonly #unread: ReadonlySet<string>;

  constructor(store: Store, survey: RecordSurvey, pause: Pause) {
    this.#pause = pause;
    this.#store = store;
    this.#survey = survey;
    this.#unread = new Set(survey.unreadable.map(({path}) => path));
  }

  async run(): Promise<Inspection> {
    const odd = surveyStructure(this.#store.layout);
    await this.#pause();
    this.#problems.push(...oddities(odd, this.#store.layout.root));
    this.#unreadable(new Set(odd.map(({path}) => path)));
    for (const ns of this.#survey.namespaces) {
      this.#namespace(ns);
      await this.#pause();
    }
    for (const [digest, size] of this.#blobs) {
      this.#blob(digest, size);
      await this.#pause();
    }
    for (const id of this.#layers.keys()) {
      this.#layer(id);
      await this.#pause();
    }
    this.#unnamedThings();
    await this.#pause();
    this.#ingests();
    await this.#pause();
    this.#counts();
    return {survey: this.#survey, problems: this.#problems, blobs: this.#blobs, layers: this.#layers, unnamed: this.#unnamed};
  }

  #add(severity: Finding['severity'], object: string, problem: string, path: string, subject: Subject, namespace?: string): void {
    this.#problems.push({severity, object, problem, path, subject, ...(namespace === undefined ? {} : {namespace})});
  }

  /** Whether a record is there, or may be, and cannot be read. */
  #isUnread(directory: string, key: string): boolean {
    return [`${directory}/${recordFile(key)}`, directory, dirname(directory)].some((path) => this.#unread.has(path));
  }

  #file(path: string): string {
    return join(this.#store.layout.root, path);
  }

  #unreadable(told: ReadonlySet<string>): void {
    for (const record of this.#survey.unreadable) {
      const file = this.#file(record.path);
      if (told.has(file)) continue;
      const {code, message} = record.error;
      const words = [file, record.path].reduce((text, path) => text.replace(`${path} `, ''), message);
      const severity = code === 'failed_precondition' ? 'suspect' : 'damage';
      this.#add(severity, `record ${record.path}`, words.replace(/: [a-z ]+$/, ''), file, {kind: 'record', record}, record.namespace);
    }
  }

  #namespace(ns: SurveyedNamespace): void {
    const {name} = ns;
    const file = recordPath.namespace(name);
    if (ns.record === undefined && !this.#unread.has(file))
      this.#add('damage', `namespace ${JSON.stringify(name)}`, 'has no record', this.#file(file), {kind: 'namespace', name}, name);
    const here = new Map(ns.content.map((record) => [record.digest as string, record]));
    const snapshots = new Map(ns.snapshots.map((record) => [`${record.snapshotter}/${record.key}`, record]));
    for (const {name: image, target} of ns.images)
      if (!here.has(target.digest)) this.#lacks(name, `image ${JSON.stringify(image)}`, target.digest);
    for (const record of ns.content) this.#content(name, record, here, snapshots);
    for (const record of ns.snapshots) this.#snapshot(name, record, snapshots);
    for (const {id, snapshotter, snapshotKey} of ns.containers) {
      if (snapshotKey === '' || snapshots.has(`${snapshotter}/${snapshotKey}`)) continue;
      if (this.#isUnread(recordPath.snapshots(name, snapshotter), snapshotKey)) continue;
      const path = this.#file(recordPath.directory(name, 'containers'));
      const object = `container ${JSON.stringify(id)}`;
      const problem = `its snapshot ${JSON.stringify(snapshotKey)} has no record`;
      this.#add('damage', object, problem, path, {kind: 'container', namespace: name, id}, name);
    }
    for (const lease of ns.leases) {
      for (const digest of lease.content) this.#leased.blobs.add(digest);
      for (const layer of lease.layers) this.#leased.layers.add(layer);
      const path = this.#file(recordPath.directory(name, 'leases'));
      const problem = isLeaseExpired(lease, Date.now())
        ? 'has expired'
        : isFormerMountLease(lease)
          ? 'keeps what an earlier boot had mounted'
          : undefined;
      if (problem !== undefined) this.#add('garbage', `lease ${JSON.stringify(lease.id)}`, problem, path, {kind: 'garbage'}, name);
    }
  }

  /** A namespace needs content and has no record of it. */
  #lacks(namespace: string, object: string, digest: Digest): void {
    const directory = recordPath.directory(namespace, 'content');
    if (this.#isUnread(directory, digest)) return;
    const path = this.#file(directory);
    this.#add('damage', object, `its content ${digest} has no record`, path, {kind: 'content', namespace, digest}, namespace);
  }

  #content(
    namespace: string,
    {digest, size, labels}: ContentRecord,
    here: ReadonlyMap<string, ContentRecord>,
    snapshots: ReadonlyMap<string, SnapshotRecord>,
  ): void {
    this.#blobs.set(digest, size);
    const object = `content ${digest}`;
    const children: string[] = [];
    for (const [label, value] of Object.entries(labels)) {
      if (NEEDED.test(label) && isDigest(value) && !here.has(value)) this.#lacks(namespace, object, value);
      if (CHILD.test(label)) children.push(value);
      const snapshotter = label.startsWith(UNPACKED) ? label.slice(UNPACKED.length) : undefined;
      if (snapshotter === undefined || !snapshotterNames().includes(snapshotter) || snapshots.has(`${snapshotter}/${value}`)) continue;
      const directory = recordPath.snapshots(namespace, snapshotter);
      if (this.#isUnread(directory, value)) continue;
      const path = this.#file(directory);
      const subject = {kind: 'snapshot', namespace, snapshotter, key: value} as const;
      this.#add('suspect', object, `its snapshot ${value} has no record`, path, subject, namespace);
    }
    // Of an index one platform is enough.
    const [first] = children.filter(isDigest);
    if (first !== undefined && !children.some((child) => here.has(child))) this.#lacks(namespace, object, first);
  }

  #snapshot(namespace: string, {snapshotter, key, parent, layer}: SnapshotRecord, all: ReadonlyMap<string, SnapshotRecord>): void {
    const directory = recordPath.snapshots(namespace, snapshotter);
    const path = this.#file(directory);
    const object = `snapshot ${JSON.stringify(key)}`;
    if (layer !== undefined) this.#layers.set(layer, snapshotter);
    if (parent === undefined) return;
    const below = all.get(`${snapshotter}/${parent}`);
    const subject = {kind: 'snapshot', namespace, snapshotter, key: parent} as const;
    if (below === undefined) {
      if (this.#isUnread(directory, parent)) return;
      this.#add('damage', object, `its parent ${JSON.stringify(parent)} has no record`, path, subject, namespace);
    } else if (below.kind !== 'committed')
      this.#add('damage', object, `its parent ${JSON.stringify(parent)} is not committed`, path, {kind: 'none'}, namespace);
    else if (this.#isAbove(key, below, snapshotter, all))
      this.#add('damage', object, 'it is its own ancestor', path, {kind: 'none'}, namespace);
  }

  #isAbove(key: string, below: SnapshotRecord, snapshotter: string, all: ReadonlyMap<string, SnapshotRecord>): boolean {
    const seen = new Set<SnapshotRecord>();
    for (let at: SnapshotRecord | undefined = below; at !== undefined && !seen.has(at); ) {
      if (at.key === key) return true;
      seen.add(at);
      at = at.parent === undefined ? undefined : all.get(`${snapshotter}/${at.parent}`);
    }
    return false;
  }

  #blob(digest: Digest, size: number): void {
    const path = this.#store.blobs.path(digest);
    const stat = lstat(path);
    const problem =
      stat === undefined
        ? 'is missing'
        : !stat.isFile()
          ? 'is not a file'
          : stat.size === size
            ? unreadable(path)
            : `has ${stat.size} B on disk instead of ${size} B`;
    if (problem !== undefined) this.#add('damage', `content ${digest}`, problem, path, {kind: 'blob', digest});
  }

  #layer(id: string): void {
    const path = this.#store.layers.path(id);
    const verdict = this.#judgeLayer(id, path);
    if (verdict !== undefined) this.#add(...verdict, path, {kind: 'layer', id});
  }

  #judgeLayer(id: string, path: string): [Finding['severity'], string, string] | undefined {
    const object = `layer ${id}`;
    const {layers} = this.#store;
    const isName = /^[\w-]+$/.test(id);
    if (!isName || !lstat(path)?.isDirectory())
      return ['damage', object, isName && lstat(path) !== undefined ? 'is not a directory' : 'is missing'];
    const defect = layers.defect(id);
    // A user's own tree is nowhere else.
    if (defect !== undefined) return [isOwnLayer(id) ? 'damage' : defect.severity, object, defect.problem];
    if ((layers.info(id)?.diffID === undefined) === isOwnLayer(id)) return undefined;
    return [isOwnLayer(id) ? 'damage' : 'suspect', object, 'its layer.json is malformed'];
  }

  #unnamedThings(): void {
    const {blobs, layers} = this.#store;
    for (const digest of blobs.list()) {
      if (this.#blobs.has(digest) || this.#leased.blobs.has(digest)) continue;
      this.#unnamed.blobs.push(digest);
      this.#add('garbage', `content ${digest}`, 'no record names it', blobs.path(digest), {kind: 'garbage'});
    }
    for (const id of layers.list()) {
      if (this.#layers.has(id) || this.#leased.layers.has(id)) continue;
      this.#unnamed.layers.push(id);
      this.#add('garbage', `layer ${id}`, 'no record names it', layers.path(id), {kind: 'garbage'});
    }
  }

  #ingests(): void {
    const {blobs, layout} = this.#store;
    const stale = new Set(blobs.staleIngests(Date.now()));
    for (const key of blobs.ingests()) {
      if (stale.has(key)) continue;
      const directory = layout.ingest(key);
      if (blobs.isIngestHeld(key) || !lstat(directory)?.isDirectory()) continue;
      const problem = blobs.ingestState(key) === undefined ? 'lacks its data or its metadata' : unreadable(join(directory, 'data'));
      if (problem !== undefined) this.#add('suspect', `ingest ${key}`, problem, directory, {kind: 'ingest', key});
    }
    const kept = new Set([...this.#leased.blobs].map(downloadKey));
    for (const key of stale)
      if (!kept.has(key))
        this.#add('garbage', `ingest ${key}`, 'has been idle for a long time', this.#store.layout.ingest(key), {kind: 'garbage'});
  }

  #counts(): void {
    const {namespaces, unreadable, counts} = this.#survey;
    // What a record that cannot be read keeps is counted, but not known.
    if (unreadable.length > 0 || namespaces.some(({record}) => record === undefined)) return;
    // Counting begins with the first namespace.
    if (namespaces.length + counts.size === 0) return;
    const wrong = wrongCounts(new Map(namespaces.map((ns) => [ns.name, referencesIn(ns)])), counts);
    if (wrong.length > 0)
      this.#add('damage', 'counts of references', `${wrong.length} differ from a expectedCounts`, this.#file(wrong[0]!), {kind: 'counts'});
  }
}
