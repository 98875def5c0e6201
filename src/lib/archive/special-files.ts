/**
 * Creates what Node has no call for: device nodes, FIFOs, extended attributes, times in nanoseconds. `tar` and `cp`, part of every Debian
 * system, do it for many paths at once.
 *
 * Paths are binary strings as in `tar.ts`. Their parents must be real directories that the caller created or checked.
 */

import {mkdtempSync, rmSync} from 'node:fs';
import {ErrdefsError} from '../errdefs.ts';
import {isFull} from '../fs/free-space.ts';
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
  /** Target of a symbolic link; for a hard link the path of an earlier entry. */
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

/** Tells whether `sec + ns/1e9` is exact as a double, so that Node's utimes sets the exact time. */
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

/** Largest number in the seven octal digits of the uid and gid fields. */
const MAX_OCTAL_ID = 0o7777777;
const MAX_OCTAL_TIME = 0o77777777777;

/** A complete archive of the entries. */
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
    // GNU long names hold any bytes; PAX records hold text in one charset.
    if (path.length > 100) blocks.push(...extendedHeader('L', Buffer.from(`${path}\0`, 'latin1')));
    if (linkname.length > 100) blocks.push(...extendedHeader('K', Buffer.from(`${linkname}\0`, 'latin1')));
    const fits = {uid: Math.min(uid, MAX_OCTAL_ID), gid: Math.min(gid, MAX_OCTAL_ID), mtimeSec: Math.min(mtimeSec, MAX_OCTAL_TIME)};
    blocks.push(headerBlock(path, TYPEFLAGS[entry.type], 0, {...entry, ...fits}));
  }
  return Buffer.concat([...blocks, Buffer.alloc(2 * BLOCK)]);
}

/** Error of a failed helper program. */
function programError(program: string, status: number, stderr: string, dir: string): ErrdefsError {
  return new ErrdefsError(isFull(dir) ? 'resource_exhausted' : 'internal', `${program} ended with status ${status}: ${stderr.trim()}`, {
    details: {program, status, path: dir},
  });
}

function extract(root: string, entries: readonly SpecialEntry[], warn: Warn): void {
  const {status, stderr} = runSync('tar', [...TAR_EXTRACT, '-C', root], {package: 'tar', input: encodeTar(entries)});
  if (status !== 0) throw programError('tar', status, stderr, root);
  // tar continues after an attribute that the file system rejects.
  for (const line of stderr.split('\n')) if (line !== '') warn(line);
}

/**
 * Creates nodes, links and directories below `root`, with all attributes, in the given order. Replaces existing files; an existing
 * directory stays and gets the attributes. Warns of attributes that the file system does not support.
 */
export function makeSpecialFiles(root: string, entries: readonly SpecialEntry[], warn: Warn): void {
  if (entries.length > 0) extract(root, entries, warn);
}

/** Sets mtime and extended attributes of existing regular files; content, owner and mode stay. Changes mtimes of directories. */
export function setFileAttributes(root: string, entries: readonly SpecialEntry[], warn: Warn): void {
  if (entries.length === 0) return;
  // Empty files with these attributes, on the same file system; cp copies only the attributes.
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

/** Extended attributes of directories by absolute path, one result for each, in order. */
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

/** Copies one file, link or node with all attributes. Both paths are absolute; `to` must not exist. */
export function copyNode(from: string, to: string): void {
  // xargs passes any bytes; Node cannot start a program with such arguments.
  const input = Buffer.from(`${from}\0${to}\0`, 'latin1');
  const {status, stderr} = runSync('xargs', ['-0', 'cp', '-a', '-T', '--'], {package: 'findutils', input});
  if (status !== 0) throw programError('cp', status, stderr, '/');
}
