/**
 * Push parser for tar archives: ustar, old tar, PAX, GNU long names, GNU sparse files. One pass, synchronous, nothing kept
 * but the header in hand.
 *
 * Names are bytes. They travel as *binary strings*: one character per byte (latin1), so that any encoding survives and
 * strings can be keys; `Buffer.from(name, 'latin1')` gives the bytes, `displayName` something to print.
 *
 * What is a valid archive, and what its numbers mean, after Go's archive/tar (reader.go, strconv.go), which containerd
 * reads layers with; limits are ours.
 */

import {ErrdefsError} from '../errdefs.ts';
import {MAX_EXTENDED_HEADERS, MAX_HEADER_BYTES, MAX_NAME_BYTES, MAX_NAME_DEPTH, MAX_PAX_RECORDS, MAX_TARGET_BYTES} from './limits.ts';

export type TarType = 'file' | 'directory' | 'symlink' | 'link' | 'char' | 'block' | 'fifo' | 'global';

/**
 * Ways to write a header that readers of tar understand differently:
 * `v7` no magic; `old-type` a NUL for the type; `header-size` a size where no content follows; `gnu-times` GNU's atime and
 * ctime where ustar has the prefix; `star` the prefix of star; `empty-name` a name of no bytes or of slashes only;
 * `pax-empty` a PAX record without value; `pax-fraction` a PAX mtime with other than nine decimals; `sparse`;
 * `libarchive-xattr` xattrs in libarchive's form, which Go ignores.
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

/** A stretch of a sparse file that has content: bytes from the file's start, and how many. */
export interface SparseRegion {
  readonly offset: number;
  readonly size: number;
}

export interface TarHeader {
  /** Binary string, as in the archive: not cleaned. */
  readonly name: string;
  /** Binary string: text of a symbolic link, target of a hard link, else empty. */
  readonly linkname: string;
  /** A `global` header is for information only: containerd ignores what it says, so its records are not applied. */
  readonly type: TarType;
  /** Permissions with setuid, setgid and sticky bit; no type bits. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Bytes of the file; of a sparse file, expanded. As the archive says for other types too, though no content follows. */
  readonly size: number;
  /** Seconds since 1970, rounded down; may be negative. */
  readonly mtimeSec: number;
  /** 0…999,999,999, added to `mtimeSec`. */
  readonly mtimeNs: number;
  readonly devmajor: number;
  readonly devminor: number;
  /** By name as a binary string, such as `security.capability`. */
  readonly xattrs: ReadonlyMap<string, Buffer>;
  /** Present for a sparse file: `data` brings these regions only, one after the other. */
  readonly sparse?: readonly SparseRegion[];
  readonly quirks: readonly Quirk[];
}

/** Called in order: `entry`, its content in any number of `data`, `entryEnd`; `end` once, when the archive has ended. */
export interface TarHandler {
  /** @param contentStart where in the archive the entry's content begins, in bytes */
  entry(header: TarHeader, contentStart: number): void;
  /** The chunk is valid during the call only. */
  data(chunk: Buffer): void;
  entryEnd(): void;
  end?(): void;
}

export interface TarReader {
  /**
   * @throws data_loss the archive is damaged
   * @throws invalid_argument it is readable, but holds what is refused: an unknown type, a number out of range, too long a name
   */
  write(chunk: Uint8Array): void;
  /** @throws data_loss the archive is truncated */
  end(): void;
  /** Bytes up to the end of the last entry so far, its padding included: where a further one would begin. */
  readonly entriesEnd: number;
}

const BLOCK = 512;
/** The highest id is (uid_t)-1, which means "leave it" to chown. */
const MAX_ID = 0xfffffffe;
/** What a Linux device number holds. */
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

/** A binary string as text for people: UTF-8 where it is, escapes where not. */
export const displayName = (name: string): string => JSON.stringify(Buffer.from(name, 'latin1').toString());

/** What a header has before PAX records are merged into it. */
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
  /** Collecting a header block. */
  | 'header'
  /** Collecting the content of a header about the next one. */
  | 'meta'
  /** Collecting blocks of a sparse map: GNU's extension headers, or the text before the content of PAX 1.0. */
  | 'sparse-header'
  | 'sparse-map'
  | 'data'
  | 'padding'
  /** One zero block was read. */
  | 'zero'
  | 'drain';

