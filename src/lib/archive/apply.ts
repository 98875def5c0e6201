/**
 * Applies a layer's tar to a directory, in one pass and with synchronous calls.
 *
 * Sources: containerd, pkg/archive/tar.go (applyNaive, createTarFile), for entries. The OCI image specification and umoci,
 * oci/layer/tar_extract.go, for whiteouts, which spare entries of their own layer. The kernel's Documentation/filesystems/overlayfs.rst for
 * overlay form.
 *
 * Call `process.umask(0)` first: any other umask costs one more call for each file.
 */
import {
  chmodSync,
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  ftruncateSync,
  futimesSync,
  lchownSync,
  linkSync,
  lutimesSync,
  openSync,
  symlinkSync,
  writeSync,
} from 'node:fs';
import {ErrdefsError, fromErrno, isErrdefs, wrap} from '../errdefs.ts';
import {type Dir, dirsOnDisk, ExtractionTree, inheritedGid, type TreeForm, withoutTrusted} from './extraction-tree.ts';
import {MAX_ENTRIES, MAX_LAYER_BYTES, overLimit} from './limits.ts';
import {attributesOf, fsPath, LowerView, lstat} from './overlay-view.ts';
import {readPrivileges} from './process-privileges.ts';
import {type Attributes, copyNode, isExactTime, makeSpecialFiles, readXattrs, type SpecialEntry} from './special-files.ts';
import {createTarReader, displayName, type TarHeader, type TarReader} from './tar.ts';

export type {TreeForm} from './extraction-tree.ts';

export interface ApplierOptions {
  /** Absolute path. `overlay`: an empty directory. `plain`: the tree that the layer changes, or an empty directory. */
  readonly root: string;
  /** `overlay`: whiteouts become 0/0 character devices and opaque marks. `plain`: whiteouts delete from the tree. */
  readonly form: TreeForm;
  /**
   * `overlay`: absolute paths of the lower layers, topmost first. Each is a layer in overlay form, or all are one merged root. Empty for
   * the lowest layer; absent while the lower layers are unknown: see `lowerDependencies` and `reconcile`.
   */
  readonly lowers?: readonly string[];
  /** Most entries, and most bytes by the sizes in the headers. Default: those of `limits.ts`. */
  readonly limits?: {readonly entries?: number; readonly bytes?: number};
  /** Called for each device node that this process may not create, and for each attribute that cannot be set. */
  readonly warn?: (message: string) => void;
}

/** Assumptions about lower layers, made while they were unknown. Paths are binary strings, below the root. */
export interface LowerDependencies {
  /** Implicit parents, parents first. They have mode 0755 and the mtime of the entry that needed them. */
  readonly implicitParents: readonly string[];
  /** The implicit parents that hold only whiteouts. */
  readonly whiteoutParents: readonly string[];
  /** Other names assumed absent: parents that later became something else, and components before a `..` in a link target. */
  readonly assumedAbsent: readonly string[];
  /** A hard link was left out, because its target is not in this layer. */
  readonly missingLinks: boolean;
  /** The layer has an opaque mark for its root, which overlayfs cannot represent. */
  readonly opaqueRoot: boolean;
}

export interface ApplyResult {
  /** Sum of the sizes in the headers, in bytes; containerd reports the same. */
  readonly size: number;
  readonly entries: number;
  readonly lowerDependencies: LowerDependencies;
  /** The tree depends on `lowers`, and fits no other lower layers. */
  readonly usedLowers: boolean;
  /** The tree has whiteouts or opaque marks, which only overlayfs understands. */
  readonly hasWhiteouts: boolean;
}

export interface Applier {
  /**
   * @throws data_loss the archive is damaged
   * @throws invalid_argument, failed_precondition an entry cannot be applied
   * @throws resource_exhausted the disk is full, or a limit is reached
   */
  write(tarChunk: Uint8Array): void;
  /** Completes the tree. @throws as `write` */
  end(): ApplyResult;
  /** Closes open files; the caller removes the incomplete tree. Allowed after `end`, and more than once. */
  abort(): void;
}

