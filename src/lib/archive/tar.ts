/**
 * Push parser for tar archives: ustar, old tar, PAX, GNU long names, GNU sparse files. Works in one pass, synchronously, and keeps only the
 * current header.
 *
 * Names are bytes, held as *binary strings*: one character for each byte (latin1). So any encoding survives, and names can be keys.
 * `Buffer.from(name, 'latin1')` gives the bytes, `displayName` printable text.
 *
 * Source for validity and the meaning of numbers: Go's archive/tar (reader.go, strconv.go), with which containerd reads layers. The limits
 * are ours.
 */

import {ErrdefsError} from '../errdefs.ts';
import {MAX_EXTENDED_HEADERS, MAX_HEADER_BYTES, MAX_NAME_BYTES, MAX_NAME_DEPTH, MAX_PAX_RECORDS, MAX_TARGET_BYTES} from './limits.ts';

export type TarType = 'file' | 'directory' | 'symlink' | 'link' | 'char' | 'block' | 'fifo' | 'global';

/**
 * Headers that tar readers interpret differently: `v7` no magic; `old-type` type NUL; `header-size` a size without content; `gnu-times`
 * GNU's atime and ctime in place of the ustar prefix; `star` the prefix of star; `empty-name` no bytes or only slashes; `pax-empty` a PAX
 * record without value; `pax-fraction` a PAX mtime without exactly nine decimals; `sparse`; `libarchive-xattr` libarchive's form of xattrs,
 * which Go ignores.
 */
export type Quirk =
  | 'v7'
  | 'old-type'
  | 'header-size'
  | 'gnu-times'
  | 'star'
  | 'empty-name'
  | 'pax-empty'
  | 'pax-fraction'
  | 'sparse'
  | 'libarchive-xattr';

/** A range of a sparse file that has content, in bytes. */
export interface SparseRegion {
  readonly offset: number;
  readonly size: number;
}

export interface TarHeader {
  /** Binary string, as in the archive, not cleaned. */
  readonly name: string;
  /** Binary string: target of a symbolic or hard link, else empty. */
  readonly linkname: string;
  /** A `global` header is informational. As in containerd, its records are not applied. */
  readonly type: TarType;
  /** Permissions with setuid, setgid and sticky bit; no type bits. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Bytes of the file; of a sparse file, with its holes. Other types keep the header's value, but have no content. */
  readonly size: number;
  /** Seconds since 1970, rounded down; may be negative. */
  readonly mtimeSec: number;
  /** 0…999,999,999, added to `mtimeSec`. */
  readonly mtimeNs: number;
  readonly devmajor: number;
  readonly devminor: number;
  /** Keys are binary strings, such as `security.capability`. */
  readonly xattrs: ReadonlyMap<string, Buffer>;
  /** Only for a sparse file: `data` receives these regions in order. */
  readonly sparse?: readonly SparseRegion[];
  readonly quirks: readonly Quirk[];
}

/** Order of calls: `entry`, `data` any number of times, `entryEnd`; `end` once, after the archive's end. */
export interface TarHandler {
  /** @param contentStart offset of the entry's content in the archive, in bytes */
  entry(header: TarHeader, contentStart: number): void;
  /** The chunk is valid only during the call. */
  data(chunk: Buffer): void;
  entryEnd(): void;
  end?(): void;
}

export interface TarReader {
  /**
   * @throws data_loss the archive is damaged
   * @throws invalid_argument the archive has an unknown type, a number out of range, or too long a name
   */
  write(chunk: Uint8Array): void;
  /** @throws data_loss the archive is truncated */
  end(): void;
  /** Offset of the end of the last entry, including its padding: where another entry would begin. */
  readonly entriesEnd: number;
  /** Bytes of content and padding that are to come before the next header; 0 where a header is to come. */
  readonly pending: number;
  /** Takes so many bytes of `pending` as read, without `data`. For a caller that can seek. */
  skip(bytes: number): void;
  /** Whether the end of the archive was read. What follows is ignored. */
  readonly isComplete: boolean;
}

const BLOCK = 512;
/** (uid_t)-1 means "unchanged" to chown. */
const MAX_ID = 0xfffffffe;
/** Largest numbers in a Linux device number. */
const MAX_MAJOR = 0xfff;
const MAX_MINOR = 0xfffff;

