/** All records as far as they can be read, for client/fsck: damage is listed and never thrown. Reads only. */
import {relative} from 'node:path';
import {ErrdefsError, hasCode, isErrdefs} from '../errdefs.ts';
import {RECORD_KINDS, type RecordKind, recordFile, recordPath} from './layout.ts';
import type {Reader} from './metadata-contract.ts';
import {parseContainer, parseContent, parseImage, parseLease, parseNamespace, parseSnapshot} from './parse-records.ts';
import {isWrongType, misplacedRecord} from './read-record-files.ts';
import type {ContainerRecord, ContentRecord, ImageRecord, LeaseRecord, NamespaceRecord, SnapshotRecord} from './records.ts';
import {
  type References,
  referencesOfContainer,
  referencesOfContent,
  referencesOfImage,
  referencesOfLease,
  referencesOfSnapshot,
} from './refcounts.ts';

/** An unusable record. */
export interface Unreadable {
  /** Path below the root. */
  readonly path: string;
  readonly namespace: string;
  readonly kind: 'namespaces' | 'snapshots' | RecordKind;
  readonly error: ErrdefsError;
}

/** The readable records of a namespace. */
export interface SurveyedNamespace {
  readonly name: string;
  /** Absent when its file is missing or unreadable. */
  readonly record?: NamespaceRecord;
  readonly images: readonly ImageRecord[];
  readonly containers: readonly ContainerRecord[];
  readonly content: readonly ContentRecord[];
  readonly leases: readonly LeaseRecord[];
  /** Snapshots of all snapshotters. */
  readonly snapshots: readonly SnapshotRecord[];
}

export interface RecordSurvey {
  readonly namespaces: readonly SurveyedNamespace[];
  readonly unreadable: readonly Unreadable[];
  /** Reference counts by path; an unreadable one is `undefined`. See refcounts.ts. */
  readonly counts: ReadonlyMap<string, unknown>;
}

const compare = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

/** @param asStored report files that a lost disk left empty, even if the journal can replace them */
export function surveyRecords(io: Reader, asStored = false): RecordSurvey {
  const unreadable: Unreadable[] = [];
  const counts = new Map<string, unknown>();

  /** Reads one document, or notes that it is unreadable. */
  const read = <T>(path: string, at: Pick<Unreadable, 'namespace' | 'kind'>, parse: (value: unknown, what: string) => T): T | undefined => {
    try {
      const document = io.get(path, asStored);
      return document === undefined ? undefined : parse(document, io.locate(path));
    } catch (err) {
      note(err, {path, ...at});
      return undefined;
    }
  };
  /** A wrong file type is reported once, under its own path. */
  const note = (err: unknown, at: Omit<Unreadable, 'error'>): void => {
    if (!isErrdefs(err) || !['data_loss', 'failed_precondition', 'permission_denied'].includes(err.code)) throw err;
    const path = isWrongType(err) ? relative(io.locate('.'), err.details.wrongTypePath) : at.path;
    if (!unreadable.some((known) => known.path === path)) unreadable.push({...at, path, error: err});
  };
  const list = (of: 'list' | 'directories', at: Omit<Unreadable, 'error'>): readonly string[] => {
    try {
      return io[of](at.path);
    } catch (err) {
      note(err, at);
      return [];
    }
  };
  const readAll = <T>(
    namespace: string,
    kind: Unreadable['kind'],
    directory: string,
    parse: (value: unknown, what: string) => T,
    key: (record: T) => string,
  ): readonly T[] =>
    list('list', {path: directory, namespace, kind})
      .flatMap((file) => {
        const record = read(`${directory}/${file}`, {namespace, kind}, (value, what) => {
          const parsed = parse(value, what);
          if (recordFile(key(parsed)) !== file) throw misplacedRecord(what, key(parsed));
          return parsed;
        });
        return record ?? [];
      })
      .sort((a, b) => compare(key(a), key(b)));
  const unlessDamaged = <T>(get: () => T, otherwise: T): T => {
    try {
      return get();
    } catch (err) {
      if (!hasCode(err, 'data_loss') && !hasCode(err, 'permission_denied')) throw err;
      return otherwise;
    }
  };
  const readCounts = (directory: string): void => {
    for (const file of unlessDamaged(() => io.list(directory), [])) {
      const path = `${directory}/${file}`;
      counts.set(
        path,
        unlessDamaged(() => io.get(path, asStored), undefined),
      );
    }
  };

  readCounts(recordPath.sharedRefs);
  const surveyed = io.directories(recordPath.namespaces).map((name): SurveyedNamespace => {
    readCounts(recordPath.refs(name));
    const record = read(recordPath.namespace(name), {namespace: name, kind: 'namespaces'}, (value, what) => {
      const parsed = parseNamespace(value, what);
      if (parsed.name !== name) throw misplacedRecord(what, parsed.name);
      return parsed;
    });
    const all = <T>(kind: RecordKind, parse: (value: unknown, what: string) => T, key: (r: T) => string): readonly T[] =>
      readAll(name, kind, recordPath.directory(name, kind), parse, key);
    return {
      name,
      ...(record === undefined ? {} : {record}),
      images: all('images', parseImage, (r) => r.name),
      containers: all('containers', parseContainer, (r) => r.id),
      content: all('content', parseContent, (r) => r.digest),
      leases: all('leases', parseLease, (r) => r.id),
      snapshots: list('directories', {path: recordPath.snapshotters(name), namespace: name, kind: 'snapshots'}).flatMap((snapshotter) =>
        readAll(name, 'snapshots', recordPath.snapshots(name, snapshotter), parseSnapshot, (r) => r.key),
      ),
    };
  });
  for (const path of asStored ? unlessDamaged(() => io.lost(), []) : []) {
    const at = recordAt(path);
    // An unreadable parent directory is reported already.
    if (at === undefined || unreadable.some((known) => path === known.path || path.startsWith(`${known.path}/`))) continue;
    unreadable.push({path, ...at, error: new ErrdefsError('data_loss', `${io.locate(path)} is missing, and the journal has it`)});
  }
  // A directory without records is not a namespace.
  const namespaces = surveyed.filter(
    (ns) => ns.record !== undefined || referencesIn(ns).length > 0 || unreadable.some(({namespace}) => namespace === ns.name),
  );
  return {namespaces, unreadable, counts};
}

/** Namespace and kind of the record at a path; `undefined` for other paths. */
function recordAt(path: string): Pick<Unreadable, 'namespace' | 'kind'> | undefined {
  const [top, namespace, kind, ...rest] = path.split('/');
  if (top !== recordPath.namespaces || namespace === undefined) return undefined;
  if (kind === 'namespace.json') return {namespace, kind: 'namespaces'};
  if (kind === 'snapshots' || (rest.length === 1 && RECORD_KINDS.includes(kind as RecordKind)))
    return {namespace, kind: kind as RecordKind | 'snapshots'};
  return undefined;
}

/** References of all records of a namespace. */
export const referencesIn = ({images, containers, content, leases, snapshots}: SurveyedNamespace): readonly References[] => [
  ...images.map(referencesOfImage),
  ...containers.map(referencesOfContainer),
  ...content.map(referencesOfContent),
  ...leases.map(referencesOfLease),
  ...snapshots.map(referencesOfSnapshot),
];
