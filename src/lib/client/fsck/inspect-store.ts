/** Inspects a store without reading all its bytes. Changes nothing. */
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
import type {Pause} from './yield-to-event-loop.ts';

/** The object of a finding, for repair. */
export type FindingTarget =
  | {readonly kind: 'record'; readonly record: Unreadable}
  | {readonly kind: 'namespace'; readonly name: string}
  /** The bytes of a blob. */
  | {readonly kind: 'blob'; readonly digest: Digest}
  /** A content record that a namespace lacks. */
  | {readonly kind: 'content'; readonly namespace: string; readonly digest: Digest}
  | {readonly kind: 'layer'; readonly id: string}
  /** A missing snapshot record that something refers to. */
  | {readonly kind: 'snapshot'; readonly namespace: string; readonly snapshotter: string; readonly key: string}
  | {readonly kind: 'container'; readonly namespace: string; readonly id: string}
  | {readonly kind: 'run'; readonly namespace: string; readonly id: string}
  /** A scratch mount of a dead process. */
  | {readonly kind: 'scratch-mount'}
  | {readonly kind: 'counts'}
  | {readonly kind: 'ingest'; readonly key: string}
  /** Anything that the next collection removes. */
  | {readonly kind: 'garbage'}
  | {readonly kind: 'entry'; readonly entry: EntryFinding}
  | {readonly kind: 'none'};

export interface StoreFinding extends Pick<Finding, 'severity' | 'object' | 'namespace' | 'problem' | 'path'> {
  readonly target: FindingTarget;
}

export type FindingOf<K extends FindingTarget['kind']> = StoreFinding & {readonly target: Extract<FindingTarget, {readonly kind: K}>};

/** Findings with a target of these kinds. */
export const findingsOf = <K extends FindingTarget['kind']>(
  findings: readonly StoreFinding[],
  ...kinds: readonly K[]
): readonly FindingOf<K>[] =>
  findings.filter((finding): finding is FindingOf<K> => (kinds as readonly string[]).includes(finding.target.kind));

/** Key that is the same each time the same problem is found. */
export const findingKey = ({severity, object, namespace = '', problem, path}: StoreFinding): string =>
  [severity, namespace, object, problem, path].join('\n');

export interface Inspection {
  readonly survey: RecordSurvey;
  readonly findings: readonly StoreFinding[];
  /** Blobs with a content record, and the recorded size. */
  readonly blobs: ReadonlyMap<Digest, number>;
  /** Layers of snapshot records, and the snapshotter of one of those. */
  readonly layers: ReadonlyMap<string, string>;
  /** Blobs and layers without a record. */
  readonly unreferenced: {readonly blobs: readonly Digest[]; readonly layers: readonly string[]};
}

const ENTRY_FINDINGS = {
  link: ['damage', 'is a symbolic link'],
  type: ['damage', 'has the wrong file type'],
  foreign: ['garbage', 'was not created by berth'],
  leftover: ['garbage', 'was left by a process that has ended'],
  unreadable: ['damage', 'cannot be listed'],
} as const satisfies Readonly<Record<EntryFinding['kind'], readonly [Finding['severity'], string]>>;

/** Findings about directory entries. @param top directory that the entries lie in */
export const entryFindings = (entries: readonly EntryFinding[], top: string): readonly StoreFinding[] =>
  entries.map((entry) => {
    const {kind, path} = entry;
    const [severity, problem] = ENTRY_FINDINGS[kind];
    const object = `entry ${path.slice(top.length + 1)}`;
    return {severity, object, problem, path, target: kind === 'leftover' ? {kind: 'garbage'} : {kind: 'entry', entry}};
  });

/** @param survey of the current records @param pause called often; an error of it ends the inspection */
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

/** Reads the first byte of a file. @returns the problem, if there is one; `check --deep` reads the rest */
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

