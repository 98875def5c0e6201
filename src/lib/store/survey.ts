/**
 * Everything that is kept, as it is: for those who judge a store (client/fsck/check.ts) and must not stumble over what is wrong
 * with it. Reads only, save `quarantine`.
 */
import {type Dirent, lstatSync, mkdirSync, readdirSync, statSync} from 'node:fs';
import {basename, dirname, join, relative} from 'node:path';
import {ErrdefsError, fromErrno, hasCode, isErrdefs} from '../errdefs.ts';
import {isTemporary, moveInto, removeTree, renameInto} from '../fs/durable.ts';
import {liveness, parseIdentity} from '../fs/process.ts';
import {runSync} from '../fs/spawn.ts';
import {DIGEST_HEX_LENGTH} from '../oci/descriptor.ts';
import {isIngestKey} from './blob-store.ts';
import {isLayerName} from './layer-store.ts';
import {type Layout, RECORD_KINDS, type RecordKind, recordFile, recordPath} from './layout.ts';
import type {Reader} from './metadata-backend.ts';
import {isDocument, isWrongType, misplacedRecord} from './record-files.ts';
import type {ContainerRecord, ContentRecord, ImageRecord, LeaseRecord, NamespaceRecord, SnapshotRecord} from './records.ts';
import {
  type References,
  referencesOfContainer,
  referencesOfContent,
  referencesOfImage,
  referencesOfLease,
  referencesOfSnapshot,
} from './refcounts.ts';
import {parseContainer, parseContent, parseImage, parseLease, parseNamespace, parseSnapshot} from './schema.ts';
import {snapshotterNames} from './snapshotters.ts';

/** A record that cannot be used. */
export interface Unreadable {
  /** Below the root. */
  readonly path: string;
  readonly namespace: string;
  readonly kind: 'namespaces' | 'snapshots' | RecordKind;
  readonly error: ErrdefsError;
}

/** What of a namespace can be read. */
export interface SurveyedNamespace {
  readonly name: string;
  /** Absent when its file is missing, or among the unreadable. */
  readonly record?: NamespaceRecord;
  readonly images: readonly ImageRecord[];
  readonly containers: readonly ContainerRecord[];
  readonly content: readonly ContentRecord[];
  readonly leases: readonly LeaseRecord[];
  /** Of all snapshotters. */
  readonly snapshots: readonly SnapshotRecord[];
}

export interface RecordSurvey {
  readonly namespaces: readonly SurveyedNamespace[];
  readonly unreadable: readonly Unreadable[];
  /** Counts of references, by path; one that cannot be read is `undefined`. See refcounts.ts. */
  readonly counts: ReadonlyMap<string, unknown>;
}

const compare = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

/** @param asStored tell of files that a lost disk has left empty, though the journal makes up for them */
export function surveyRecords(io: Reader, asStored = false): RecordSurvey {
  const unreadable: Unreadable[] = [];
  const counts = new Map<string, unknown>();

  /** One document; where it cannot be read, a note of that. */
  const read = <T>(path: string, at: Pick<Unreadable, 'namespace' | 'kind'>, parse: (value: unknown, what: string) => T): T | undefined => {
    try {
      const document = io.get(path, asStored);
      return document === undefined ? undefined : parse(document, io.locate(path));
    } catch (err) {
      note(err, {path, ...at});
      return undefined;
    }
  };
  /** What cannot be read for what is in its place counts once, there. */
  const note = (err: unknown, at: Omit<Unreadable, 'error'>): void => {
    if (!isErrdefs(err) || !['data_loss', 'failed_precondition', 'permission_denied'].includes(err.code)) throw err;
    const path = isWrongType(err) ? relative(io.locate('.'), err.details.misfit) : at.path;
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
    // Of what lies below something that cannot be listed, that is told.
    if (at === undefined || unreadable.some((known) => path === known.path || path.startsWith(`${known.path}/`))) continue;
    unreadable.push({path, ...at, error: new ErrdefsError('data_loss', `${io.locate(path)} is missing, and the journal has it`)});
  }
  // A directory without records is no namespace.
  const namespaces = surveyed.filter(
    (ns) => ns.record !== undefined || referencesIn(ns).length > 0 || unreadable.some(({namespace}) => namespace === ns.name),
  );
  return {namespaces, unreadable, counts};
}