const NO_XATTRS: ReadonlyMap<string, Buffer> = new Map();
const NO_QUIRKS: readonly Quirk[] = [];
const XATTR_PREFIX = 'SCHILY.xattr.';

const TYPES: Readonly<Record<string, TarType>> = {
  '0': 'file',
  '1': 'link',
  '2': 'symlink',
  '3': 'char',
  '4': 'block',
  '5': 'directory',
  '6': 'fifo',
  S: 'file',
};

/** Converts a binary string to printable text: UTF-8 if valid, else with escapes. */
export const displayName = (name: string): string => JSON.stringify(Buffer.from(name, 'latin1').toString());

/** A header before PAX records are merged into it. */
interface RawHeader {
  name: string;
  linkname: string;
  typeflag: string;
  mode: number;
  uid: number;
  gid: number;
  size: number;
  mtimeSec: number;
  mtimeNs: number;
  devmajor: number;
  devminor: number;
  gnu: boolean;
  quirks: Quirk[] | undefined;
}

type State =
  /** Reads a header block. */
  | 'header'
  /** Reads the content of an extended header. */
  | 'extended-header'
  /** Reads blocks of a sparse map: GNU's extension headers, or the text before the content in PAX 1.0. */
  | 'sparse-header'
  | 'sparse-map'
  | 'data'
  | 'padding'
  /** One zero block was read. */
  | 'zero'
  | 'drain';

