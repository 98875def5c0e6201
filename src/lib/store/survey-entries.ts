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
import {isDocument} from './read-record-files.ts';
import {snapshotterNames} from './snapshotters.ts';

const compare = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

/** An entry of the state directory that does not belong where it is. */
export interface EntryFinding {
  /** Absolute path. */
  readonly path: string;
  /**
   * `link`: a symbolic link in the place of a record, a blob or a layer, or one that does not lead to a directory; `type`: a file in the
   * place of a directory, or the reverse; `foreign`: not a name of ours; `leftover`: left by a killed process; `unreadable`: a directory
   * that cannot be listed.
   */
  readonly kind: 'link' | 'type' | 'foreign' | 'leftover' | 'unreadable';
  /** The name is that of a record, a blob or a layer. */
  readonly isItem: boolean;
}

/** What a directory may contain. */
interface DirectoryRule {
  readonly files?: (name: string) => boolean;
  /** Subdirectories may have any name, so a file in their place is foreign. */
  readonly allowsAnyName?: boolean;
  /** Rule for a subdirectory; `anything` is not examined, `undefined` is foreign. */
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

/** The runtime state directory. Its `runs` are examined elsewhere; see runtime/run-directory.ts. */
const STATE: DirectoryRule = {
  files: (name) => name === 'erofs.json',
  directories: named({
    'cool-downs': 'anything',
    events: 'anything',
    mounts: 'anything',
    rootfs: only(() => false),
    runs: {directories: () => 'anything'},
    tokens: 'anything',
    'user-namespace': 'anything',
    views: 'anything',
  }),
};

/** Whether a name begins with the identity of a dead process. */
const isDead = (name: string): boolean => {
  const identity = parseIdentity(name);
  return identity !== undefined && liveness(identity) === 'dead';
};

function isDirectory(path: string): boolean {
  try {
    return statSync(path).isDirectory();
  } catch {
    return false;
  }
}

/** Finds entries below `top` that break the rule. Follows links to directories. */
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

/** Findings in the runtime state directory. */
export const surveyRuntimeState = (state: string): readonly EntryFinding[] => checkEntries(state, STATE);

/** Findings in the state directory; layers are not examined. */
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

/** Entries of a directory, sorted; none when it is missing or not a directory. */
function entriesOf(directory: string): readonly Dirent[] {
  try {
    return readdirSync(directory, {withFileTypes: true}).sort((a, b) => compare(a.name, b.name));
  } catch (err) {
    if (['ENOENT', 'ENOTDIR'].includes((err as NodeJS.ErrnoException).code ?? '')) return [];
    throw fromErrno(err, `directory ${directory}`);
  }
}

/** Names in a directory; `checkEntries` reports a directory that cannot be listed. */
function listSafely(directory: string): readonly string[] {
  try {
    return entriesOf(directory).map(({name}) => name);
  } catch (err) {
    if (!isErrdefs(err)) throw err;
    return [];
  }
}
