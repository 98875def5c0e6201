/**
 * What Node has no call for – device nodes, FIFOs, extended attributes, times to the nanosecond – done for many paths at once
 * by `tar` and `cp`, which every Debian has.
 *
 * Paths are binary strings as in `tar.ts`. They must lead to their place by real directories only: whoever calls this has
 * made or checked every one of them.
 */

import {mkdtempSync, rmSync, statfsSync} from 'node:fs';
import {ErrdefsError} from '../errdefs.ts';
import {runSync} from '../fs/spawn.ts';
import {createTarReader, type TarHeader} from './tar.ts';

export interface Attributes {
  /** Permission bits with setuid, setgid and sticky bit. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtimeSec: number;
  readonly mtimeNs: number;
  readonly xattrs?: ReadonlyMap<string, Buffer> | undefined;
}

export interface SpecialEntry extends Attributes {
  /** Below the root, without leading slash. */
  readonly path: string;
  readonly type: 'file' | 'directory' | 'symlink' | 'link' | 'char' | 'block' | 'fifo';
  /** Text of a symbolic link; for a hard link the path of an earlier entry. */
  readonly linkname?: string;
  readonly devmajor?: number;
  readonly devminor?: number;
}

type Warn = (message: string) => void;

const TYPEFLAGS = {file: '0', link: '1', symlink: '2', char: '3', block: '4', directory: '5', fifo: '6'} as const;
const BLOCK = 512;
const TAR_EXTRACT = [
  '-x',
  '-p',
  '--same-owner',
  '--numeric-owner',
  '--xattrs',
  '--xattrs-include=*',
  '-P',
  '--warning=no-timestamp',
  '-f',
  '-',
];
const TAR_CREATE = ['-c', '--format=pax', '--no-recursion', '--xattrs', '--xattrs-include=*', '-P', '--null', '-T', '-', '-f', '-'];

/** True when `sec + ns/1e9` as a double still says exactly that: then utimes(2) by way of Node sets it exactly. */
export function isExactTime(sec: number, ns: number): boolean {
  return ns === 0 || (sec + ns / 1e9 - sec) * 1e9 === ns;
}

function octal(value: number, length: number): string {
  return `${value.toString(8).padStart(length - 1, '0')}\0`;
}

function headerBlock(name: string, typeflag: string, size: number, fields: Omit<Partial<SpecialEntry>, 'type'> = {}): Buffer {
  const {mode = 0, uid = 0, gid = 0, mtimeSec = 0, linkname = '', devmajor = 0, devminor = 0} = fields;
  const block = Buffer.alloc(BLOCK);
  const put = (text: string, at: number): number => block.write(text, at, 'latin1');
  put(name.slice(0, 100), 0);
  put(octal(mode, 8), 100);
  put(octal(uid, 8), 108);
  put(octal(gid, 8), 116);
  put(octal(size, 12), 124);
  put(octal(mtimeSec, 12), 136);
  put('        ', 148);
  put(typeflag, 156);
  put(linkname.slice(0, 100), 157);
  put('ustar  \0', 257);
  put(octal(devmajor, 8), 329);
  put(octal(devminor, 8), 337);
  put(
    `${octal(
      block.reduce((sum, byte) => sum + byte, 0),
      7,
    )} `,
    148,
  );
  return block;
}

function extendedHeader(typeflag: string, content: Buffer): Buffer[] {
  return [headerBlock('././@LongLink', typeflag, content.length), content, Buffer.alloc(-content.length & (BLOCK - 1))];
}

function paxRecord(key: string, value: Buffer | string): Buffer {
  const rest = Buffer.concat([
    Buffer.from(` ${key}=`, 'latin1'),
    typeof value === 'string' ? Buffer.from(value, 'latin1') : value,
    Buffer.from('\n'),
  ]);
  let length = rest.length + 1;
  while (String(length).length + rest.length !== length) length++;
  return Buffer.concat([Buffer.from(String(length)), rest]);
}

/** Largest number in the seven octal digits of an owner's field. */
const MAX_OCTAL_ID = 0o7777777;
const MAX_OCTAL_TIME = 0o77777777777;

