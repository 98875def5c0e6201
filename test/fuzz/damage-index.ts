/**
 * Damages EROFS indexes more systematically than disks do: sets fields to boundary values, and lets names lead to other inodes or
 * directories into themselves. Walks the index to find fields, so that each kind is chosen equally often.
 */
import type {Random} from './seeded-random.ts';

/** A number in an index, little-endian. */
interface Field {
  readonly kind: string;
  readonly at: number;
  /** In bytes. */
  readonly width: 1 | 2 | 4 | 8;
}

const SUPERBLOCK = 1024;
const INODE_UNIT = 32;
const DIRENT_BYTES = 12;
const S_IFMT = 0o170000;
const S_IFDIR = 0o040000;
const FORMAT_INLINE = 0x5;

const SUPERBLOCK_FIELDS: readonly (readonly [kind: string, at: number, width: Field['width']])[] = [
  ['magic', 0, 4],
  ['checksum', 4, 4],
  ['feature_compat', 8, 4],
  ['blkszbits', 12, 1],
  ['sb_extslots', 13, 1],
  ['root_nid', 14, 2],
  ['inos', 16, 8],
  ['build_time', 24, 8],
  ['blocks', 36, 4],
  ['meta_blkaddr', 40, 4],
  ['xattr_blkaddr', 44, 4],
  ['feature_incompat', 80, 4],
  ['available_compr_algs', 84, 2],
  ['extra_devices', 86, 2],
  ['devt_slotoff', 88, 2],
  ['dirblkbits', 90, 1],
  ['xattr_prefix_count', 91, 1],
  ['xattr_prefix_start', 92, 4],
  ['packed_nid', 96, 8],
  ['device blocks', 128 + 64, 4],
  ['device mapped_blkaddr', 128 + 68, 4],
];

const INODE_FIELDS: readonly (readonly [kind: string, at: number, width: Field['width']])[] = [
  ['i_format', 0, 2],
  ['i_xattr_icount', 2, 2],
  ['i_mode', 4, 2],
  ['i_reserved', 6, 2],
  ['i_size', 8, 8],
  // First block, or format of the chunk map, depending on the format.
  ['i_u', 16, 4],
  ['i_ino', 20, 4],
  ['i_uid', 24, 4],
  ['i_gid', 28, 4],
  ['i_mtime', 32, 8],
  ['i_mtime_nsec', 40, 4],
  ['i_nlink', 44, 4],
];

/** All meaningful numbers of an index that berth wrote, each once. */
function fieldsOf(index: Buffer): Field[] {
  const fields: Field[] = SUPERBLOCK_FIELDS.map(([kind, at, width]) => ({kind, at: SUPERBLOCK + at, width}));
  const block = 2 ** index.readUInt8(SUPERBLOCK + 12);
  const seen = new Set<number>();
  const visit = (inode: number): void => {
    if (seen.has(inode)) return;
    seen.add(inode);
    fields.push(...INODE_FIELDS.map(([kind, at, width]) => ({kind, at: inode + at, width})));
    const count = index.readUInt16LE(inode + 2);
    const xattrBytes = count === 0 ? 0 : 12 + 4 * (count - 1);
    if (count > 0) {
      fields.push({kind: 'h_shared_count', at: inode + 64 + 4, width: 1});
      for (let at = inode + 76; at < inode + 64 + xattrBytes; ) {
        const [nameLength, valueSize] = [index.readUInt8(at), index.readUInt16LE(at + 2)];
        fields.push(
          {kind: 'e_name_len', at, width: 1},
          {kind: 'e_name_index', at: at + 1, width: 1},
          {kind: 'e_value_size', at: at + 2, width: 2},
        );
        at = (at + 4 + nameLength + valueSize + 3) & ~3;
      }
    }
    if ((index.readUInt16LE(inode + 4) & S_IFMT) !== S_IFDIR) return;
    const size = Number(index.readBigUInt64LE(inode + 8));
    const isInline = index.readUInt16LE(inode) === FORMAT_INLINE;
    const start = isInline ? inode + 64 + xattrBytes : index.readUInt32LE(inode + 16) * block;
    for (let at = start; at < start + size; at += block)
      for (let entry = at, end = at + index.readUInt16LE(at + 8); entry < end; entry += DIRENT_BYTES) {
        fields.push(
          {kind: 'dirent nid', at: entry, width: 8},
          {kind: 'dirent nameoff', at: entry + 8, width: 2},
          {kind: 'dirent file_type', at: entry + 10, width: 1},
          {kind: 'name', at: at + index.readUInt16LE(entry + 8), width: 1},
        );
        visit(INODE_UNIT * Number(index.readBigUInt64LE(entry)));
      }
  };
  visit(INODE_UNIT * index.readUInt16LE(SUPERBLOCK + 14));
  return fields;
}

const read = (index: Buffer, {at, width}: Field): bigint => (width === 8 ? index.readBigUInt64LE(at) : BigInt(index.readUIntLE(at, width)));

function write(index: Buffer, {at, width}: Field, value: bigint): void {
  const fitting = BigInt.asUintN(8 * width, value);
  if (width === 8) index.writeBigUInt64LE(fitting, at);
  else index.writeUIntLE(Number(fitting), at, width);
}

/** Near the limits of 8, 16, 32, 53 and 64 bits, a block, and a page. */
const BOUNDS: readonly bigint[] = [0n, 1n, 2n, 512n, 4096n, ...[7n, 8n, 15n, 16n, 31n, 32n, 40n, 53n, 63n, 64n].map((bits) => 1n << bits)];

export interface Mutation {
  readonly bytes: Buffer;
  /** Description of the change. */
  readonly what: string;
}

/** Changes one to three fields of an index that `erofs-index.ts` wrote; keeps the length. */
export function damageIndex(index: Buffer, random: Random): Mutation {
  const bytes = Buffer.from(index);
  const fields = fieldsOf(index);
  const kinds = [...new Set(fields.map(({kind}) => kind))];
  const what: string[] = [];
  for (let i = random.below(random.chance(0.7) ? 1 : 3); i >= 0; i--) {
    const kind = random.pick(kinds);
    const alike = fields.filter((field) => field.kind === kind);
    // The first fields affect every look-up.
    const field = random.pick(random.chance(0.5) ? alike.slice(0, 4) : alike);
    const before = read(bytes, field);
    const value = random.pick([
      () => random.pick(BOUNDS) - BigInt(random.below(2)),
      () => before + BigInt(random.below(5) - 2),
      () => before ^ (1n << BigInt(random.below(8 * field.width))),
      // The value of another field: two names for one inode, a directory in itself, data of another file.
      () => read(index, random.pick(alike)),
    ])();
    write(bytes, field, value);
    what.push(`${kind} at ${field.at}: ${before} becomes ${read(bytes, field)}`);
  }
  return {bytes, what: what.join('; ')};
}
