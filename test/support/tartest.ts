/**
 * Tars for tests, entry by entry, also such as no tool would write. Names are binary strings (a character for a byte), as in
 * src/lib/archive/tar.ts; `bytes('ü')` makes one of text.
 *
 * After containerd, pkg/archive/tartest.
 */

export interface TarEntry {
  readonly name: string;
  readonly typeflag: string;
  readonly linkname?: string;
  readonly content?: Buffer;
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  /** Seconds; a fraction needs `pax`. */
  readonly mtime?: number;
  readonly devmajor?: number;
  readonly devminor?: number;
  /** What the header says, if other than the content's length. */
  readonly size?: number;
  /** Records of a PAX header before it. */
  readonly pax?: Readonly<Record<string, string | Buffer>>;
  readonly xattrs?: Readonly<Record<string, string | Buffer>>;
  /** `ustar` (and PAX where that is not enough), `gnu` (long names, base 256), `v7` (no magic). */
  readonly format?: 'ustar' | 'gnu' | 'v7';
  readonly prefix?: string;
  /** Last changes to the header block, before its checksum is made. */
  readonly patch?: (block: Buffer) => void;
}

export type More = Partial<TarEntry>;

export const bytes = (text: string): string => Buffer.from(text).toString('latin1');

/** The time that entries have unless they say otherwise. */
export const MTIME = 1_700_000_000;

export const dir = (name: string, mode = 0o755, more: More = {}): TarEntry => ({name, typeflag: '5', mode, ...more});
export const file = (name: string, content: string | Buffer = '', mode = 0o644, more: More = {}): TarEntry => ({
  name,
  typeflag: '0',
  mode,
  content: Buffer.from(content),
  ...more,
});
export const symlink = (target: string, name: string, more: More = {}): TarEntry => ({
  name,
  typeflag: '2',
  mode: 0o777,
  linkname: target,
  ...more,
});
/** Attributes are those that `file` gives by itself. */
export const link = (target: string, name: string, more: More = {}): TarEntry => ({
  name,
  typeflag: '1',
  mode: 0o644,
  linkname: target,
  ...more,
});
export const fifo = (name: string, mode = 0o644, more: More = {}): TarEntry => ({name, typeflag: '6', mode, ...more});
export const char = (name: string, devmajor: number, devminor: number, more: More = {}): TarEntry => ({
  name,
  typeflag: '3',
  mode: 0o666,
  devmajor,
  devminor,
  ...more,
});
export const block = (name: string, devmajor: number, devminor: number, more: More = {}): TarEntry => ({
  ...char(name, devmajor, devminor, more),
  typeflag: '4',
});
/** Hides `name`. */
export const whiteout = (name: string, more: More = {}): TarEntry => file(name.replace(/([^/]*)$/, '.wh.$1'), '', 0, more);
export const opaque = (name: string): TarEntry => file(`${name}/.wh..wh..opq`, '', 0);

const BLOCK = 512;

/** Bytes of one record, with the length that counts itself. */
export function paxRecord(key: string, value: string | Buffer): Buffer {
  const rest = Buffer.concat([Buffer.from(` ${key}=`, 'latin1'), Buffer.from(value as string, 'latin1'), Buffer.from('\n')]);
  let length = rest.length;
  while (String(length).length + rest.length > length) length++;
  return Buffer.concat([Buffer.from(String(length)), rest]);
}

export function paxRecords(records: Readonly<Record<string, string | Buffer>>): Buffer {
  return Buffer.concat(Object.entries(records).map(([key, value]) => paxRecord(key, value)));
}

/** A number in octal, or in base 256 where octal does not do. */
function putNumber(b: Buffer, at: number, length: number, value: number): void {
  const text = value < 0 ? '' : value.toString(8);
  if (text !== '' && text.length < length) {
    b.write(`${text.padStart(length - 1, '0')}\0`, at, 'latin1');
    return;
  }
  let rest = BigInt(value);
  for (let i = at + length - 1; i >= at; i--) {
    b[i] = Number(rest & 0xffn);
    rest >>= 8n;
  }
  b[at] = (b[at]! & 0x7f) | 0x80;
}

export function sign(header: Buffer): Buffer {
  header.write('        ', 148, 'latin1');
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return header;
}

export function padded(content: Buffer): Buffer {
  return Buffer.concat([content, Buffer.alloc(-content.length & (BLOCK - 1))]);
}

function header(entry: TarEntry): Buffer {
  const {name, typeflag, linkname = '', content = Buffer.alloc(0), mode = 0o644, uid = 0, gid = 0, mtime = MTIME} = entry;
  const {devmajor = 0, devminor = 0, size = content.length, format = 'ustar', prefix = ''} = entry;
  const b = Buffer.alloc(BLOCK);
  b.write(name.slice(0, 100), 0, 'latin1');
  putNumber(b, 100, 8, mode);
  putNumber(b, 108, 8, uid);
  putNumber(b, 116, 8, gid);
  putNumber(b, 124, 12, size);
  putNumber(b, 136, 12, mtime);
  b.write(typeflag, 156, 'latin1');
  b.write(linkname.slice(0, 100), 157, 'latin1');
  if (format !== 'v7') {
    b.write(format === 'gnu' ? 'ustar  \0' : 'ustar\x0000', 257, 'latin1');
    putNumber(b, 329, 8, devmajor);
    putNumber(b, 337, 8, devminor);
    b.write(prefix, 345, 'latin1');
  }
  entry.patch?.(b);
  return sign(b);
}

/** One entry with whatever precedes its header. */
export function encode(entry: TarEntry): Buffer {
  const {name, linkname = '', format = 'ustar', content = Buffer.alloc(0), xattrs = {}} = entry;
  const parts: Buffer[] = [];
  const before = (typeflag: string, what: Buffer): void => {
    parts.push(header({name: '././@Header', typeflag, content: what, format, mtime: 0}), padded(what));
  };
  const long = format === 'ustar' && (entry.prefix ?? '') === '';
  const records = {
    ...(long && name.length > 100 ? {path: name} : {}),
    ...(long && linkname.length > 100 ? {linkpath: linkname} : {}),
    ...Object.fromEntries(Object.entries(xattrs).map(([key, value]) => [`SCHILY.xattr.${key}`, value])),
    ...entry.pax,
  };
  if (Object.keys(records).length > 0) before('x', paxRecords(records));
  if (format === 'gnu' && name.length > 100) before('L', Buffer.from(`${name}\0`, 'latin1'));
  if (format === 'gnu' && linkname.length > 100) before('K', Buffer.from(`${linkname}\0`, 'latin1'));
  parts.push(header(entry), padded(content));
  return Buffer.concat(parts);
}

/** A whole archive. Buffers among the entries are taken as they are. */
export function tar(...entries: readonly (TarEntry | Buffer)[]): Buffer {
  return Buffer.concat([...entries.map((entry) => (Buffer.isBuffer(entry) ? entry : encode(entry))), Buffer.alloc(2 * BLOCK)]);
}

/** A small layer with a directory of its own mode, a hard link and a symbolic link. */
export const BASE_LAYER = tar(
  dir('etc', 0o750),
  file('etc/a', 'hello'.repeat(1000)),
  link('etc/a', 'etc/b'),
  dir('usr'),
  dir('usr/bin'),
  symlink('../etc', 'usr/e'),
);