/** Whose record it is, and of which kind, by its path; `undefined` for what is none of a namespace's. */
function recordAt(path: string): Pick<Unreadable, 'namespace' | 'kind'> | undefined {
  const [top, namespace, kind, ...rest] = path.split('/');
  if (top !== recordPath.namespaces || namespace === undefined) return undefined;
  if (kind === 'namespace.json') return {namespace, kind: 'namespaces'};
  if (kind === 'snapshots' || (rest.length === 1 && RECORD_KINDS.includes(kind as RecordKind)))
    return {namespace, kind: kind as RecordKind | 'snapshots'};
  return undefined;
}

/** What each record of a namespace keeps. */
export const referencesIn = ({images, containers, content, leases, snapshots}: SurveyedNamespace): readonly References[] => [
  ...images.map(referencesOfImage),
  ...containers.map(referencesOfContainer),
  ...content.map(referencesOfContent),
  ...leases.map(referencesOfLease),
  ...snapshots.map(referencesOfSnapshot),
];

/** Something in the state directory that is not as it should be, whatever the records say. */
export interface EntryFinding {
  /** Absolute. */
  readonly path: string;
  /**
   * `link`: a symbolic link in the place of a record, a blob or a layer, or one that leads to no directory; `type`: a file where a directory belongs, or the
   * other way round; `foreign`: nothing of ours has such a name; `leftover`: a killed process left it; `unreadable`: a directory
   * that cannot be listed.
   */
  readonly kind: 'link' | 'type' | 'foreign' | 'leftover' | 'unreadable';
  /** Something of that name is one of many: a record, a blob, a layer. */
  readonly isItem: boolean;
}

/** What may lie in a directory. */
interface DirectoryRule {
  readonly files?: (name: string) => boolean;
  /** Any name may be one of ours, so that what is not a directory is a stranger's. */
  readonly allowsAnyName?: boolean;
  /** What is in a subdirectory; `anything` is not looked into, `undefined` has no place here. */
  readonly directories?: (name: string) => DirectoryRule | 'anything' | undefined;
}

const named =
  (rules: Readonly<Record<string, DirectoryRule | 'anything'>>) =>
  (name: string): DirectoryRule | 'anything' | undefined =>
    Object.hasOwn(rules, name) ? rules[name] : undefined;

const only = (isOurs: (name: string) => boolean): DirectoryRule => ({directories: (name) => (isOurs(name) ? 'anything' : undefined)});
const RECORDS: DirectoryRule = {files: isDocument};
const NAMESPACE: DirectoryRule = {
  files: (name) => name === 'namespace.json',
  directories: named({
    images: RECORDS,
    containers: RECORDS,
    content: RECORDS,
    leases: RECORDS,
    refs: RECORDS,
    snapshots: {directories: (name) => (snapshotterNames().includes(name) ? RECORDS : undefined)},
  }),
};
const BLOBS: DirectoryRule = {
  directories: (algorithm) => {
    const length = Object.hasOwn(DIGEST_HEX_LENGTH, algorithm) ? DIGEST_HEX_LENGTH[algorithm]! : undefined;
    return length === undefined ? undefined : {files: (name) => name.length === length && /^[0-9a-f]+$/.test(name)};
  },
};
const INGEST: DirectoryRule = {files: (name) => name === 'info.json' || name === 'data'};
const LOCKS = only((name) => name === 'store' || name.startsWith('store.') || name.startsWith('ingest-'));
const JOURNAL: DirectoryRule = {files: (name) => /^\d{16}$/.test(name) || ['checkpoint', 'applied', 'unswept'].includes(name)};
const ROOT: DirectoryRule = {
  files: (name) => name === 'version',
  directories: named({
    cache: 'anything',
    content: {directories: named({blobs: BLOBS, ingest: {directories: (name) => (isIngestKey(name) ? INGEST : undefined)}})},
    damaged: 'anything',
    journal: JOURNAL,
    layers: only(isLayerName),
    locks: LOCKS,
    'lost+found': 'anything',
    namespaces: {allowsAnyName: true, directories: () => NAMESPACE},
    refs: RECORDS,
    trash: 'anything',
    work: only((name) => parseIdentity(name) !== undefined),
  }),
};

/** What ends with the boot; what is in a namespace's part is the runtime's, see runtime/bundle.ts. */
const STATE: DirectoryRule = {
  files: (name) => name === 'erofs.json',
  directories: named({runs: {directories: () => 'anything'}, mounts: 'anything', views: 'anything'}),
};

/** Whether the process that a name begins with is known to be gone. */
const isDead = (name: string): boolean => {
  const identity = parseIdentity(name);
  return identity !== undefined && liveness(identity) === 'dead';
};

/** Whether a path leads to a directory. */
function isDirectory(path: string): boolean {
  try {
    return statSync(path).isDirectory();
  } catch {
    return false;
  }
}