export const WHITEOUT_PREFIX = '.wh.';
export const OPAQUE_NAME = '.wh..wh..opq';
/** Bytes a write: on some file systems larger writes are slower. */
const MAX_WRITE_BYTES = 128 * 1024;
/** Last second that containerd keeps (in 2262). Later times, and times before 1970, become 1970. */
export const MAX_MTIME = 9_223_372_036;
const CREATE_FLAGS = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;

/** The file of the current entry. */
interface OpenFile {
  readonly fd: number;
  readonly header: TarHeader;
  readonly mustChown: boolean;
  /** Position in a sparse file: index of the region, and bytes of it written so far. */
  regionIndex: number;
  regionWritten: number;
}

export const createApplier = (options: ApplierOptions): Applier => new LayerApplier(options);

class LayerApplier implements Applier {
  readonly #root: string;
  readonly #tree: ExtractionTree;
  readonly #reader: TarReader;
  readonly #limits: NonNullable<ApplierOptions['limits']>;
  readonly #warn: (message: string) => void;
  readonly #privileges = readPrivileges();
  #file: OpenFile | undefined;
  #size = 0;
  #entries = 0;
  /** Entries of users that this process does not have, which it keeps for itself. */
  #disowned = 0;
  #missingLinks = false;
  #opaqueRoot = false;
  #ended = false;