/** The problem that a read error stands for. @throws err it is no read error */
export function cannotBeRead(err: unknown): string {
  const failure = fromErrno(err, 'cannot be read');
  if (!isErrdefs(failure) || !UNREADABLE_CODES.includes(failure.code)) throw failure;
  return failure.message.replace(/: [a-z ]+$/, '');
}

const UNREADABLE_CODES: readonly Code[] = ['data_loss', 'permission_denied', 'failed_precondition', 'not_found', 'unknown'];

/** Labels by which a manifest refers to its config and layers; see `gcLabels` in oci/manifest.ts. */
const REQUIRED_LABEL = /^containerd\.io\/gc\.ref\.content\.(?:config|l\.\d+)$/;
const MANIFEST_LABEL = /^containerd\.io\/gc\.ref\.content\.m\.\d+$/;
const SNAPSHOT_LABEL = 'containerd.io/gc.ref.snapshot.';

class Inspector {
  readonly #pause: Pause;
  readonly #store: Store;
  readonly #survey: RecordSurvey;
  readonly #findings: StoreFinding[] = [];
  readonly #blobs = new Map<Digest, number>();
  readonly #layers = new Map<string, string>();
  readonly #unreferenced = {blobs: [] as Digest[], layers: [] as string[]};
  /** Objects that leases name. They need not exist. */
  readonly #leased = {blobs: new Set<Digest>(), layers: new Set<string>()};

  /** Paths of unreadable records and directories. Records at and below them do not count as missing. */
  readonly #unreadPaths: ReadonlySet<string>;

  constructor(store: Store, survey: RecordSurvey, pause: Pause) {
    this.#pause = pause;
    this.#store = store;
    this.#survey = survey;
    this.#unreadPaths = new Set(survey.unreadable.map(({path}) => path));
  }

  async run(): Promise<Inspection> {
    const entries = surveyStructure(this.#store.layout);
    await this.#pause();
    this.#findings.push(...entryFindings(entries, this.#store.layout.root));
    this.#unreadable(new Set(entries.map(({path}) => path)));
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
    this.#unreferencedObjects();
    await this.#pause();
    this.#ingests();
    await this.#pause();
    this.#counts();
    return {survey: this.#survey, findings: this.#findings, blobs: this.#blobs, layers: this.#layers, unreferenced: this.#unreferenced};
  }

  #add(severity: Finding['severity'], object: string, problem: string, path: string, target: FindingTarget, namespace?: string): void {
    this.#findings.push({severity, object, problem, path, target, ...(namespace === undefined ? {} : {namespace})});
  }

  /** Whether the record exists, or may exist, but cannot be read. */
  #isUnread(directory: string, key: string): boolean {
    return [`${directory}/${recordFile(key)}`, directory, dirname(directory)].some((path) => this.#unreadPaths.has(path));
  }

  #file(path: string): string {
    return join(this.#store.layout.root, path);
  }

  #unreadable(reported: ReadonlySet<string>): void {
    for (const record of this.#survey.unreadable) {
      const file = this.#file(record.path);
      if (reported.has(file)) continue;
      const {code, message} = record.error;
      const words = [file, record.path].reduce((text, path) => text.replace(`${path} `, ''), message);
      const severity = code === 'failed_precondition' ? 'suspect' : 'damage';
      this.#add(severity, `record ${record.path}`, words.replace(/: [a-z ]+$/, ''), file, {kind: 'record', record}, record.namespace);
    }
  }