export function createTarReader(handler: TarHandler): TarReader {
  let state: State = 'header';
  /** Offset of the current chunk in the archive, for messages. */
  let chunkStart = 0;
  /** Offset in the archive of the next unread byte. */
  let position = 0;
  let entriesEnd = 0;
  const block = Buffer.alloc(BLOCK);
  let filled = 0;
  /** Bytes of content, and then of padding, that are still to come. */
  let remaining = 0;
  let padding = 0;
  let extended = Buffer.alloc(0);
  let extendedType = '';
  let longName: string | undefined;
  let longLink: string | undefined;
  let pax: Map<string, Buffer> | undefined;
  /** An extended header was read, so an entry must follow. */
  let entryMustFollow = false;
  /** Extended headers so far before the next entry. */
  let extendedCount = 0;
  let raw: RawHeader | undefined;
  let sparseRegions: SparseRegion[] = [];
  let sparseMap = '';
  let sparseMapLines = 0;

  const damaged = (reason: string): ErrdefsError => new ErrdefsError('data_loss', `tar archive near byte ${chunkStart}: ${reason}`);
  const refused = (what: string): ErrdefsError => new ErrdefsError('invalid_argument', what);

  /** Parses a number: octal, or base 256 with the sign in the second bit of the first byte. */
  const parseField = (b: Buffer, at: number, length: number, field: string): number => {
    const value = parseNumber(b, at, length);
    if (value === undefined) throw damaged(`invalid ${field}`);
    return value;
  };

  const parseHeader = (b: Buffer, at: number): void => {
    const sum = checksums(b, at);
    const given = parseOctal(b, at + 148, 8);
    if (given === undefined || (given !== sum.unsigned && given !== sum.signed)) throw damaged('header checksum does not match');
    const quirks: Quirk[] = [];
    const magic = b.toString('latin1', at + 257, at + 265);
    const gnu = magic === 'ustar  \0';
    const ustar = magic.startsWith('ustar\0');
    const star = ustar && b.toString('latin1', at + 508, at + 512) === 'tar\0';
    let typeflag = b.toString('latin1', at + 156, at + 157);
    let name = cString(b, at, 100);
    let devmajor = 0;
    let devminor = 0;
    if (gnu || ustar) {
      if (typeflag === '3' || typeflag === '4') {
        devmajor = parseField(b, at + 329, 8, 'device number');
        devminor = parseField(b, at + 337, 8, 'device number');
      }
      let prefix = '';
      if (ustar) prefix = cString(b, at + 345, star ? 131 : 155);
      else if (b[at + 345] !== 0) {
        // GNU stores times here, but writers before Go 1.8 stored ustar's prefix.
        quirks.push('gnu-times');
        if (parseNumber(b, at + 345, 12) === undefined || parseNumber(b, at + 357, 12) === undefined) {
          const old = cString(b, at + 345, 155);
          // biome-ignore lint/suspicious/noControlCharactersInRegex: ASCII is the test
          if (/^[\x00-\x7f]*$/.test(old)) prefix = old;
        }
      }
      if (star) quirks.push('star');
      if (prefix !== '') name = `${prefix}/${name}`;
    } else quirks.push('v7');
    if (typeflag === '\0') {
      quirks.push('old-type');
      typeflag = '0';
    }
    raw = {
      name,
      linkname: cString(b, at + 157, 100),
      typeflag,
      mode: parseField(b, at + 100, 8, 'mode'),
      uid: parseField(b, at + 108, 8, 'uid'),
      gid: parseField(b, at + 116, 8, 'gid'),
      size: parseField(b, at + 124, 12, 'size'),
      mtimeSec: parseField(b, at + 136, 12, 'mtime'),
      mtimeNs: 0,
      devmajor,
      devminor,
      gnu,
      quirks,
    };
    if (raw.size < 0) throw refused(`tar entry ${displayName(name)} has the size ${raw.size}`);
    switch (typeflag) {
      case 'x':
      case 'g':
      case 'L':
      case 'K':
        if (raw.size > MAX_HEADER_BYTES)
          throw refused(`tar header of type ${typeflag} has ${raw.size} B, at most ${MAX_HEADER_BYTES} are read`);
        if (typeflag !== 'g' && ++extendedCount > MAX_EXTENDED_HEADERS)
          throw refused(`tar entry with more than ${MAX_EXTENDED_HEADERS} extended headers`);
        extendedType = typeflag;
        extended = Buffer.allocUnsafe(raw.size);
        filled = 0;
        remaining = raw.size;
        padding = -raw.size & (BLOCK - 1);
        state = 'extended-header';
        if (remaining === 0) extendedDone();
        return;
      case 'S': {
        if (!gnu) throw damaged('sparse file in an archive not made by GNU tar');
        sparseRegions = [];
        for (let i = 0; i < 4; i++) if (!addRegion(b, at + 386 + 24 * i)) break;
        const stored = raw.size;
        raw.size = parseField(b, at + 483, 12, 'size of a sparse file');
        remaining = stored;
        filled = 0;
        if (b[at + 482] === 0) beginEntry(stored);
        else state = 'sparse-header';
        return;
      }
      default:
        beginEntry(undefined);
    }
  };

  /** Adds a region of a GNU sparse header; false at the end of the list. */
  const addRegion = (b: Buffer, at: number): boolean => {
    const offset = parseField(b, at, 12, 'sparse map');
    const size = parseField(b, at + 12, 12, 'sparse map');
    if (offset === 0 && size === 0) return false;
    sparseRegions.push({offset, size});
    return true;
  };

  const sparseHeaderDone = (): void => {
    for (let i = 0; i < 21; i++) if (!addRegion(block, 24 * i)) break;
    if (sparseRegions.length * 24 > MAX_HEADER_BYTES) throw refused('sparse file with too many regions');
    filled = 0;
    if (block[504] === 0) beginEntry(remaining);
  };

  const extendedDone = (): void => {
    if (extendedType === 'L') longName = cString(extended, 0, extended.length);
    else if (extendedType === 'K') longLink = cString(extended, 0, extended.length);
    else if (extendedType === 'x') pax = parseRecords(extended, damaged);
    else {
      parseRecords(extended, damaged);
      handler.entry({...mergeHeader(raw!, undefined, undefined, undefined), type: 'global', size: 0}, position);
      handler.entryEnd();
    }
    entryMustFollow = extendedType !== 'g' || entryMustFollow;
    raw = undefined;
    state = padding > 0 ? 'padding' : 'header';
    filled = 0;
  };

  /** A PAX 1.0 sparse file whose map is being read. */
  let sparseHeader: TarHeader | undefined;

  /** Begins an entry after its header is complete. @param stored content bytes of a GNU sparse file */
  const beginEntry = (stored: number | undefined): void => {
    const rawHeader = raw!;
    if (TYPES[rawHeader.typeflag] === undefined)
      throw refused(`tar entry ${displayName(longName ?? rawHeader.name)} has the unknown type ${JSON.stringify(rawHeader.typeflag)}`);
    const header = mergeHeader(rawHeader, pax, longName, longLink);
    const format = pax === undefined || header.type !== 'file' || stored !== undefined ? undefined : sparseFormat(pax);
    const content = header.type === 'file' ? (stored ?? header.size) : 0;
    if (format !== undefined) beginPaxSparse(header, format, content);
    else if (stored !== undefined) announceSparse({...header, quirks: [...header.quirks, 'sparse']}, content);
    else announce(header, content);
  };

  /** Begins a sparse file in PAX format, whose header has the stored size. */
  const beginPaxSparse = (header: TarHeader, format: '0.x' | '1.0', content: number): void => {
    const records = pax!;
    const size = paxNumber(records, 'GNU.sparse.size') ?? paxNumber(records, 'GNU.sparse.realsize');
    if (size === undefined || size < 0) throw damaged('sparse file without its size');
    const name = checkName(paxText(records, 'GNU.sparse.name') ?? header.name, 'name', MAX_NAME_BYTES);
    const sparse: TarHeader = {...header, name, size, quirks: [...header.quirks, 'sparse']};
    if (format === '1.0') {
      sparseHeader = sparse;
      remaining = content;
      sparseMap = '';
      sparseMapLines = filled = 0;
      state = 'sparse-map';
    } else {
      sparseRegions = parseRegions(records, damaged);
      announceSparse(sparse, content);
    }
  };

  const announceSparse = (header: TarHeader, content: number): void => {
    checkRegions(sparseRegions, header.size, content, damaged);
    announce({...header, sparse: sparseRegions}, content);
  };

  const sparseMapDone = (): void => {
    if (remaining < BLOCK) throw damaged('sparse map is longer than the file');
    remaining -= BLOCK;
    sparseMap += block.toString('latin1');
    for (const c of block) if (c === 0x0a) sparseMapLines++;
    filled = 0;
    if (sparseMap.length > MAX_HEADER_BYTES) throw refused('sparse file with too many regions');
    if (sparseMapLines === 0) return;
    // The first line is the number of regions; each has two lines.
    const count = sparseMap.slice(0, sparseMap.indexOf('\n'));
    if (!/^\d{1,7}$/.test(count)) throw damaged('invalid sparse map');
    if (sparseMapLines <= 2 * Number(count)) return;
    sparseRegions = pairRegions(sparseMap.split('\n').slice(1, 1 + 2 * Number(count)), damaged);
    announceSparse(sparseHeader!, remaining);
  };

  const announce = (header: TarHeader, content: number): void => {
    raw = pax = longName = longLink = sparseHeader = undefined;
    entryMustFollow = false;
    extendedCount = 0;
    remaining = content;
    padding = -content & (BLOCK - 1);
    handler.entry(header, position);
    state = 'data';
    if (remaining === 0) entryDone();
  };

  const entryDone = (): void => {
    handler.entryEnd();
    state = padding > 0 ? 'padding' : 'header';
    filled = 0;
  };

  const blockDone = (b: Buffer, at: number): void => {
    filled = 0;
    if (isZero(b, at)) {
      if (state === 'zero') {
        state = 'drain';
        if (entryMustFollow) throw damaged('the archive ends after an extended header');
        handler.end?.();
      } else state = 'zero';
      return;
    }
    if (state === 'zero') throw damaged('a header follows a block of zeros');
    parseHeader(b, at);
  };

  /** Fills the block. Returns the number of bytes taken. */
  const fillBlock = (b: Buffer, at: number): number => {
    const n = Math.min(BLOCK - filled, b.length - at);
    b.copy(block, filled, at, at + n);
    filled += n;
    return n;
  };

  return {
    write(chunk) {
      const b = Buffer.isBuffer(chunk) ? chunk : Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
      const start = chunkStart;
      let at = 0;
      while (at < b.length) {
        chunkStart = start + at;
        switch (state) {
          case 'data': {
            const n = Math.min(remaining, b.length - at);
            remaining -= n;
            handler.data(n === b.length ? b : b.subarray(at, at + n));
            at += n;
            if (remaining === 0) entryDone();
            break;
          }
          case 'padding': {
            const n = Math.min(padding, b.length - at);
            padding -= n;
            at += n;
            if (padding === 0) state = 'header';
            break;
          }
          case 'header':
          case 'zero':
            if (filled === 0 && state === 'header' && !entryMustFollow) entriesEnd = start + at;
            if (filled === 0 && b.length - at >= BLOCK) {
              at += BLOCK;
              position = start + at;
              blockDone(b, at - BLOCK);
            } else {
              at += fillBlock(b, at);
              position = start + at;
              if (filled === BLOCK) blockDone(block, 0);
            }
            break;
          case 'extended-header': {
            const n = Math.min(remaining, b.length - at);
            b.copy(extended, extended.length - remaining, at, at + n);
            remaining -= n;
            at += n;
            position = start + at;
            if (remaining === 0) extendedDone();
            break;
          }
          case 'sparse-header':
            at += fillBlock(b, at);
            position = start + at;
            if (filled === BLOCK) sparseHeaderDone();
            break;
          case 'sparse-map':
            at += fillBlock(b, at);
            position = start + at;
            if (filled === BLOCK) sparseMapDone();
            break;
          case 'drain':
            at = b.length;
        }
      }
      chunkStart = start + b.length;
    },
    get entriesEnd() {
      if (state === 'padding') return chunkStart + padding;
      return state === 'header' && filled === 0 && !entryMustFollow ? chunkStart : entriesEnd;
    },
    get pending() {
      return state === 'data' ? remaining + padding : state === 'padding' ? padding : 0;
    },
    skip(bytes) {
      const content = state === 'data' ? Math.min(bytes, remaining) : 0;
      chunkStart += bytes;
      remaining -= content;
      if (state === 'data' && remaining === 0) entryDone();
      padding -= bytes - content;
      if (state === 'padding' && padding === 0) state = 'header';
    },
    get isComplete() {
      return state === 'drain';
    },
    end() {
      if (state === 'drain') return;
      // As in GNU tar and Go, the final zero blocks and the last padding are optional.
      const isBetweenBlocks = (state === 'header' || state === 'zero') && filled === 0;
      if (entryMustFollow || !(isBetweenBlocks || state === 'padding')) throw damaged('the archive is truncated');
      handler.end?.();
    },
  };
}

