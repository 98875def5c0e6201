/**
 * Writes the headers of a layer's tar: ustar, with PAX records for what ustar has no room for. The same entry always gives the same bytes.
 *
 * tar-stream takes PAX values as text, but names and extended attributes are bytes. Sparse files are written as GNU tar's format 1.0.
 *
 * Records and their conditions after Go's archive/tar (writer.go, common.go), by which containerd and umoci read layers.
 */
import type {SparseRegion, TarHeader, TarType} from './tar.ts';

const BLOCK = 512;
const MAX_OCTAL_7 = 0o7777777;
const MAX_OCTAL_11 = 0o77777777777;

/** What a header says; see `TarHeader`. `size` is that of a file. */
export type LayerEntry = Omit<TarHeader, 'quirks' | 'type'> & {readonly type: Exclude<TarType, 'global'>};

const TYPEFLAGS: Readonly<Record<LayerEntry['type'], string>> = {
  file: '0',
  link: '1',
  symlink: '2',
  char: '3',
  block: '4',
  directory: '5',
  fifo: '6',
};

/** What follows the content of an entry of `size` bytes. */
export const paddingFor = (size: number): Buffer => Buffer.alloc(-size & (BLOCK - 1));

/** What ends an archive. */
export const ARCHIVE_END: Buffer = Buffer.alloc(2 * BLOCK);

/** A header, with its PAX header before it, and of a sparse file its map, which is a part of the content. */
export function encodeHeader(entry: LayerEntry): Buffer {
  const {type, mode, uid, gid, mtimeSec, mtimeNs, devmajor, devminor, sparse} = entry;
  const name = type === 'directory' ? `${entry.name}/` : entry.name;
  const map = sparse === undefined ? undefined : sparseMap(sparse);
  const content = type !== 'file' ? 0 : sparse === undefined ? entry.size : map!.length + storedBytes(sparse);
  const records: (readonly [key: string, value: string | Buffer])[] = [];
  if (map !== undefined)
    records.push(
      ['GNU.sparse.major', '1'],
      ['GNU.sparse.minor', '0'],
      ['GNU.sparse.name', name],
      ['GNU.sparse.realsize', String(entry.size)],
    );
  else if (name.length > 100) records.push(['path', name]);
  if (entry.linkname.length > 100) records.push(['linkpath', entry.linkname]);
  if (uid > MAX_OCTAL_7) records.push(['uid', String(uid)]);
  if (gid > MAX_OCTAL_7) records.push(['gid', String(gid)]);
  if (content > MAX_OCTAL_11) records.push(['size', String(content)]);
  if (mtimeNs !== 0 || mtimeSec < 0 || mtimeSec > MAX_OCTAL_11) records.push(['mtime', formatTime(mtimeSec, mtimeNs)]);
  for (const key of [...entry.xattrs.keys()].sort()) records.push([`SCHILY.xattr.${key}`, entry.xattrs.get(key)!]);

  const b = Buffer.alloc(BLOCK);
  b.write(name.slice(0, 100), 0, 'latin1');
  putOctal(b, 100, 8, mode);
  putOctal(b, 108, 8, Math.min(uid, MAX_OCTAL_7));
  putOctal(b, 116, 8, Math.min(gid, MAX_OCTAL_7));
  putOctal(b, 124, 12, Math.min(content, MAX_OCTAL_11));
  putOctal(b, 136, 12, Math.min(Math.max(mtimeSec, 0), MAX_OCTAL_11));
  b.write(TYPEFLAGS[type], 156, 'latin1');
  b.write(entry.linkname.slice(0, 100), 157, 'latin1');
  if (type === 'char' || type === 'block') {
    putOctal(b, 329, 8, devmajor);
    putOctal(b, 337, 8, devminor);
  }
  const header = sign(b);
  return Buffer.concat([...(records.length === 0 ? [] : paxHeader(records)), header, ...(map === undefined ? [] : [map])]);
}

/** Bytes that a sparse file has in the archive, without its map. */
export const storedBytes = (sparse: readonly SparseRegion[]): number => sparse.reduce((sum, {size}) => sum + size, 0);

/** The content of a file as the archive has it, its map included; decides the padding. */
export const contentBytes = ({size, sparse}: Pick<LayerEntry, 'size' | 'sparse'>): number =>
  sparse === undefined ? size : sparseMap(sparse).length + storedBytes(sparse);

function sparseMap(regions: readonly SparseRegion[]): Buffer {
  const text = Buffer.from([regions.length, ...regions.flatMap(({offset, size}) => [offset, size])].map((n) => `${n}\n`).join(''));
  return Buffer.concat([text, paddingFor(text.length)]);
}

function paxHeader(records: readonly (readonly [key: string, value: string | Buffer])[]): readonly Buffer[] {
  const content = Buffer.concat(records.map(([key, value]) => paxRecord(key, value)));
  const b = Buffer.alloc(BLOCK);
  b.write('PaxHeaders.0', 0, 'latin1');
  for (const at of [100, 108, 116]) putOctal(b, at, 8, 0);
  putOctal(b, 124, 12, content.length);
  putOctal(b, 136, 12, 0);
  b.write('x', 156, 'latin1');
  return [sign(b), content, paddingFor(content.length)];
}

/** `<length> <key>=<value>\n`; the length counts itself. */
function paxRecord(key: string, value: string | Buffer): Buffer {
  const rest = Buffer.concat([
    Buffer.from(` ${key}=`, 'latin1'),
    typeof value === 'string' ? Buffer.from(value, 'latin1') : value,
    Buffer.from('\n'),
  ]);
  let length = rest.length;
  while (String(length).length + rest.length > length) length++;
  return Buffer.concat([Buffer.from(String(length)), rest]);
}

/** Seconds since 1970, with nine decimals; the sign applies to the whole number. */
function formatTime(sec: number, ns: number): string {
  if (ns === 0) return String(sec);
  const [whole, fraction] = sec < 0 ? [-sec - 1, 1e9 - ns] : [sec, ns];
  return `${sec < 0 ? '-' : ''}${whole}.${String(fraction).padStart(9, '0')}`;
}

const putOctal = (b: Buffer, at: number, length: number, value: number): void =>
  void b.write(`${value.toString(8).padStart(length - 1, '0')}\0`, at, 'latin1');

/** Adds magic and checksum. */
function sign(header: Buffer): Buffer {
  header.write('ustar\x0000', 257, 'latin1');
  header.write('        ', 148, 'latin1');
  let sum = 0;
  for (const byte of header) sum += byte;
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return header;
}