  constructor({root, form, lowers, limits = {}, warn = () => {}}: ApplierOptions) {
    this.#root = root;
    this.#limits = limits;
    this.#warn = warn;
    const lowerView = form === 'overlay' && lowers !== undefined ? new LowerView(lowers) : undefined;
    try {
      this.#tree = new ExtractionTree({root, form, lowerView, warn, privileges: this.#privileges});
    } catch (err) {
      throw fromErrno(err, `layer tree ${root}`);
    }
    if (form === 'overlay' && !this.#tree.startedEmpty) throw new ErrdefsError('failed_precondition', `layer tree ${root} is not empty`);
    this.#reader = createTarReader({
      entry: (header) => this.#entry(header),
      data: (chunk) => this.#data(chunk),
      entryEnd: () => this.#entryEnd(),
    });
  }

  write(tarChunk: Uint8Array): void {
    if (this.#ended) throw new Error('write to an applier that has ended');
    try {
      this.#reader.write(tarChunk);
    } catch (err) {
      this.abort();
      throw err;
    }
  }

  end(): ApplyResult {
    if (this.#ended) throw new Error('end of an applier that has ended');
    try {
      this.#reader.end();
      this.#tree.complete();
      if (this.#disowned > 0) this.#warn(`${this.#disowned} entries are of other users in the layer, and belong to this one here`);
      const {usedLowers, hasWhiteouts} = this.#tree;
      return {size: this.#size, entries: this.#entries, lowerDependencies: this.#lowerDependencies(), usedLowers, hasWhiteouts};
    } catch (err) {
      throw fromErrno(err, `layer tree ${this.#root}`);
    } finally {
      this.abort();
    }
  }

  abort(): void {
    this.#ended = true;
    const file = this.#file;
    this.#file = undefined;
    if (file !== undefined) closeSync(file.fd);
  }

  #entry(header: TarHeader): void {
    this.#entries++;
    this.#size += header.size;
    const {entries = MAX_ENTRIES, bytes = MAX_LAYER_BYTES} = this.#limits;
    if (this.#entries > entries) throw overLimit(`layer has more than ${entries} entries`, {entries});
    if (this.#size > bytes) throw overLimit(`layer has more than ${bytes} B`, {bytes});
    try {
      this.#apply(header);
    } catch (err) {
      throw withEntry(err, header);
    }
  }

  #data(chunk: Buffer): void {
    const file = this.#file;
    if (file === undefined) return;
    try {
      if (file.header.sparse === undefined) writeAll(file.fd, chunk, null);
      else writeSparse(file, chunk);
    } catch (err) {
      throw withEntry(err, file.header);
    }
  }

  #entryEnd(): void {
    const file = this.#file;
    if (file === undefined) return;
    const {fd, header, mustChown} = file;
    try {
      if (header.sparse !== undefined) ftruncateSync(fd, header.size);
      if (mustChown) fchownSync(fd, header.uid, header.gid);
      if ((header.mode & (this.#privileges.umask | 0o7000)) !== 0) fchmodSync(fd, header.mode);
      const time = seconds(header);
      futimesSync(fd, time, time);
      this.#file = undefined;
      closeSync(fd);
    } catch (err) {
      throw withEntry(err, header);
    }
  }

  #apply(original: TarHeader): void {
    if (original.type === 'global') return;
    const name = cleanName(original.name);
    if (name === '') return; // a layer does not change its root
    const slash = name.lastIndexOf('/');
    const parent = slash < 0 ? '' : name.slice(0, slash);
    const base = slash < 0 ? name : name.slice(slash + 1);
    if (base.startsWith(WHITEOUT_PREFIX)) {
      this.#applyWhiteout(parent, base, original);
      return;
    }
    const header = this.#withOwner(this.#withoutUnsettable(original));
    const {type} = header;
    if ((type === 'char' || type === 'block') && !this.#privileges.canMknod) {
      this.#warn(`device ${displayName(name)} skipped: not permitted to make device nodes`);
      return;
    }
    const dir = this.#tree.parentOf(parent, header);
    if (type === 'file') this.#makeFile(dir, base, header);
    else if (type === 'directory') this.#makeDirectory(dir, base, header);
    else if (type === 'symlink') this.#makeSymlink(dir, base, header);
    else if (type === 'link') this.#makeLink(dir, base, header);
    else this.#makePlaceholder(dir, base, {...header, type: type as 'char' | 'block' | 'fifo'});
  }

  /**
   * The header with an owner that this process can give: itself, where it has no other.
   *
   * @throws failed_precondition this process has several users, and not this one
   */
  #withOwner(header: TarHeader): TarHeader {
    const {ids} = this.#privileges;
    const {uid, gid} = header;
    if (ids === undefined || (ids.hasUser(uid) && ids.hasGroup(gid))) return header;
    if (!ids.single)
      throw new ErrdefsError('failed_precondition', `the user namespace has no owner ${uid}:${gid}`, {
        hint: 'give this user a larger range in /etc/subuid and /etc/subgid',
      });
    this.#disowned++;
    return {...header, uid: 0, gid: 0};
  }

  /** The header with only the time and the extended attributes that can be set. */
  #withoutUnsettable(header: TarHeader): TarHeader {
    const {mtimeSec, xattrs, type, name} = header;
    const isTimeOutOfRange = mtimeSec < 0 || mtimeSec > MAX_MTIME;
    if (!isTimeOutOfRange && xattrs.size === 0) return header;
    const kept = new Map<string, Buffer>();
    for (const [key, value] of xattrs) {
      const admin = key.startsWith('trusted.');
      const user = key.startsWith('user.') && type !== 'file' && type !== 'directory' && type !== 'link';
      const acl = key.startsWith('system.posix_acl_') && type !== 'directory';
      if (admin || user || acl) this.#warn(`extended attribute ${key} of ${displayName(name)} skipped: not permitted`);
      else kept.set(key, value);
    }
    return {...header, xattrs: kept, ...(isTimeOutOfRange ? {mtimeSec: 0, mtimeNs: 0} : {})};
  }

  #makeFile(dir: Dir, base: string, header: TarHeader): void {
    const tree = this.#tree;
    const path = tree.fsPath(dir, base);
    // Setuid and setgid follow once the owner is set.
    const fd = tree.create(dir, base, () => openSync(path, CREATE_FLAGS, header.mode & 0o777));
    this.#file = {fd, header, mustChown: tree.mustChown(dir, header), regionIndex: 0, regionWritten: 0};
    if (needsHelperProgram(header)) tree.defer(dir, base, {entry: {...header, type: 'file'}});
  }

  #makeDirectory(dir: Dir, base: string, header: TarHeader): void {
    const child = this.#tree.mkdir(dir, base, header);
    child.merged ||= child.origin === 'existing';
    child.origin = 'entry';
    child.attributes = header;
    this.#tree.noteEntry(child, true);
  }

  #makeSymlink(dir: Dir, base: string, header: TarHeader): void {
    if (header.linkname === '') throw new ErrdefsError('invalid_argument', 'link without a target');
    const tree = this.#tree;
    const path = tree.fsPath(dir, base);
    const target = fsPath(header.linkname);
    tree.create(dir, base, () => symlinkSync(target, path));
    if (tree.mustChown(dir, header)) lchownSync(path, header.uid, header.gid);
    const time = seconds(header);
    lutimesSync(path, time, time);
    if (needsHelperProgram(header)) tree.defer(dir, base, {entry: {...header, type: 'symlink'}});
  }

  /** Creates an empty file; a helper program replaces it at the end. */
  #makePlaceholder(dir: Dir, base: string, header: TarHeader & {readonly type: 'char' | 'block' | 'fifo'}): void {
    const tree = this.#tree;
    const path = tree.fsPath(dir, base);
    closeSync(tree.create(dir, base, () => openSync(path, CREATE_FLAGS, 0o600)));
    tree.defer(dir, base, {entry: header});
    if (tree.form === 'overlay' && header.type === 'char' && header.devmajor === 0 && header.devminor === 0)
      this.#warn(`device ${displayName(header.name)} is 0/0, which overlayfs takes for a whiteout`);
  }

  #makeLink(dir: Dir, base: string, header: TarHeader): void {
    const tree = this.#tree;
    // As in containerd, the name is removed first, even if it is the link's own target.
    if (dir.children?.has(base) === true || lstat(tree.absolute(dir, base)) !== undefined) tree.remove(dir, base);
    const target = this.#linkTarget(header);
    if (target === undefined) {
      this.#missingLinks = true;
      return;
    }
    tree.create(dir, base, () => linkSync(tree.fsPath(target.dir, target.base), tree.fsPath(dir, base)));
    const node = target.dir.deferred?.get(target.base);
    if (node !== undefined) tree.defer(dir, base, node);
    this.#setLinkAttributes(dir, base, header);
  }

  /** Path of a hard link's target on disk; does not follow its last component. `undefined` if it may be in an unknown lower layer. */
  #linkTarget({linkname}: TarHeader): {readonly dir: Dir; readonly base: string} | undefined {
    const tree = this.#tree;
    const refused = (reason: string): ErrdefsError =>
      new ErrdefsError('invalid_argument', `hard link to ${displayName(linkname)}, ${reason}`);
    const path = linkname.replace(/\/+$/, '');
    const slash = path.lastIndexOf('/');
    const base = path.slice(slash + 1);
    if (base === '' || base === '.' || base === '..') throw refused('a directory');
    const {dir, missing} = tree.resolve(path.slice(0, Math.max(slash, 0)));
    if (missing.length === 0) {
      const stat = dir.disk === undefined ? undefined : lstat(tree.absolute(dir, base));
      const below = stat === undefined ? tree.lookupLower(dir, base) : undefined;
      if (stat?.isDirectory() === true || below?.kind === 'directory') throw refused('a directory');
      if (stat !== undefined) return {dir, base};
      if (below !== undefined) {
        tree.makeDirs(dir, [], {mtimeSec: 0, mtimeNs: 0});
        copyNode(below.path, tree.absolute(dir, base));
        tree.noteWritten(dir, base);
        return {dir, base};
      }
    }
    if (tree.form === 'overlay' && tree.lowerView === undefined) return undefined;
    throw refused('which does not exist');
  }

  /** As in containerd, the header of a hard link sets the attributes of the inode. */
  #setLinkAttributes(dir: Dir, base: string, header: TarHeader): void {
    const tree = this.#tree;
    const path = tree.fsPath(dir, base);
    const stat = lstat(tree.absolute(dir, base))!;
    const now = attributesOf(stat);
    const node = dir.deferred?.get(base);
    const {mode, uid, gid, mtimeSec, mtimeNs} = header;
    if (node !== undefined) {
      const xattrs = new Map([...(node.entry.xattrs ?? []), ...header.xattrs]);
      node.entry = {...node.entry, mode, uid, gid, mtimeSec, mtimeNs, xattrs};
      if (node.entry.type !== 'file' && node.entry.type !== 'symlink') return;
    } else if (stat.isFile() && (header.xattrs.size > 0 || !(sameTime(now, header) || isExactTime(mtimeSec, mtimeNs))))
      tree.defer(dir, base, {entry: {...header, type: 'file'}});
    const chown = now.uid !== uid || now.gid !== gid;
    if (chown) lchownSync(path, uid, gid);
    if (stat.isFile() && (now.mode !== mode || (chown && (mode & 0o6000) !== 0))) chmodSync(path, mode);
    if (!sameTime(now, header)) {
      const time = seconds(header);
      lutimesSync(path, time, time);
    }
  }

  #applyWhiteout(parent: string, base: string, header: TarHeader): void {
    const tree = this.#tree;
    const hidden = base.slice(WHITEOUT_PREFIX.length);
    if (hidden === '' || hidden === '.' || hidden === '..') throw new ErrdefsError('invalid_argument', 'invalid whiteout name');
    const {dir, missing} = tree.resolve(parent);
    const lowersUnknown = tree.form === 'overlay' && tree.lowerView === undefined;
    // An absent directory has nothing to hide.
    if (missing.length > 0 && !lowersUnknown) return;
    const at = missing.length === 0 ? dir : tree.makeDirs(dir, missing, this.#withoutUnsettable(header));
    if (base !== OPAQUE_NAME) tree.addWhiteout(at, hidden);
    else {
      tree.setOpaque(at);
      if (at === tree.rootDir) this.#opaqueRoot = true;
    }
    if (lowersUnknown) tree.noteEntry(at, false);
  }

  #lowerDependencies(): LowerDependencies {
    const {form, lowerView, rootDir, assumedAbsent} = this.#tree;
    const lowersUnknown = form === 'overlay' && lowerView === undefined;
    const implicit = lowersUnknown
      ? [...dirsOnDisk(rootDir)].filter(({dir, lowersHidden}) => dir.origin === 'implicit' && !dir.replaced && !lowersHidden)
      : [];
    for (const {dir} of implicit) assumedAbsent.delete(dir.path);
    return {
      implicitParents: implicit.map(({dir}) => dir.path),
      whiteoutParents: implicit.filter(({dir}) => !dir.hasNonWhiteout).map(({dir}) => dir.path),
      assumedAbsent: lowersUnknown ? [...assumedAbsent] : [],
      missingLinks: this.#missingLinks,
      opaqueRoot: lowersUnknown && this.#opaqueRoot,
    };
  }
}

