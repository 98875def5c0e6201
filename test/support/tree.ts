/** Reads trees on disk with all attributes, and compares them. Needs root for attributes that only root may read. */
import assert from 'node:assert/strict';
import {spawnSync} from 'node:child_process';
import {createHash} from 'node:crypto';
import {type BigIntStats, lstatSync, readdirSync, readFileSync, readlinkSync} from 'node:fs';

export type Field = 'presence' | 'type' | 'mode' | 'uid' | 'gid' | 'size' | 'mtime' | 'target' | 'device' | 'links' | 'xattrs' | 'content';

export interface TreeEntry {
  /** Below the directory, a binary string; `.` for the directory itself. */
  readonly path: string;
  readonly type: 'file' | 'directory' | 'symlink' | 'char' | 'block' | 'fifo' | 'socket';
  /** Permission bits, four octal digits. */
  readonly mode: string;
  readonly uid: number;
  readonly gid: number;
  /** Bytes, of files only. */
  readonly size?: number;
  /** Nanoseconds since 1970. */
  readonly mtime: bigint;
  readonly target?: string;
  /** `major:minor` */
  readonly device?: string;
  /** All names of the same inode in this tree, if there is more than one. */
  readonly links?: readonly string[];
  /** Values in hex. */
  readonly xattrs: Readonly<Record<string, string>>;
  /** SHA-256 of a file. */
  readonly content?: string;
}

const latin1 = (path: string): Buffer => Buffer.from(path, 'latin1');

function typeOf(stat: BigIntStats): TreeEntry['type'] {
  if (stat.isFile()) return 'file';
  if (stat.isDirectory()) return 'directory';
  if (stat.isSymbolicLink()) return 'symlink';
  if (stat.isCharacterDevice()) return 'char';
  if (stat.isBlockDevice()) return 'block';
  return stat.isFIFO() ? 'fifo' : 'socket';
}

/** Extended attributes of everything below directories, by path, in one go. */
export function readAllXattrs(dirs: readonly string[]): Map<string, Record<string, string>> {
  const args = ['-R', '-P', '-h', '-d', '-m', '-', '--absolute-names', '-e', 'hex', ...dirs];
  const {status, stdout, stderr} = spawnSync('getfattr', args, {maxBuffer: 1 << 30, encoding: 'latin1'});
  // The reader of the tree reports a listed name that is missing.
  assert.ok(status === 0 || /No such file or directory/.test(stderr), stderr);
  const text = stdout;
  const all = new Map<string, Record<string, string>>();
  for (const record of text.split('\n\n')) {
    const [head = '', ...lines] = record.split('\n').filter((line) => line !== '');
    const path = head
      .replace('# file: ', '')
      .replaceAll(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
    all.set(path, Object.fromEntries(lines.sort().map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)])));
  }
  return all;
}

/**
 * Everything in a directory, sorted by path, the directory itself first.
 *
 * @param xattrs as of `readAllXattrs`, for one of several trees
 * @throws a name is listed and is not there
 */
export function readTree(dir: string, xattrs = readAllXattrs([dir])): TreeEntry[] {
  const base = Buffer.from(dir).toString('latin1');
  const inodes = new Map<string, string[]>();
  const entries: TreeEntry[] = [];
  const visit = (path: string): void => {
    const full = path === '.' ? base : `${base}/${path}`;
    const stat = lstatSync(latin1(full), {bigint: true});
    const type = typeOf(stat);
    const inode = `${stat.dev}:${stat.ino}`;
    const names = inodes.get(inode) ?? [];
    if (type !== 'directory') inodes.set(inode, names);
    names.push(path);
    entries.push({
      path,
      type,
      mode: Number(stat.mode & 0o7777n)
        .toString(8)
        .padStart(4, '0'),
      uid: Number(stat.uid),
      gid: Number(stat.gid),
      mtime: stat.mtimeNs,
      xattrs: xattrs.get(full) ?? {},
      ...(type === 'file'
        ? {
            size: Number(stat.size),
            content: createHash('sha256')
              .update(readFileSync(latin1(full)))
              .digest('hex'),
          }
        : {}),
      ...(type === 'symlink' ? {target: readlinkSync(latin1(full), {encoding: 'latin1'})} : {}),
      ...(type === 'char' || type === 'block' ? {device: deviceOf(stat.rdev)} : {}),
      ...(type === 'directory' ? {} : {links: names}),
    });
    if (type !== 'directory') return;
    for (const name of readdirSync(latin1(full), {encoding: 'latin1'}).sort()) visit(path === '.' ? name : `${path}/${name}`);
  };
  visit('.');
  return entries
    .map(({links = [], ...rest}) => (links.length > 1 ? {...rest, links: [...links].sort()} : rest))
    .sort((a, b) => (a.path < b.path ? -1 : 1));
}

const deviceOf = (rdev: bigint): string => `${(rdev >> 8n) & 0xfffn}:${(rdev & 0xffn) | ((rdev >> 12n) & 0xfff00n)}`;

export interface DiffOptions {
  /** True for what may differ. */
  readonly ignore?: (path: string, field: Field) => boolean;
}

const FIELDS = ['type', 'mode', 'uid', 'gid', 'size', 'mtime', 'target', 'device', 'links', 'xattrs', 'content'] as const;

function show(value: unknown): string {
  if (value === undefined) return '-';
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}

/** Differences between two trees, one line for each. */
export function diffTrees(a: readonly TreeEntry[], b: readonly TreeEntry[], {ignore = () => false}: DiffOptions = {}): string[] {
  const [left, right] = [new Map(a.map((entry) => [entry.path, entry])), new Map(b.map((entry) => [entry.path, entry]))];
  const lines: string[] = [];
  for (const path of [...new Set([...left.keys(), ...right.keys()])].sort()) {
    const [one, other] = [left.get(path), right.get(path)];
    const name = JSON.stringify(path);
    if (one === undefined || other === undefined) {
      if (!ignore(path, 'presence')) lines.push(`${name}: only in the ${one === undefined ? 'second' : 'first'}`);
      continue;
    }
    for (const field of FIELDS) {
      const [x, y] = [show(one[field]), show(other[field])];
      if (x !== y && !ignore(path, field)) lines.push(`${name}: ${field} ${x} ≠ ${y}`);
    }
  }
  return lines;
}
