/** Attributes of implicit parents in an index, taken from the lower layers. */
import {type ImplicitParent, INODE_FIELDS} from './erofs-index.ts';
import {inheritedGid, withoutTrusted} from './extraction-tree.ts';
import {findMerged, type LowerTree} from './lower-tree.ts';
import type {Attributes} from './special-files.ts';

const S_IFDIR = 0o040000;

/** Bytes to write at an offset of an index. */
export interface Patch {
  readonly offset: number;
  readonly bytes: Buffer;
}

/**
 * Gives implicit parents the attributes that they have in the lower layers. Parents without a lower directory keep theirs.
 *
 * @param lowers topmost first
 * @returns `undefined` if an index cannot represent the result: a parent is not a directory in the lower layers, or has extended attributes
 *   there, or holds only whiteouts and is in no lower layer
 */
export function inheritAttributes(parents: readonly ImplicitParent[], lowers: readonly LowerTree[]): readonly Patch[] | undefined {
  const all: Patch[] = [];
  const found = new Map<string, Attributes>();
  for (const {path, whiteoutsOnly, inode} of parents) {
    const below = findMerged(lowers, path);
    if (below === undefined && !whiteoutsOnly) {
      const parent = found.get(path.slice(0, Math.max(path.lastIndexOf('/'), 0)));
      const gid = parent && inheritedGid(parent);
      if (gid !== undefined) all.push({offset: inode + INODE_FIELDS.gid, bytes: uint32(gid)});
      continue;
    }
    if (below === undefined || below === 'other' || withoutTrusted(below.xattrs).size > 0) return undefined;
    found.set(path, below.attributes);
    all.push(...patches(inode, below.attributes));
  }
  return all;
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

function patches(inode: number, {mode, uid, gid, mtimeSec, mtimeNs}: Attributes): readonly Patch[] {
  const modeField = Buffer.alloc(2);
  modeField.writeUInt16LE(S_IFDIR | mode);
  // uid, gid and mtime are contiguous.
  const rest = Buffer.alloc(INODE_FIELDS.mtimeNs + 4 - INODE_FIELDS.uid);
  const at = (field: number): number => field - INODE_FIELDS.uid;
  rest.writeUInt32LE(uid, at(INODE_FIELDS.uid));
  rest.writeUInt32LE(gid, at(INODE_FIELDS.gid));
  rest.writeBigInt64LE(BigInt(mtimeSec), at(INODE_FIELDS.mtimeSec));
  rest.writeUInt32LE(mtimeNs, at(INODE_FIELDS.mtimeNs));
  return [
    {offset: inode + INODE_FIELDS.mode, bytes: modeField},
    {offset: inode + INODE_FIELDS.uid, bytes: rest},
  ];
}