/** The entries as an archive, with its end. */
function encodeTar(entries: readonly SpecialEntry[]): Buffer {
  const blocks: Buffer[] = [];
  for (const entry of entries) {
    const {path, linkname = '', xattrs, mtimeSec, mtimeNs, uid, gid} = entry;
    const records: Buffer[] = [];
    if (mtimeNs !== 0 || mtimeSec > MAX_OCTAL_TIME) records.push(paxRecord('mtime', `${mtimeSec}.${String(mtimeNs).padStart(9, '0')}`));
    if (uid > MAX_OCTAL_ID) records.push(paxRecord('uid', String(uid)));
    if (gid > MAX_OCTAL_ID) records.push(paxRecord('gid', String(gid)));
    for (const [key, value] of xattrs ?? []) records.push(paxRecord(`SCHILY.xattr.${key}`, value));
    if (records.length > 0) blocks.push(...extendedHeader('x', Buffer.concat(records)));
    // GNU's long names hold any bytes, where PAX records are text in some charset.
    if (path.length > 100) blocks.push(...extendedHeader('L', Buffer.from(`${path}\0`, 'latin1')));
    if (linkname.length > 100) blocks.push(...extendedHeader('K', Buffer.from(`${linkname}\0`, 'latin1')));
    const fits = {uid: Math.min(uid, MAX_OCTAL_ID), gid: Math.min(gid, MAX_OCTAL_ID), mtimeSec: Math.min(mtimeSec, MAX_OCTAL_TIME)};
    blocks.push(headerBlock(path, TYPEFLAGS[entry.type], 0, {...entry, ...fits}));
  }
  return Buffer.concat([...blocks, Buffer.alloc(2 * BLOCK)]);
}

/** A program failed. Its words are for people; a full disk is found out by asking the filesystem. */
function programError(program: string, status: number, stderr: string, dir: string): ErrdefsError {
  const {bavail, ffree, files} = statfsSync(dir);
  const full = bavail === 0 || (files > 0 && ffree === 0);
  return new ErrdefsError(full ? 'resource_exhausted' : 'internal', `${program} ended with status ${status}: ${stderr.trim()}`, {
    details: {program, status, path: dir},
  });
}

function extract(root: string, entries: readonly SpecialEntry[], warn: Warn): void {
  const {status, stderr} = runSync('tar', [...TAR_EXTRACT, '-C', root], {package: 'tar', input: encodeTar(entries)});
  if (status !== 0) throw programError('tar', status, stderr, root);
  // tar goes on after an attribute that the filesystem refuses.
  for (const line of stderr.split('\n')) if (line !== '') warn(line);
}

/**
 * Makes nodes, links and directories below `root`, with all attributes, in the order given. What is there already is
 * replaced; a directory is kept and gets the attributes. Attributes that the filesystem has no place for are warned of.
 */
export function makeSpecialFiles(root: string, entries: readonly SpecialEntry[], warn: Warn): void {
  if (entries.length > 0) extract(root, entries, warn);
}

/** Sets mtime and extended attributes of regular files that are there; content, owner and mode stay. Directories' mtimes are lost. */
export function setFileAttributes(root: string, entries: readonly SpecialEntry[], warn: Warn): void {
  if (entries.length === 0) return;
  // Empty files with these attributes, on the same filesystem, from which cp takes the attributes alone.
  const scratch = mkdtempSync(`${root}/.wh..attributes-`);
  try {
    extract(scratch, entries, warn);
    const flags = ['-R', '-P', '--attributes-only', '--preserve=timestamps,xattr'];
    const {status, stderr} = runSync('cp', [...flags, '--', `${scratch}/.`, `${root}/`], {package: 'coreutils'});
    if (status !== 0) throw programError('cp', status, stderr, root);
  } finally {
    rmSync(scratch, {recursive: true, force: true});
  }
}

/** Extended attributes of directories, by absolute paths; one answer for each, in order. */
export function readXattrs(dirs: readonly string[]): ReadonlyMap<string, Buffer>[] {
  if (dirs.length === 0) return [];
  const input = Buffer.from(`${dirs.join('\0')}\0`, 'latin1');
  const {status, stdout, stderr} = runSync('tar', TAR_CREATE, {package: 'tar', input});
  if (status !== 0) throw programError('tar', status, stderr, '/');
  const headers: TarHeader[] = [];
  const reader = createTarReader({entry: (header) => headers.push(header), data() {}, entryEnd() {}});
  reader.write(stdout);
  reader.end();
  if (headers.length !== dirs.length) throw new ErrdefsError('internal', `tar listed ${headers.length} of ${dirs.length} directories`);
  return headers.map(({xattrs}) => xattrs);
}

/** Copies one file, link or node from `from` to `to`, both absolute, with all attributes. `to` must not exist. */
export function copyNode(from: string, to: string): void {
  // By way of xargs, since arguments of a process started by Node cannot have any bytes.
  const input = Buffer.from(`${from}\0${to}\0`, 'latin1');
  const {status, stderr} = runSync('xargs', ['-0', 'cp', '-a', '-T', '--'], {package: 'findutils', input});
  if (status !== 0) throw programError('cp', status, stderr, '/');
}
