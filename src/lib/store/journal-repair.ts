/** Finds and repairs damage of the journal. */
import {existsSync, lstatSync, readdirSync} from 'node:fs';
import {basename, dirname, join} from 'node:path';
import {fromErrno, hasCode} from '../errdefs.ts';
import {bootId} from '../fs/process.ts';
import {type Documents, type JournalFiles, merged, parseApplied, parseCheckpoint, readOrUndefined} from './journal-files.ts';
import {type Layout, recordPath} from './layout.ts';
import {markNeedsFullGc} from './mark-needs-full-gc.ts';
import type {Damage} from './metadata-contract.ts';
import {assertReplaceable, isWrongType, syncIfPresent} from './read-record-files.ts';

/** Damaged files of the journal, and files that stand where it writes. */
export function findJournalDamage(layout: Layout, files: JournalFiles): readonly Damage[] {
  const checkpoint = files.readCheckpoint();
  const applied = files.applied(checkpoint);
  const generations = new Set(files.generations());
  const found = new Map<string, string>();
  const look = (path: string, action: () => void): void => {
    try {
      action();
    } catch (err) {
      if (!hasCode(err, 'data_loss') && !hasCode(err, 'permission_denied') && !hasCode(err, 'failed_precondition')) throw err;
      const at = isWrongType(err) ? err.details.wrongTypePath : path;
      found.set(at, (err as Error).message.replace(`${at} `, '').replace(/: [a-z ]+$/, ''));
    }
  };
  for (const [path, parse] of [
    [files.checkpointFile, parseCheckpoint],
    [files.appliedFile, parseApplied],
  ] as const) {
    const stat = lstatSync(path, {throwIfNoEntry: false});
    // The file is not trusted after a reboot and may be torn: it is written in place, without a sync.
    const isVoid = path === files.appliedFile && stat?.isFile() === true && checkpoint.bootId !== bootId();
    if (stat !== undefined && !isVoid && parse(readOrUndefined(path)) === undefined) found.set(path, 'is malformed');
  }
  for (const generation of generations)
    look(files.file(generation), () => {
      const file = files.file(generation);
      const {writes} = files.read(generation) ?? {writes: {}};
      if (lstatSync(file, {throwIfNoEntry: false})?.isSymbolicLink()) found.set(file, 'is a symbolic link');
      if (generation > applied) for (const path of Object.keys(writes)) look(path, () => assertReplaceable(layout.root, path));
    });
  for (let generation = checkpoint.generation + 1; generation < Math.max(...generations); generation++)
    if (!generations.has(generation)) found.set(files.file(generation), 'is missing, although later ones exist');
  return [...found].map(([path, problem]) => ({path, problem}));
}

/**
 * Repairs the damage, under the lock of the caller.
 *
 * Losing one record does not invalidate the others; each holds complete documents. The record files are synced as they are, with a
 * checkpoint at the newest generation, so nothing before it is needed any more.
 *
 * @param write compares documents with their files, and writes what differs
 * @param moveAway moves a file to the quarantine, and returns its new place
 * @returns what was done, by path
 */
export function repairJournal(
  layout: Layout,
  files: JournalFiles,
  write: (documents: Documents) => void,
  moveAway: (path: string) => string | undefined,
): ReadonlyMap<string, string> {
  const done = new Map<string, string>();
  const found = findJournalDamage(layout, files);
  if (found.length === 0) return done;
  const {root, journal} = layout;
  const isRecord = (path: string): boolean => dirname(path) === journal && /^\d{16}$/.test(basename(path));
  for (const {path} of found) if (!isRecord(path)) done.set(path, `moved to ${moveAway(path) ?? 'nowhere: it is gone'}`);
  try {
    const checkpoint = files.readCheckpoint();
    const applied = files.applied(checkpoint);
    const generations = files.generations();
    const lost = new Set(found.map(({path}) => path));
    const rest = generations.filter((generation) => generation > checkpoint.generation && !lost.has(files.file(generation)));
    write(merged(rest.toSorted((a, b) => a - b).map((generation) => files.read(generation)!)));
    const last = Math.max(applied, ...generations);
    for (const path of recordFiles(root)) syncIfPresent(path);
    for (const path of [journal, root]) syncIfPresent(path);
    files.writeCheckpoint(last);
    files.markApplied(last);
    for (const {path} of found.filter((damage) => isRecord(damage.path))) {
      const place = moveAway(path);
      const what = Number(basename(path)) <= applied ? 'the records hold its changes' : 'changes that only it held may be lost';
      done.set(path, place === undefined ? what : `moved to ${place}; ${what}`);
    }
    markNeedsFullGc(layout);
    return done;
  } catch (err) {
    throw fromErrno(err, 'unable to repair the journal');
  }
}

/** All record files and their directories, files first. */
function recordFiles(root: string): readonly string[] {
  const found: string[] = [];
  const visit = (path: string): void => {
    for (const entry of readdirSync(path, {withFileTypes: true})) {
      const below = join(path, entry.name);
      if (entry.isDirectory()) visit(below);
      else if (entry.isFile()) found.push(below);
    }
    found.push(path);
  };
  for (const top of [recordPath.namespaces, recordPath.sharedRefs]) if (existsSync(join(root, top))) visit(join(root, top));
  return found;
}