function checkName(name: string, field: string, max: number): string {
  if (name.length > max)
    throw new ErrdefsError(
      'invalid_argument',
      `tar entry ${displayName(name.slice(0, 64))}…: ${field} of ${name.length} B, at most ${max} are read`,
    );
  if (name.includes('\0')) throw new ErrdefsError('invalid_argument', `tar entry ${displayName(name)}: NUL in its ${field}`);
  return name;
}

/** Merges PAX records and GNU long names into a header. */
function mergeHeader(
  raw: RawHeader,
  pax: Map<string, Buffer> | undefined,
  longName: string | undefined,
  longLink: string | undefined,
): TarHeader {
  const {typeflag, devmajor, devminor} = raw;
  let {name, linkname, uid, gid, size, mtimeSec, mtimeNs} = raw;
  let xattrs = NO_XATTRS;
  const quirks = raw.quirks!;
  if (pax !== undefined) {
    const values = new Map<string, Buffer>();
    for (const [key, value] of pax) {
      if (key.startsWith(XATTR_PREFIX)) values.set(key.slice(XATTR_PREFIX.length), value);
      else if (key.startsWith('LIBARCHIVE.xattr.')) quirks.push('libarchive-xattr');
      else if (value.length === 0) quirks.push('pax-empty');
    }
    if (values.size > 0) xattrs = values;
    name = paxText(pax, 'path') ?? name;
    linkname = paxText(pax, 'linkpath') ?? linkname;
    uid = paxNumber(pax, 'uid') ?? uid;
    gid = paxNumber(pax, 'gid') ?? gid;
    size = paxNumber(pax, 'size') ?? size;
    const mtime = paxText(pax, 'mtime');
    if (mtime !== undefined) {
      ({sec: mtimeSec, ns: mtimeNs} = parseTime(mtime, name));
      const point = mtime.indexOf('.');
      if (point >= 0 && mtime.length - point !== 10) quirks.push('pax-fraction');
    }
  }
  name = checkName(longName ?? name, 'name', MAX_NAME_BYTES);
  if (name.length > MAX_NAME_DEPTH && name.split('/').length > MAX_NAME_DEPTH)
    throw new ErrdefsError(
      'invalid_argument',
      `tar entry ${displayName(name.slice(0, 64))}…: name deeper than ${MAX_NAME_DEPTH} directories`,
    );
  linkname = checkName(longLink ?? linkname, 'link target', MAX_TARGET_BYTES);
  const refused = (reason: string): ErrdefsError => new ErrdefsError('invalid_argument', `tar entry ${displayName(name)} has ${reason}`);
  let type: TarType = TYPES[typeflag] ?? 'global';
  // Before ustar, a name with a final slash meant a directory.
  if (type === 'file' && quirks.includes('old-type') && name.endsWith('/')) type = 'directory';
  if (type !== 'file' && size > 0) quirks.push('header-size');
  if (/^\/*$/.test(name)) quirks.push('empty-name');
  if (size < 0) throw refused(`the size ${size}`);
  if (uid < 0 || uid > MAX_ID || gid < 0 || gid > MAX_ID) throw refused(`the owner ${uid}:${gid}`);
  if (devmajor < 0 || devmajor > MAX_MAJOR || devminor < 0 || devminor > MAX_MINOR)
    throw refused(`the device number ${devmajor}:${devminor}`);
  return {
    name,
    linkname: type === 'link' || type === 'symlink' ? linkname : '',
    type,
    mode: raw.mode & 0o7777,
    uid,
    gid,
    size,
    mtimeSec,
    mtimeNs,
    devmajor,
    devminor,
    xattrs,
    quirks: quirks.length === 0 ? NO_QUIRKS : quirks,
  };
}

/** A field up to its first NUL, as a binary string. */
function cString(b: Buffer, at: number, length: number): string {
  let end = at;
  while (end < at + length && b[end] !== 0) end++;
  return b.toString('latin1', at, end);
}

function isZero(b: Buffer, at: number): boolean {
  for (let i = at; i < at + BLOCK; i++) if (b[i] !== 0) return false;
  return true;
}

/** Sums of a header's bytes, counting its checksum field as spaces. Old writers summed signed bytes. */
function checksums(b: Buffer, at: number): {unsigned: number; signed: number} {
  let unsigned = 8 * 0x20;
  let high = 0;
  for (let i = 0; i < BLOCK; i++) {
    if (i === 148) i = 156;
    const c = b[at + i]!;
    unsigned += c;
    high += c >> 7;
  }
  return {unsigned, signed: unsigned - 256 * high};
}

/** Parses octal digits between spaces and NULs; an empty field is 0. */
function parseOctal(b: Buffer, at: number, length: number): number | undefined {
  let i = at;
  let end = at + length;
  while (i < end && (b[i] === 0x20 || b[i] === 0)) i++;
  while (end > i && (b[end - 1] === 0x20 || b[end - 1] === 0)) end--;
  let value = 0;
  for (; i < end && b[i] !== 0; i++) {
    const digit = b[i]! - 0x30;
    if (digit < 0 || digit > 7) return undefined;
    value = value * 8 + digit;
  }
  return value;
}

function parseNumber(b: Buffer, at: number, length: number): number | undefined {
  const first = b[at]!;
  if ((first & 0x80) === 0) return parseOctal(b, at, length);
  const negative = (first & 0x40) !== 0;
  let value = negative ? ~first & 0x7f : first & 0x7f;
  for (let i = at + 1; i < at + length; i++) {
    value = value * 256 + (negative ? ~b[i]! & 0xff : b[i]!);
    if (value > Number.MAX_SAFE_INTEGER) return undefined;
  }
  return negative ? -value - 1 : value;
}

/**
 * Parses the records of a PAX header, each `<length> <key>=<value>\n`. The last record of a key wins. Repeated keys of sparse format 0.0
 * become the map of 0.1.
 */
function parseRecords(b: Buffer, damaged: (reason: string) => ErrdefsError): Map<string, Buffer> {
  const records = new Map<string, Buffer>();
  const regions: string[] = [];
  for (let at = 0; at < b.length; ) {
    const space = b.indexOf(0x20, at);
    const text = space < 0 || space - at > 7 ? '' : b.toString('latin1', at, space);
    const length = /^\d+$/.test(text) ? Number(text) : 0;
    const end = at + length;
    const equals = b.indexOf(0x3d, space + 1);
    if (length < 5 || end > b.length || b[end - 1] !== 0x0a || equals < 0 || equals >= end) throw damaged('invalid PAX record');
    const key = b.toString('latin1', space + 1, equals);
    if (key.includes('\0')) throw damaged('invalid PAX record');
    const value = b.subarray(equals + 1, end - 1);
    if (key === 'GNU.sparse.offset' || key === 'GNU.sparse.numbytes') {
      if ((regions.length % 2 === 0) !== (key === 'GNU.sparse.offset')) throw damaged('invalid sparse map');
      regions.push(value.toString('latin1'));
    } else if (records.set(key, value).size > MAX_PAX_RECORDS)
      throw new ErrdefsError('invalid_argument', `PAX header with more than ${MAX_PAX_RECORDS} records`);
    at = end;
  }
  if (regions.length > 0) records.set('GNU.sparse.map', Buffer.from(regions.join(','), 'latin1'));
  return records;
}

/** Value of a record; an empty value counts as absent. */
function paxText(pax: Map<string, Buffer>, key: string): string | undefined {
  const value = pax.get(key);
  return value === undefined || value.length === 0 ? undefined : value.toString('latin1');
}

function paxNumber(pax: Map<string, Buffer>, key: string): number | undefined {
  const text = paxText(pax, key);
  if (text === undefined) return undefined;
  const value = /^[+-]?\d{1,19}$/.test(text) ? Number(text) : Number.NaN;
  if (!Number.isSafeInteger(value)) throw new ErrdefsError('invalid_argument', `PAX record ${key} has the value ${displayName(text)}`);
  return value;
}

/** Parses `<seconds>[.<decimals>]`; the sign applies to the whole number. */
function parseTime(text: string, name: string): {sec: number; ns: number} {
  const match = /^([+-]?)(\d{1,15})(?:\.(\d*))?$/.exec(text);
  if (match === null) throw new ErrdefsError('invalid_argument', `tar entry ${displayName(name)} has the mtime ${displayName(text)}`);
  const [, sign, whole, decimals = ''] = match;
  const sec = Number(whole);
  const ns = Number(decimals.slice(0, 9).padEnd(9, '0'));
  if (sign !== '-') return {sec, ns};
  return ns === 0 ? {sec: -sec, ns} : {sec: -sec - 1, ns: 1e9 - ns};
}

function sparseFormat(pax: Map<string, Buffer>): '0.x' | '1.0' | undefined {
  const major = paxText(pax, 'GNU.sparse.major');
  const minor = paxText(pax, 'GNU.sparse.minor');
  if (major === '1' && minor === '0') return '1.0';
  if (major === '0' && (minor === '0' || minor === '1')) return '0.x';
  return major === undefined && minor === undefined && pax.has('GNU.sparse.map') ? '0.x' : undefined;
}

function parseRegions(pax: Map<string, Buffer>, damaged: (reason: string) => ErrdefsError): SparseRegion[] {
  const count = paxNumber(pax, 'GNU.sparse.numblocks');
  const text = paxText(pax, 'GNU.sparse.map');
  const numbers = text === undefined ? [] : text.split(',');
  if (count === undefined || numbers.length !== 2 * count) throw damaged('invalid sparse map');
  return pairRegions(numbers, damaged);
}

function pairRegions(numbers: readonly string[], damaged: (reason: string) => ErrdefsError): SparseRegion[] {
  const regions: SparseRegion[] = [];
  for (let i = 0; i < numbers.length; i += 2) {
    const [offset, size] = [numbers[i]!, numbers[i + 1]!];
    if (!/^\d{1,16}$/.test(offset) || !/^\d{1,16}$/.test(size)) throw damaged('invalid sparse map');
    regions.push({offset: Number(offset), size: Number(size)});
  }
  return regions;
}

/** Checks that regions are in order, lie within the file, and add up to the stored size. */
function checkRegions(regions: readonly SparseRegion[], size: number, stored: number, damaged: (reason: string) => ErrdefsError): void {
  let end = 0;
  let sum = 0;
  for (const region of regions) {
    if (region.offset < end || region.size < 0 || region.offset + region.size > size) throw damaged('invalid sparse map');
    end = region.offset + region.size;
    sum += region.size;
  }
  if (sum !== stored) throw damaged('the sparse map does not fit the content');
}
