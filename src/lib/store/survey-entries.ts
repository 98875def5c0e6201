/** Entries of the state directory that do not belong where they are, whatever the records say. Reads only; looks into no layer. */
import {type Dirent, readdirSync, statSync} from 'node:fs';
import {join} from 'node:path';
import {fromErrno, isErrdefs} from '../errdefs.ts';
import {isTemporary} from '../fs/durable.ts';
import {liveness, parseIdentity} from '../fs/process.ts';
import {DIGEST_HEX_LENGTH} from '../oci/descriptor.ts';
import {isIngestKey} from './blob-store.ts';
import {isLayerName} from './layer-store.ts';
import type {Layout} from './layout.ts';
import {isDocument} from './record-files.ts';
import {snapshotterNames} from './snapshotters.ts';

const compare = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

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