/**
 * Completes a tree that was applied without `lowers`, once they are known.
 *
 * @param lowers as for `createApplier`
 * @returns `kept`: the tree is the same as with `lowers`. `fixed`: implicit parents took their attributes from `lowers`, so the tree fits
 *   no others. `redo`: the layer has to be applied again, with `lowers`.
 */
export function reconcile(
  root: string,
  lowers: readonly string[],
  {lowerDependencies}: Pick<ApplyResult, 'lowerDependencies'>,
  warn: (message: string) => void = () => {},
): 'kept' | 'fixed' | 'redo' {
  const {implicitParents, assumedAbsent, missingLinks, opaqueRoot} = lowerDependencies;
  const whiteoutParents = new Set(lowerDependencies.whiteoutParents);
  if (missingLinks || (opaqueRoot && lowers.length > 0)) return 'redo';
  try {
    const view = new LowerView(lowers);
    const found = new Map<string, Attributes>();
    for (const path of assumedAbsent) {
      const below = view.find(path);
      if (below?.kind === 'directory') found.set(path, below.attributes);
      else if (below !== undefined) return 'redo';
    }
    const changed: {readonly path: string; readonly attributes: Attributes; readonly from: string}[] = [];
    const base = Buffer.from(root).toString('latin1');
    const entries: SpecialEntry[] = [];
    for (const path of implicitParents) {
      const below = view.find(path);
      if (below === undefined ? whiteoutParents.has(path) : below.kind !== 'directory') return 'redo';
      if (below?.kind === 'directory') {
        found.set(path, below.attributes);
        changed.push({path, attributes: below.attributes, from: below.lowerdirs[0]!});
        continue;
      }
      const parent = found.get(path.slice(0, Math.max(path.lastIndexOf('/'), 0)));
      const gid = parent && inheritedGid(parent);
      if (gid !== undefined) entries.push({...attributesOf(lstat(`${base}/${path}`)!), gid, path, type: 'directory'});
    }
    const xattrs = readXattrs([...changed.map(({from}) => from), ...changed.map(({path}) => `${base}/${path}`)]);
    const inherited = xattrs.slice(0, changed.length).map(withoutTrusted);
    const own = xattrs.slice(changed.length);
    for (const [i, {path, attributes}] of changed.entries()) {
      const from = inherited[i]!;
      const now = attributesOf(lstat(`${base}/${path}`)!);
      const {mode, uid, gid} = attributes;
      const same =
        now.mode === mode && now.uid === uid && now.gid === gid && sameTime(now, attributes) && sameXattrs(from, withoutTrusted(own[i]!));
      if (!same) entries.push({...attributes, path, type: 'directory', xattrs: new Map([...own[i]!, ...from])});
    }
    makeSpecialFiles(root, entries, warn);
    return entries.length === 0 ? 'kept' : 'fixed';
  } catch (err) {
    throw fromErrno(err, `layer tree ${root}`);
  }
}

