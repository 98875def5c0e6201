/** Copies whole trees, with all attributes. */
import {lstatSync, mkdirSync, readdirSync} from 'node:fs';
import {dirname} from 'node:path';
import {ErrdefsError} from '../errdefs.ts';
import {removeTree} from './durable.ts';
import {isFull} from './free-space.ts';
import {requireProgram, runSync} from './spawn.ts';
import {Directory, isLong} from './walk.ts';

/**
 * Copies a directory with all in it; blocks are shared where the filesystem can. Where names of one file lie so far apart that no
 * path has room for both, each becomes a file of its own.
 *
 * @param to not there yet; after a failure the caller removes what is there
 * @throws unknown a program failed @throws unavailable it is not installed @throws resource_exhausted the disk is full
 */
export function copyTree(from: string, to: string): void {
  const {status, stderr} = runSync('cp', [...COPY_TREE, from, to], {package: 'coreutils'});
  if (status === 0) return;
  if (isFull(dirname(to))) throw new ErrdefsError('resource_exhausted', `copy of ${from}: the disk is full`);
  // cp fails on paths longer than PATH_MAX.
  const source = new Directory(from);
  if (listPiece(source).deeper.length === 0) throw failed('cp', from, status, stderr);
  removeTree(to);
  mkdirSync(to);
  copyPiece(source, new Directory(to));
}

const COPY_TREE = ['-a', '--reflink=auto', '-T', '--'];

const failed = (program: string, from: string, status: number, stderr: string): ErrdefsError =>
  new ErrdefsError('unknown', `copy of ${from}: ${program} ended with status ${status}: ${stderr.slice(0, 1000).trim()}`);

const ATTRIBUTES = "--xattrs --xattrs-include='*' --acls";
/** Names on standard input, from directory 1 to directory 2. A first program that fails ends the whole. */
const COPY = `{ tar -c --format=pax --sparse --no-recursion ${ATTRIBUTES} -C "$1" --null -T - -f - || kill "$$"; } |
  tar -x -p --same-owner --numeric-owner ${ATTRIBUTES} --warning=no-timestamp -C "$2" -f -`;

/** Copies into an empty directory, as far as paths reach, and from there on. */
function copyPiece(from: Directory, to: Directory): void {
  requireProgram('tar', 'tar');
  const {names, deeper} = listPiece(from);
  const input = Buffer.concat(names.flatMap((name) => [name, Buffer.from('\0')]));
  const {status, stderr} = runSync('sh', ['-c', COPY, 'sh', String(from.path), String(to.path)], {package: 'tar', input});
  if (status !== 0) throw failed('tar', String(from.path), status, stderr);
  for (const name of deeper) {
    const entered: Directory[] = [];
    try {
      for (const directory of [from, to]) entered.push(directory.enter(name));
      copyPiece(entered[0]!, entered[1]!);
    } finally {
      for (const directory of entered) directory.close();
    }
  }
}

/** Paths below a directory, parents first; `deeper` are those of directories that are so long that what is in them is not listed. */
function listPiece(top: Directory): {readonly names: readonly Buffer[]; readonly deeper: readonly Buffer[]} {
  const names: Buffer[] = [];
  const deeper: Buffer[] = [];
  const todo = [Buffer.from('.')];
  for (let name = todo.pop(); name !== undefined; name = todo.pop()) {
    names.push(name);
    const path = top.at(name);
    if (!lstatSync(path).isDirectory()) continue;
    if (isLong(path)) deeper.push(name);
    else for (const child of readdirSync(path, {encoding: 'buffer'})) todo.push(Buffer.concat([name, Buffer.from('/'), child]));
  }
  return {names, deeper};
}