  #namespace(ns: SurveyedNamespace): void {
    const {name} = ns;
    const file = recordPath.namespace(name);
    if (ns.record === undefined && !this.#unreadPaths.has(file))
      this.#add('damage', `namespace ${JSON.stringify(name)}`, 'has no record', this.#file(file), {kind: 'namespace', name}, name);
    const here = new Map(ns.content.map((record) => [record.digest as string, record]));
    const snapshots = new Map(ns.snapshots.map((record) => [`${record.snapshotter}/${record.key}`, record]));
    for (const {name: image, target} of ns.images)
      if (!here.has(target.digest)) this.#missingContent(name, `image ${JSON.stringify(image)}`, target.digest);
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

  /** Adds a finding about a content record that the namespace lacks. */
  #missingContent(namespace: string, object: string, digest: Digest): void {
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
      if (REQUIRED_LABEL.test(label) && isDigest(value) && !here.has(value)) this.#missingContent(namespace, object, value);
      if (MANIFEST_LABEL.test(label)) children.push(value);
      const snapshotter = label.startsWith(SNAPSHOT_LABEL) ? label.slice(SNAPSHOT_LABEL.length) : undefined;
      if (snapshotter === undefined || !snapshotterNames().includes(snapshotter) || snapshots.has(`${snapshotter}/${value}`)) continue;
      const directory = recordPath.snapshots(namespace, snapshotter);
      if (this.#isUnread(directory, value)) continue;
      const path = this.#file(directory);
      const target = {kind: 'snapshot', namespace, snapshotter, key: value} as const;
      this.#add('suspect', object, `its snapshot ${value} has no record`, path, target, namespace);
    }
    // One platform of an index is enough.
    const [first] = children.filter(isDigest);
    if (first !== undefined && !children.some((child) => here.has(child))) this.#missingContent(namespace, object, first);
  }

  #snapshot(namespace: string, {snapshotter, key, parent, layer}: SnapshotRecord, all: ReadonlyMap<string, SnapshotRecord>): void {
    const directory = recordPath.snapshots(namespace, snapshotter);
    const path = this.#file(directory);
    const object = `snapshot ${JSON.stringify(key)}`;
    if (layer !== undefined) this.#layers.set(layer, snapshotter);
    if (parent === undefined) return;
    const below = all.get(`${snapshotter}/${parent}`);
    const target = {kind: 'snapshot', namespace, snapshotter, key: parent} as const;
    if (below === undefined) {
      if (this.#isUnread(directory, parent)) return;
      this.#add('damage', object, `its parent ${JSON.stringify(parent)} has no record`, path, target, namespace);
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
    const verdict = this.#layerProblem(id, path);
    if (verdict !== undefined) this.#add(...verdict, path, {kind: 'layer', id});
  }

  #layerProblem(id: string, path: string): [Finding['severity'], string, string] | undefined {
    const object = `layer ${id}`;
    const {layers} = this.#store;
    const isName = /^[\w-]+$/.test(id);
    if (!isName || !lstat(path)?.isDirectory())
      return ['damage', object, isName && lstat(path) !== undefined ? 'is not a directory' : 'is missing'];
    const defect = layers.defect(id);
    // A user's own tree has no second copy.
    if (defect !== undefined) return [isOwnLayer(id) ? 'damage' : defect.severity, object, defect.problem];
    if ((layers.info(id)?.diffID === undefined) === isOwnLayer(id)) return undefined;
    return [isOwnLayer(id) ? 'damage' : 'suspect', object, 'its layer.json is malformed'];
  }

  #unreferencedObjects(): void {
    const {blobs, layers} = this.#store;
    for (const digest of blobs.list()) {
      if (this.#blobs.has(digest) || this.#leased.blobs.has(digest)) continue;
      this.#unreferenced.blobs.push(digest);
      this.#add('garbage', `content ${digest}`, 'no record names it', blobs.path(digest), {kind: 'garbage'});
    }
    for (const id of layers.list()) {
      if (this.#layers.has(id) || this.#leased.layers.has(id)) continue;
      this.#unreferenced.layers.push(id);
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
    // References of an unreadable record are counted, but unknown here.
    if (unreadable.length > 0 || namespaces.some(({record}) => record === undefined)) return;
    // A store without namespaces has no counts.
    if (namespaces.length + counts.size === 0) return;
    const wrong = wrongCounts(new Map(namespaces.map((ns) => [ns.name, referencesIn(ns)])), counts);
    if (wrong.length > 0)
      this.#add('damage', 'counts of references', `${wrong.length} differ from a expectedCounts`, this.#file(wrong[0]!), {kind: 'counts'});
  }
}