const seconds = ({mtimeSec, mtimeNs}: Pick<Attributes, 'mtimeSec' | 'mtimeNs'>): number => mtimeSec + mtimeNs / 1e9;

const needsHelperProgram = ({xattrs, mtimeSec, mtimeNs}: TarHeader): boolean => xattrs.size > 0 || !isExactTime(mtimeSec, mtimeNs);

function sameTime(a: Pick<Attributes, 'mtimeSec' | 'mtimeNs'>, b: Pick<Attributes, 'mtimeSec' | 'mtimeNs'>): boolean {
  return a.mtimeSec === b.mtimeSec && a.mtimeNs === b.mtimeNs;
}

function sameXattrs(a: ReadonlyMap<string, Buffer>, b: ReadonlyMap<string, Buffer>): boolean {
  return a.size === b.size && [...a].every(([key, value]) => b.get(key)?.equals(value) === true);
}

/** A path without `.`, `..` and superfluous slashes, cleaned lexically as in containerd; empty for the root. */
export function cleanName(name: string): string {
  const inner = name.replace(/^(?:\.?\/)+/, '').replace(/\/+$/, '');
  if (!/(?:^|\/)\.{0,2}(?:\/|$)/.test(inner)) return inner;
  const names: string[] = [];
  for (const part of inner.split('/')) {
    if (part === '..') names.pop();
    else if (part !== '' && part !== '.') names.push(part);
  }
  return names.join('/');
}