export function createTarReader(handler: TarHandler): TarReader {
  let state: State = 'header';
  /** Bytes of the archive before the chunk in hand, for messages. */
  let chunkStart = 0;
  /** Bytes of the archive up to where it is read. */
  let position = 0;
  let entriesEnd = 0;
  const block = Buffer.alloc(BLOCK);
  let filled = 0;
  /** Bytes still to come: of content, then of padding. */
  let remaining = 0;
  let padding = 0;
  let extended = Buffer.alloc(0);
  let extendedType = '';
  let longName: string | undefined;
  let longLink: string | undefined;
  let pax: Map<string, Buffer> | undefined;
  /** A header about the next one has been read, so there must be a next one. */
  let entryMustFollow = false;
  /** Headers about the next one so far. */
  let extendedCount = 0;
  let raw: RawHeader | undefined;
  let sparseRegions: SparseRegion[] = [];
  let sparseMap = '';
  let sparseMapLines = 0;

  const damaged = (reason: string): ErrdefsError => new ErrdefsError('data_loss', `tar archive near byte ${chunkStart}: ${reason}`);
  const refused = (what: string): ErrdefsError => new ErrdefsError('invalid_argument', what);

  /** Number of a header field: octal, or base 256 with the sign in the first byte's second bit. */
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
        // GNU keeps times here. Writers before Go 1.8 put ustar's prefix here all the same.
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
        state = 'meta';
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

  /** One region of a GNU sparse header; false at the end of the list. */
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
      handler.entry({...headerOf(raw!, undefined, undefined, undefined), type: 'global', size: 0}, position);
      handler.entryEnd();
    }
    entryMustFollow = extendedType !== 'g' || entryMustFollow;
    raw = undefined;
    state = padding > 0 ? 'padding' : 'header';
    filled = 0;
  };

  /** A PAX 1.0 sparse file whose map is being read. */
  let sparseHeader: TarHeader | undefined;

  /** The header is whole: announce the entry. @param stored bytes of content that follow, for GNU's sparse files */
  const beginEntry = (stored: number | undefined): void => {
    const rawHeader = raw!;
    if (TYPES[rawHeader.typeflag] === undefined)
      throw refused(`tar entry ${displayName(longName ?? rawHeader.name)} has the unknown type ${JSON.stringify(rawHeader.typeflag)}`);
    const header = headerOf(rawHeader, pax, longName, longLink);
    const format = pax === undefined || header.type !== 'file' || stored !== undefined ? undefined : sparseFormat(pax);
    const content = header.type === 'file' ? (stored ?? header.size) : 0;
    if (format !== undefined) beginPaxSparse(header, format, content);
    else if (stored !== undefined) announceSparse({...header, quirks: [...header.quirks, 'sparse']}, content);
    else announce(header, content);
  };

  /** A sparse file by PAX records: what the header calls its size is what is stored. */
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
    // The first line says how many pairs of lines follow.
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

  /** Copies into the block; true when it is full. Answers by how much `at` moves. */
  const collect = (b: Buffer, at: number): number => {
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
              at += collect(b, at);
              position = start + at;
              if (filled === BLOCK) blockDone(block, 0);
            }
            break;
          case 'meta': {
            const n = Math.min(remaining, b.length - at);
            b.copy(extended, extended.length - remaining, at, at + n);
            remaining -= n;
            at += n;
            position = start + at;
            if (remaining === 0) extendedDone();
            break;
          }
          case 'sparse-header':
            at += collect(b, at);
            position = start + at;
            if (filled === BLOCK) sparseHeaderDone();
            break;
          case 'sparse-map':
            at += collect(b, at);
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
    end() {
      if (state === 'drain') return;
      // As with GNU tar and Go, the zero blocks at the end may be missing, and the last padding too.
      const whole = (state === 'header' || state === 'zero') && filled === 0;
      if (entryMustFollow || !(whole || state === 'padding')) throw damaged('the archive is truncated');
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

/** Merges what PAX records and GNU's long names say into a header. */
function headerOf(
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
  // Before ustar a directory was a file whose name ends in a slash.
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

/** Bytes of a field up to its first NUL, as a binary string. */
function cString(b: Buffer, at: number, length: number): string {
  let end = at;
  while (end < at + length && b[end] !== 0) end++;
  return b.toString('latin1', at, end);
}

function isZero(b: Buffer, at: number): boolean {
  for (let i = at; i < at + BLOCK; i++) if (b[i] !== 0) return false;
  return true;
}

/** Sum of a header's bytes with its checksum field as spaces; old writers summed signed bytes. */
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

/** Octal digits between spaces and NULs; nothing at all is 0. */
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

/** Records of a PAX header, `<length> <key>=<value>\n` each; the last of a key wins. Sparse 0.0's repeated keys are joined into the map of 0.1. */
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

/** Value of a record; a record without value is as if absent. */
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

/** `<seconds>[.<decimals>]`; the sign is the whole number's. */
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

/** Regions in order, within the file, and together as long as what is stored. */
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
