/**
 * Merges an image's layers into one, without a tree on disk and without root: the tree that the layers make on top of each other, as one tar
 * without whiteouts.
 *
 * Reads the layers twice. The first pass keeps names and attributes of what is left in the end, the second one copies the content of files
 * in the order of the layers, so no content is held. The bytes depend on the layers alone: directories come first, then files as the layers
 * have them, then everything else, by name.
 *
 * Means the same as extraction in plain form (`apply.ts`, `extraction-tree.ts`), except that nothing is left out for want of privileges.
 */
import {ErrdefsError} from '../errdefs.ts';
import {cleanName, MAX_MTIME, OPAQUE_NAME, WHITEOUT_PREFIX, withEntry} from './apply.ts';
import {inheritedGid, withoutTrusted} from './extraction-tree.ts';
import {ARCHIVE_END, contentBytes, encodeHeader, type LayerEntry, paddingFor} from './layer-tar-headers.ts';
import {MAX_ENTRIES, MAX_LAYER_BYTES, MAX_NAME_BYTES, MAX_NAME_DEPTH} from './limits.ts';
import {type Found, resolveEntryPath} from './resolve-entry-path.ts';
import {isExactTime} from './special-files.ts';
import {createTarReader, displayName, type TarHeader, type TarReader} from './tar.ts';

/** A file, link or node; hard links share it. */
interface Inode {
  attributes: Omit<LayerEntry, 'name'>;
  /** Where its content is: the layer, and the number of its entry there. */
  readonly layer: number;
  readonly entry: number;
}

/** A name of an inode. */
interface Name {
  readonly inode: Inode;
  /** The layer that has this name. */
  readonly layer: number;
}

/** A file under the first of its names. */
interface NamedInode {
  readonly path: string;
  readonly inode: Inode;
}

type Attributes = Pick<LayerEntry, 'mode' | 'uid' | 'gid' | 'mtimeSec' | 'mtimeNs' | 'xattrs'>;

class Dir {
  readonly parent: Dir | undefined;
  readonly path: string;
  readonly children = new Map<string, Dir | Name>();
  attributes: Attributes;
  /** The last layer that has an entry here or in a descendant. */
  layer = -1;

  constructor(parent: Dir | undefined, path: string, attributes: Attributes) {
    this.parent = parent;
    this.path = path;
    this.attributes = attributes;
  }
}

const ROOT_ATTRIBUTES: Attributes = {mode: 0o755, uid: 0, gid: 0, mtimeSec: 0, mtimeNs: 0, xattrs: new Map()};
/** Bytes of headers that are handed on together. */
const BATCH_BYTES = 1 << 16;

/** @throws invalid_argument too long, or too deep, to be a name in a tar that is read again: links can lead an entry deeper than its own name */
function join({path}: Dir, base: string): string {
  const joined = path === '' ? base : `${path}/${base}`;
  if (joined.length > MAX_NAME_BYTES || (joined.length > MAX_NAME_DEPTH && joined.split('/').length > MAX_NAME_DEPTH))
    throw new ErrdefsError('invalid_argument', `the path ${displayName(joined.slice(0, 64))}… is too long for one entry`);
  return joined;
}

const attributesOf = ({mode, uid, gid, mtimeSec, mtimeNs, xattrs}: Attributes): Attributes => ({
  mode,
  uid,
  gid,
  mtimeSec,
  mtimeNs,
  xattrs,
});

export class LayerMerge {
  readonly #root = new Dir(undefined, '', ROOT_ATTRIBUTES);
  #layers = 0;
  #entries = 0;
  /** The files in the result, by layer and by number of the entry. Made once all layers are read. */
  #files: ReadonlyMap<number, ReadonlyMap<number, NamedInode>> | undefined;
  readonly #firstNames = new Map<Inode, string>();

  /**
   * Reads the next layer, the lowest first, for its names and attributes.
   *
   * @throws as the applier: data_loss, invalid_argument, failed_precondition; resource_exhausted too many entries, or bytes by the headers
   */
  addLayer(): TarReader {
    const layer = this.#layers++;
    let entry = -1;
    let bytes = 0;
    return createTarReader({
      entry: (header) => {
        entry++;
        bytes += header.size;
        if (++this.#entries > MAX_ENTRIES) throw new ErrdefsError('resource_exhausted', `the layers have more than ${MAX_ENTRIES} entries`);
        if (bytes > MAX_LAYER_BYTES) throw new ErrdefsError('resource_exhausted', `layer has more than ${MAX_LAYER_BYTES} B`);
        try {
          this.#apply(header, layer, entry);
        } catch (err) {
          throw withEntry(err, header);
        }
      },
      data: () => {},
      entryEnd: () => {},
    });
  }

  #apply(original: TarHeader, layer: number, entry: number): void {
    if (original.type === 'global') return;
    const name = cleanName(original.name);
    if (name === '') return; // a layer does not change its root
    const slash = name.lastIndexOf('/');
    const parent = slash < 0 ? '' : name.slice(0, slash);
    const base = slash < 0 ? name : name.slice(slash + 1);
    if (base.startsWith(WHITEOUT_PREFIX)) {
      this.#applyWhiteout(parent, base, layer);
      return;
    }
    const header = normalized(original);
    const dir = this.#makeParents(parent, header);
    if (header.type === 'directory') this.#makeDirectory(dir, base, header, layer);
    else if (header.type === 'link') this.#makeLink(dir, base, header, layer);
    else {
      if (header.type === 'symlink' && header.linkname === '') throw new ErrdefsError('invalid_argument', 'link without a target');
      this.#put(dir, base, {inode: {attributes: header, layer, entry}, layer});
    }
  }