/** What lies below a directory where it does not belong. Follows links that stand for directories. */
function checkEntries(top: string, all: DirectoryRule): EntryFinding[] {
  const found: EntryFinding[] = [];
  const visit = (directory: string, rule: DirectoryRule): void => {
    let entries: readonly Dirent[];
    try {
      entries = entriesOf(directory);
    } catch (err) {
      if (directory === top || !isErrdefs(err)) throw err;
      found.push({path: directory, kind: 'unreadable', isItem: false});
      return;
    }
    for (const entry of entries) {
      const {name} = entry;
      const path = join(directory, name);
      if (isTemporary(name)) {
        if (isDead(name.slice('.tmp.'.length))) found.push({path, kind: 'leftover', isItem: true});
        continue;
      }
      const isFile = rule.files?.(name) ?? false;
      const below = rule.directories?.(name);
      const isItem = isFile || (directory !== top && below === 'anything');
      const isStranger = rule.allowsAnyName === true && !entry.isDirectory() && !entry.isSymbolicLink();
      if ((!isFile && below === undefined) || isStranger) found.push({path, kind: 'foreign', isItem});
      else if (entry.isSymbolicLink() && (isItem || !isDirectory(path))) found.push({path, kind: 'link', isItem});
      else if (!entry.isSymbolicLink() && (isFile ? !entry.isFile() : !entry.isDirectory())) found.push({path, kind: 'type', isItem});
      else if (below !== undefined && below !== 'anything') visit(path, below);
    }
  };
  visit(top, all);
  return found;
}

/** What does not belong in the directory of what ends with the boot. */
export const surveyRuntimeState = (state: string): readonly EntryFinding[] => checkEntries(state, STATE);

/** What lies in the state directory where it does not belong. Looks into no layer. */
export function surveyStructure(layout: Layout): readonly EntryFinding[] {
  const found = checkEntries(layout.root, ROOT);
  for (const directory of [layout.work, layout.trash])
    for (const name of listSafely(directory)) if (isDead(name)) found.push({path: join(directory, name), kind: 'leftover', isItem: true});
  for (const name of listSafely(layout.locks)) {
    const path = join(layout.locks, name);
    const owner = /\.(\d+\.\d+\.[0-9a-f]{32}\..*)$/.exec(name)?.[1] ?? listSafely(path)[0];
    if (owner !== undefined && isDead(owner)) found.push({path, kind: 'leftover', isItem: true});
  }
  return found;
}

/** Entries of a directory with their types; none when it is gone, or none. */
function entriesOf(directory: string): readonly Dirent[] {
  try {
    return readdirSync(directory, {withFileTypes: true}).sort((a, b) => compare(a.name, b.name));
  } catch (err) {
    if (['ENOENT', 'ENOTDIR'].includes((err as NodeJS.ErrnoException).code ?? '')) return [];
    throw fromErrno(err, `directory ${directory}`);
  }
}

/** Names in a directory; what cannot be listed is told by `checkEntries`. */
function listSafely(directory: string): readonly string[] {
  try {
    return entriesOf(directory).map(({name}) => name);
  } catch (err) {
    if (!isErrdefs(err)) throw err;
    return [];
  }
}

/** To another filesystem a tree is copied. */
function moveOrCopy(path: string, target: string): void {
  try {
    renameInto(path, target, {sync: true});
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code !== 'EXDEV') throw err;
    if (lstatSync(path).isFile()) {
      moveInto(path, target, {sync: true});
      return;
    }
    mkdirSync(dirname(target), {recursive: true, mode: 0o700});
    const {status, stderr} = runSync('cp', ['--archive', '--no-target-directory', '--', path, target], {package: 'coreutils'});
    if (status !== 0) throw new ErrdefsError('data_loss', `copy of ${path} ended with status ${status}: ${stderr.trim()}`, {cause: err});
    removeTree(path);
  }
}

/**
 * Moves something damaged out of the store's way, to where nothing reads it and nothing removes it.
 *
 * @param path absolute, below the root or the state directory
 * @returns where it is now; `undefined` when it is not there any more
 */
export function quarantine(layout: Layout, path: string): string | undefined {
  const when = `${new Date().toISOString().replaceAll(':', '')}-${Math.random().toString(36).slice(2, 8)}`;
  const isBelow = path.startsWith(`${layout.root}/`);
  const target = join(layout.damaged, when, isBelow ? path.slice(layout.root.length + 1) : basename(path));
  try {
    moveOrCopy(path, target);
    return target;
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw fromErrno(err, path);
  }
}