/** Adds the entry's name to an error. */
export function withEntry(err: unknown, {name}: Pick<TarHeader, 'name'>): unknown {
  const what = `layer entry ${displayName(name)}`;
  const mapped = isErrdefs(err) ? wrap(what, err) : fromErrno(err, what);
  if (!isErrdefs(mapped)) return mapped;
  const {code, message, hint, details} = mapped;
  const entry = Buffer.from(name, 'latin1').toString();
  return new ErrdefsError(code, message, {cause: err, details: {...details, entry}, ...(hint === undefined ? {} : {hint})});
}

function writeAll(fd: number, chunk: Uint8Array, position: number | null): void {
  for (let at = 0; at < chunk.length; )
    at += writeSync(fd, chunk, at, Math.min(MAX_WRITE_BYTES, chunk.length - at), position === null ? null : position + at);
}

function writeSparse(file: OpenFile, chunk: Uint8Array): void {
  const regions = file.header.sparse!;
  for (let at = 0; at < chunk.length; ) {
    const {offset, size} = regions[file.regionIndex]!;
    const n = Math.min(size - file.regionWritten, chunk.length - at);
    writeAll(file.fd, chunk.subarray(at, at + n), offset + file.regionWritten);
    at += n;
    file.regionWritten += n;
    if (file.regionWritten === size) {
      file.regionIndex++;
      file.regionWritten = 0;
    }
  }
}