  #put(dir: Dir, base: string, name: Name): void {
    join(dir, base);
    dir.children.set(base, name);
    noteEntry(dir, name.layer);
  }

  #makeParents(parent: string, {mtimeSec, mtimeNs}: LayerEntry): Dir {
    const {dir, missing} = this.#resolve(parent);
    return missing.reduce((at, base) => {
      const gid = inheritedGid(at.attributes) ?? 0;
      const child = new Dir(at, join(at, base), {...ROOT_ATTRIBUTES, gid, mtimeSec, mtimeNs});
      at.children.set(base, child);
      return child;
    }, dir);
  }

  #makeDirectory(dir: Dir, base: string, header: LayerEntry, layer: number): void {
    const known = dir.children.get(base);
    const child = known instanceof Dir ? known : new Dir(dir, join(dir, base), attributesOf(header));
    child.attributes = attributesOf(header);
    if (child !== known) dir.children.set(base, child);
    noteEntry(child, layer);
  }

  #makeLink(dir: Dir, base: string, header: LayerEntry, layer: number): void {
    // As in containerd, the name is removed first, even if it is the link's own target.
    dir.children.delete(base);
    const inode = this.#linkTarget(header);
    setLinkAttributes(inode, header, layer);
    this.#put(dir, base, {inode, layer});
  }

  #linkTarget({linkname}: LayerEntry): Inode {
    const refused = (reason: string): ErrdefsError =>
      new ErrdefsError('invalid_argument', `hard link to ${displayName(linkname)}, ${reason}`);
    const path = linkname.replace(/\/+$/, '');
    const slash = path.lastIndexOf('/');
    const base = path.slice(slash + 1);
    if (base === '' || base === '.' || base === '..') throw refused('a directory');
    const {dir, missing} = this.#resolve(path.slice(0, Math.max(slash, 0)));
    const found = missing.length === 0 ? dir.children.get(base) : undefined;
    if (found instanceof Dir) throw refused('a directory');
    if (found === undefined) throw refused('which does not exist');
    return found.inode;
  }

  #applyWhiteout(parent: string, base: string, layer: number): void {
    const hidden = base.slice(WHITEOUT_PREFIX.length);
    if (hidden === '' || hidden === '.' || hidden === '..') throw new ErrdefsError('invalid_argument', 'invalid whiteout name');
    const {dir, missing} = this.#resolve(parent);
    // An absent directory has nothing to hide.
    if (missing.length > 0) return;
    if (base === OPAQUE_NAME) clear(dir, layer);
    else hide(dir, hidden, layer);
  }

  /** As `resolveEntryPath`. */
  #resolve(path: string): {dir: Dir; missing: string[]} {
    return resolveEntryPath(this.#root, path, (dir, name): Found<Dir> => {
      const found = dir.children.get(name);
      if (found === undefined || found instanceof Dir) return found;
      const {type, linkname} = found.inode.attributes;
      return type === 'symlink' ? {target: linkname} : 'other';
    });
  }

  /** All names of the result, parents first, sorted within each directory. */
  *#walk(): Generator<{readonly path: string; readonly found: Dir | Name}> {
    const todo: (readonly [path: string, found: Dir | Name])[] = [['', this.#root]];
    for (let next = todo.pop(); next !== undefined; next = todo.pop()) {
      const [path, found] = next;
      if (found !== this.#root) yield {path, found};
      if (!(found instanceof Dir)) continue;
      for (const base of [...found.children.keys()].sort().reverse()) todo.push([join(found, base), found.children.get(base)!]);
    }
  }

  #index(): ReadonlyMap<number, ReadonlyMap<number, NamedInode>> {
    if (this.#files !== undefined) return this.#files;
    const files = new Map<number, Map<number, NamedInode>>();
    for (const {path, found} of this.#walk()) {
      if (found instanceof Dir || this.#firstNames.has(found.inode)) continue;
      const {inode} = found;
      this.#firstNames.set(inode, path);
      if (inode.attributes.type !== 'file') continue;
      const inLayer = files.get(inode.layer) ?? new Map<number, NamedInode>();
      files.set(inode.layer, inLayer.set(inode.entry, {path, inode}));
    }
    this.#files = files;
    return files;
  }

  /** First part of the merged tar. */
  *directories(): Generator<Buffer> {
    yield* batched(
      (function* (names) {
        for (const {path, found} of names)
          if (found instanceof Dir && !isUnspeakable(path))
            yield encodeHeader({
              ...found.attributes,
              name: path,
              type: 'directory',
              linkname: '',
              size: 0,
              devmajor: 0,
              devminor: 0,
            });
      })(this.#walk()),
    );
  }

  /** Whether files of a layer are in the result, so that `copyLayer` has to read it. @param layer counted from 0, the lowest */
  needsLayer(layer: number): boolean {
    return this.#index().has(layer);
  }

  /**
   * Second part of the merged tar: copies the files that are left of a layer, one layer after the other.
   *
   * @param out receives the next bytes; a chunk of content is one of those written to the reader
   */
  copyLayer(layer: number, out: (chunk: Buffer) => void): TarReader {
    const wanted = this.#index().get(layer);
    let entry = -1;
    let attributes: Inode['attributes'] | undefined;
    return createTarReader({
      entry: () => {
        const file = wanted?.get(++entry);
        attributes = file?.inode.attributes;
        if (file !== undefined) out(encodeHeader({...file.inode.attributes, name: file.path}));
      },
      data: (chunk) => {
        if (attributes !== undefined) out(chunk);
      },
      entryEnd: () => {
        if (attributes === undefined) return;
        const padding = paddingFor(contentBytes(attributes));
        if (padding.length > 0) out(padding);
      },
    });
  }

  /** Last part of the merged tar: symbolic links, nodes, and further names of files. */
  *rest(): Generator<Buffer> {
    this.#index();
    const firstNames = this.#firstNames;
    yield* batched(
      (function* (names) {
        for (const {path, found} of names) {
          if (found instanceof Dir) continue;
          const {attributes} = found.inode;
          const first = firstNames.get(found.inode)!;
          if (first !== path) yield encodeHeader({...attributes, type: 'link', linkname: first, size: 0, name: path});
          else if (attributes.type !== 'file') yield encodeHeader({...attributes, size: 0, name: path});
        }
        yield ARCHIVE_END;
      })(this.#walk()),
    );
  }
}

/**
 * Whether a directory cannot have an entry, because that would be a whiteout. No layer had one: it is there because something lies in it,
 * in the merged tar, too.
 */
const isUnspeakable = (path: string): boolean => path.startsWith(WHITEOUT_PREFIX, path.lastIndexOf('/') + 1);

/** The header with only what extraction sets: times that containerd keeps, no `trusted.*`. */
function normalized({quirks: _, ...header}: TarHeader): LayerEntry {
  const {mtimeSec, xattrs, type} = header;
  const isTimeOutOfRange = mtimeSec < 0 || mtimeSec > MAX_MTIME;
  return {
    ...header,
    type: type as LayerEntry['type'],
    ...(isTimeOutOfRange ? {mtimeSec: 0, mtimeNs: 0} : {}),
    ...(xattrs.size === 0 ? {} : {xattrs: withoutTrusted(xattrs)}),
  };
}

function noteEntry(dir: Dir, layer: number): void {
  for (let at: Dir | undefined = dir; at !== undefined && at.layer !== layer; at = at.parent) at.layer = layer;
}

/** Removes names that were there before the layer. */
function clear(dir: Dir, layer: number): void {
  for (const name of [...dir.children.keys()]) hide(dir, name, layer);
}

/** Removes a name, but spares what its own layer has. */
function hide(dir: Dir, base: string, layer: number): void {
  const child = dir.children.get(base);
  if (child === undefined) return;
  if (child.layer !== layer) dir.children.delete(base);
  else if (child instanceof Dir) clear(child, layer);
}

/** As in containerd, the header of a hard link sets the attributes of the inode. */
function setLinkAttributes(inode: Inode, {mode, uid, gid, mtimeSec, mtimeNs, xattrs}: LayerEntry, layer: number): void {
  const {attributes} = inode;
  const {type} = attributes;
  // A link's mode is fixed; a node of a lower layer keeps its own.
  const setsMode = type === 'file' || (type !== 'symlink' && inode.layer === layer);
  const isDeferred = attributes.xattrs.size > 0 || !isExactTime(attributes.mtimeSec, attributes.mtimeNs);
  const setsXattrs = type === 'file' || (inode.layer === layer && (type !== 'symlink' || isDeferred));
  inode.attributes = {
    ...attributes,
    ...(setsMode ? {mode} : {}),
    ...(setsXattrs && xattrs.size > 0 ? {xattrs: new Map([...attributes.xattrs, ...xattrs])} : {}),
    uid,
    gid,
    mtimeSec,
    mtimeNs,
  };
}

function* batched(headers: Iterable<Buffer>): Generator<Buffer> {
  let batch: Buffer[] = [];
  let bytes = 0;
  for (const header of headers) {
    batch.push(header);
    bytes += header.length;
    if (bytes < BATCH_BYTES) continue;
    yield Buffer.concat(batch);
    batch = [];
    bytes = 0;
  }
  if (bytes > 0) yield Buffer.concat(batch);
}
