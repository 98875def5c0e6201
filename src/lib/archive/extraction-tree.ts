/**
 * In-memory state of a tree while a layer is extracted into it.
 *
 * A name is resolved component by component through directories that this process created or checked. Symbolic links are followed here and
 * cannot leave the root. No other process may change the tree meanwhile.
 */

import {chmodSync, lchownSync, lutimesSync, mkdirSync, readdirSync, readlinkSync, renameSync, rmdirSync, unlinkSync} from 'node:fs';
import {MAX_IMPLICIT_STEPS, tooManyImplicit} from './limits.ts';
import {attributesOf, fsPath, type Lowerdirs, type LowerView, lstat, OPAQUE, ORIGIN} from './overlay-view.ts';
import type {ProcessPrivileges} from './process-privileges.ts';
import {type Found, resolveEntryPath} from './resolve-entry-path.ts';
import {type Attributes, isExactTime, makeSpecialFiles, readXattrs, type SpecialEntry, setFileAttributes} from './special-files.ts';

export type TreeForm = 'overlay' | 'plain';

/** Whiteouts that share a device node; file systems allow at least this many hard links. */
const WHITEOUTS_PER_NODE = 30_000;

/** Set by the host's security policy, not by layers. */
const HOST_XATTR = 'security.selinux';

type Times = Pick<Attributes, 'mtimeSec' | 'mtimeNs'>;
const timesOf = ({mtimeSec, mtimeNs}: Times): Times => ({mtimeSec, mtimeNs});

/** Current owner and mode on disk. */
type DiskState = Pick<Attributes, 'mode' | 'uid' | 'gid'>;

export class Dir {
  readonly parent: Dir | undefined;
  readonly name: string;
  /** Binary string, below the root; empty for the root. */
  readonly path: string;
  children: Map<string, Dir> | undefined;
  /**
   * `existing`: in the tree before the layer. `entry`: carried by the layer. `implicit`: an implicit parent that no lower layer has.
   * `lower`: in a lower layer, and on disk only after copy-up.
   */
  origin: 'existing' | 'entry' | 'implicit' | 'lower';
  /** Final attributes. */
  attributes: Attributes;
  /** `undefined` while it is not on disk. */
  disk: DiskState | undefined;
  /** The layer has an entry here or in a descendant. */
  hasEntries = false;
  hasNonWhiteout = false;
  /** It existed before the layer's own entry for it. */
  merged = false;
  /** Its mtime has to be set again, because names were added or removed. */
  mtimeChanged = false;
  /** Hides what lower layers have in it. */
  opaque = false;
  /** Its name was hidden or removed before, so it does not merge with a lower directory. */
  replaced = false;
  /** Names that the layer hides; overlay form only. */
  whiteouts: Set<string> | undefined;
  /** Names that the layer created; only in a tree that did not start empty. */
  written: Set<string> | undefined;
  /** Names whose inodes a helper program completes. Hard links share one. */
  deferred: Map<string, DeferredInode> | undefined;
  /** The lower directories that it merges with. */
  lowerdirs: Lowerdirs | undefined;
  /** The lower directory that gave it its attributes. */
  copiedUpFrom: string | undefined;

  constructor(parent: Dir | undefined, name: string, origin: Dir['origin'], attributes: Attributes, disk: DiskState | undefined) {
    this.parent = parent;
    this.name = name;
    this.path = parent === undefined ? '' : join(parent, name);
    this.origin = origin;
    this.attributes = attributes;
    this.disk = disk;
  }
}

/** Group of an implicit parent. As in containerd, it inherits the group of a setgid directory, but not the bit. */
export const inheritedGid = ({mode, gid}: Pick<Attributes, 'mode' | 'gid'>): number | undefined =>
  (mode & 0o2000) === 0 ? undefined : gid;

/** An inode that a helper program completes at the end; a placeholder is on disk until then. */
export interface DeferredInode {
  entry: Omit<SpecialEntry, 'path'>;
}

const join = (dir: Dir, base: string): string => (dir.path === '' ? base : `${dir.path}/${base}`);

interface ExtractionTreeOptions {
  readonly root: string;
  readonly form: TreeForm;
  /** Overlay form: the lower layers, if known. */
  readonly lowerView: LowerView | undefined;
  readonly warn: (message: string) => void;
  readonly privileges: ProcessPrivileges;
}

export class ExtractionTree {
  readonly rootDir: Dir;
  readonly form: TreeForm;
  readonly lowerView: LowerView | undefined;
  readonly startedEmpty: boolean;
  readonly uid = process.geteuid!();
  readonly gid = process.getegid!();
  readonly #privileges: ProcessPrivileges;
  /** Names assumed absent while the lower layers are unknown: parents, and components before a `..` in a link target. */
  readonly assumedAbsent = new Set<string>();
  /** The result depends on the lower layers. */
  usedLowers = false;
  /** The tree has whiteouts or opaque marks. Set by `complete`. */
  hasWhiteouts = false;
  /** Implicit parents, each counted with its ancestors. */
  #implicitSteps = 0;
  readonly #root: string;
  readonly #base: string;
  readonly #warn: (message: string) => void;
  /** Parent of the last entry: the next entry usually has the same one. */
  #lastName: string | undefined;
  #lastDir: Dir | undefined;

  constructor({root, form, lowerView, warn, privileges}: ExtractionTreeOptions) {
    this.#root = root;
    this.#base = Buffer.from(root).toString('latin1');
    this.form = form;
    this.lowerView = lowerView;
    this.#privileges = privileges;
    this.#warn = warn;
    this.startedEmpty = readdirSync(root).length === 0;
    const attributes = attributesOf(lstat(this.#base)!);
    this.rootDir = new Dir(undefined, '', 'existing', attributes, attributes);
    this.rootDir.lowerdirs = lowerView?.roots;
  }

  /** Absolute path, a binary string, for lstat and helper programs. */
  absolute(dir: Dir, base: string): string {
    return `${this.#base}/${join(dir, base)}`;
  }

  /** Absolute path for node:fs. */
  fsPath(dir: Dir, base: string): string | Buffer {
    return fsPath(this.absolute(dir, base));
  }

  /** Tells whether a file created in `dir` needs a chown to belong to `owner`. */
  mustChown(dir: Dir, owner: Pick<Attributes, 'uid' | 'gid'>): boolean {
    return owner.uid !== this.uid || owner.gid !== this.gid || dir.disk!.gid !== this.gid;
  }

  // ---- resolve names ----

  /** Finds or creates the directory of an entry. @param time mtime of implicit parents */
  parentOf(name: string, time: Times): Dir {
    if (name === this.#lastName) return this.#lastDir!;
    const {dir, missing} = this.resolve(name);
    // A directory created for whiteouts alone takes its mtime from the first other entry, which this is.
    for (let at: Dir | undefined = dir; at?.origin === 'implicit' && !at.hasNonWhiteout; at = at.parent)
      at.attributes = {...at.attributes, ...timesOf(time)};
    const parent = this.makeDirs(dir, missing, time);
    this.#lastName = name;
    this.#lastDir = parent;
    return parent;
  }

  /** Copies a directory up and creates the missing ones in it. */
  makeDirs(dir: Dir, missing: readonly string[], time: Times): Dir {
    this.#copyUp(dir);
    if (missing.length > 0) this.#countImplicit(dir, missing.length);
    let lowersHidden = false;
    for (let at: Dir | undefined = dir; at !== undefined && missing.length > 0; at = at.parent) lowersHidden ||= at.opaque;
    return missing.reduce((at, base) => {
      const gid = inheritedGid(at.attributes) ?? this.gid;
      const child = this.mkdir(at, base, {mode: 0o755, uid: this.uid, gid, ...timesOf(time)});
      lowersHidden ||= child.opaque;
      if (!lowersHidden) this.assumedAbsent.add(child.path);
      return child;
    }, dir);
  }

  #countImplicit(dir: Dir, n: number): void {
    let depth = 0;
    for (let at: Dir | undefined = dir; at !== undefined; at = at.parent) depth++;
    this.#implicitSteps += n * depth + (n * (n - 1)) / 2;
    if (this.#implicitSteps > MAX_IMPLICIT_STEPS) throw tooManyImplicit();
  }

  /** As `resolveEntryPath`. */
  resolve(path: string): {dir: Dir; missing: string[]} {
    return resolveEntryPath(
      this.rootDir,
      path,
      (dir, name) => dir.children?.get(name) ?? this.#lookup(dir, name),
      (absent) => this.assumedAbsent.add(absent),
    );
  }

  /** Finds a name that is not among the known directories. */
  #lookup(dir: Dir, name: string): Found<Dir> {
    if (dir.whiteouts?.has(name) === true) return undefined;
    const stat = dir.disk === undefined ? undefined : lstat(this.absolute(dir, name));
    if (stat?.isDirectory() === true) return this.#add(new Dir(dir, name, 'existing', attributesOf(stat), attributesOf(stat)));
    if (stat?.isSymbolicLink() === true) return {target: readlinkSync(this.fsPath(dir, name), {encoding: 'latin1'})};
    if (stat !== undefined) return 'other';
    const below = this.lookupLower(dir, name);
    if (below?.kind === 'symlink') return below;
    if (below?.kind !== 'directory') return below?.kind;
    const child = this.#add(new Dir(dir, name, 'lower', below.attributes, undefined));
    child.lowerdirs = below.lowerdirs;
    return child;
  }

  /** Finds a name in the lower layers, as overlayfs would show it. */
  lookupLower(dir: Dir, name: string): ReturnType<LowerView['lookup']> {
    if (this.lowerView === undefined || this.lowerView.roots.length === 0 || dir.whiteouts?.has(name) === true) return undefined;
    this.usedLowers = true;
    return this.lowerView.lookup(this.#lowerdirsOf(dir), name);
  }

  #lowerdirsOf(dir: Dir): Lowerdirs {
    if (dir.opaque) return [];
    if (dir.lowerdirs === undefined) {
      const below = this.lowerView!.lookup(this.#lowerdirsOf(dir.parent!), dir.name);
      dir.lowerdirs = below?.kind === 'directory' ? below.lowerdirs : [];
    }
    return dir.lowerdirs;
  }

  #add(child: Dir): Dir {
    const parent = child.parent!;
    parent.children ??= new Map();
    parent.children.set(child.name, child);
    return child;
  }

  // ---- create and remove ----

  /**
   * Creates a file, link or node, replacing the present one.
   *
   * @param make fails with EEXIST if the name exists
   */
  create<T>(dir: Dir, base: string, make: () => T): T {
    dir.whiteouts?.delete(base);
    if (dir.children?.has(base) === true) this.remove(dir, base);
    let made: T;
    try {
      made = make();
    } catch (err) {
      if ((err as NodeJS.ErrnoException).code !== 'EEXIST') throw err;
      this.remove(dir, base);
      made = make();
    }
    this.noteWritten(dir, base);
    return made;
  }

  /** Creates a directory, or returns the existing one. */
  mkdir(dir: Dir, base: string, attributes: Attributes): Dir {
    const known = dir.children?.get(base);
    if (known?.disk !== undefined) return known;
    if (known !== undefined) this.remove(dir, base);
    let replaced = dir.whiteouts?.delete(base) ?? false;
    let disk: DiskState;
    try {
      disk = this.#mkdirAt(dir, base, attributes.mode);
    } catch (err) {
      if ((err as NodeJS.ErrnoException).code !== 'EEXIST') throw err;
      const found = this.#lookup(dir, base);
      if (found instanceof Dir) return found;
      this.remove(dir, base);
      replaced = true;
      disk = this.#mkdirAt(dir, base, attributes.mode);
    }
    const child = this.#add(new Dir(dir, base, 'implicit', attributes, disk));
    child.replaced = replaced;
    child.opaque = replaced && this.form === 'overlay';
    dir.mtimeChanged = true;
    return child;
  }

  #mkdirAt(dir: Dir, base: string, wanted: number): DiskState {
    // A user other than root needs write permission until it is complete.
    const mode = (wanted & 0o777) | (this.uid === 0 ? 0 : 0o700);
    mkdirSync(this.fsPath(dir, base), mode);
    // mkdir inherits group and setgid bit from a setgid directory.
    const setgid = dir.disk!.mode & 0o2000;
    return {mode: (mode & ~this.#privileges.umask) | setgid, uid: this.uid, gid: setgid === 0 ? this.gid : dir.disk!.gid};
  }

  /** Copies a lower directory up, without its content. */
  #copyUp(dir: Dir): void {
    if (dir.disk !== undefined) return;
    const parent = dir.parent!;
    this.#copyUp(parent);
    dir.disk = this.#mkdirAt(parent, dir.name, dir.attributes.mode);
    dir.copiedUpFrom = dir.lowerdirs![0];
    parent.mtimeChanged = true;
  }

  /** Notes an entry of the layer, other than a directory. */
  noteWritten(dir: Dir, base: string): void {
    if (!this.startedEmpty) dir.written = (dir.written ?? new Set()).add(base);
    dir.mtimeChanged = true;
    this.noteEntry(dir, true);
  }

  noteEntry(dir: Dir, isNonWhiteout: boolean): void {
    for (let at: Dir | undefined = dir; at !== undefined && !(isNonWhiteout ? at.hasNonWhiteout : at.hasEntries); at = at.parent) {
      at.hasEntries = true;
      at.hasNonWhiteout ||= isNonWhiteout;
    }
  }

  /** Removes a name from disk and from this state. */
  remove(dir: Dir, base: string): void {
    this.#lastName = undefined;
    dir.children?.delete(base);
    dir.written?.delete(base);
    dir.deferred?.delete(base);
    if (dir.disk === undefined) return;
    removeTree(this.absolute(dir, base));
    dir.mtimeChanged = true;
  }

  /** Leaves an inode for a helper program to complete. */
  defer(dir: Dir, base: string, node: DeferredInode): void {
    dir.deferred = (dir.deferred ?? new Map()).set(base, node);
  }

  // ---- hide ----

  /** Hides a name of the lower layers, or deletes it in plain form. Entries of the same layer stay. */
  addWhiteout(dir: Dir, base: string): void {
    this.#lastName = undefined;
    const child = dir.children?.get(base);
    if (this.form === 'plain') {
      if (this.startedEmpty) return;
      if (child?.hasEntries === true) this.#clear(child);
      else if (dir.written?.has(base) !== true) this.remove(dir, base);
      return;
    }
    if (child?.disk !== undefined) child.opaque = true;
    else if (dir.disk !== undefined && lstat(this.absolute(dir, base)) !== undefined) return;
    else if (this.lowerView === undefined || this.lookupLower(dir, base) !== undefined) {
      this.#copyUp(dir);
      this.noteEntry(dir, false);
      dir.children?.delete(base);
      dir.whiteouts = (dir.whiteouts ?? new Set()).add(base);
      dir.mtimeChanged = true;
    }
    if (child !== undefined) forgetLowers(child);
  }

  /** Hides all names that the lower layers have in a directory, or deletes them in plain form. */
  setOpaque(dir: Dir): void {
    this.#lastName = undefined;
    if (this.form === 'plain') {
      if (!this.startedEmpty) this.#clear(dir);
      return;
    }
    this.#copyUp(dir);
    this.noteEntry(dir, false);
    dir.opaque = true;
    forgetLowers(dir);
  }

  /** Removes names that were there before the layer. */
  #clear(dir: Dir): void {
    for (const name of readdirSync(fsPath(`${this.#base}/${dir.path}`), {encoding: 'latin1'})) {
      const child = dir.children?.get(name);
      if (child?.hasEntries === true) this.#clear(child);
      else if (dir.written?.has(name) !== true) this.remove(dir, name);
    }
  }

  // ---- complete ----

  /** Runs the helper programs, and sets the attributes of all directories. */
  complete(): void {
    if (this.rootDir.opaque) this.#whiteOutRoot();
    this.#recreateMerged();
    const files: SpecialEntry[] = [];
    const special: SpecialEntry[] = [];
    const names = new Map<DeferredInode, string>();
    for (const {dir} of dirsOnDisk(this.rootDir))
      for (const [base, node] of dir.deferred ?? []) {
        const [path, first] = [join(dir, base), names.get(node)];
        if (first === undefined) names.set(node, path);
        if (node.entry.type !== 'file') special.push(first === undefined ? {...node.entry, path} : hardLinkEntry(path, first));
        else if (first === undefined) {
          files.push({...node.entry, path});
          // This changes the mtimes of all ancestors.
          for (let at: Dir | undefined = dir; at !== undefined; at = at.parent) at.mtimeChanged = true;
        }
      }
    // A user other than root needs permission to write to them.
    const others = this.uid === 0 ? [] : files.map(({path, mode}) => ({at: fsPath(`${this.#base}/${path}`), mode}));
    for (const {at, mode} of others) chmodSync(at, mode | 0o600);
    setFileAttributes(this.#root, files, this.#warn);
    for (const {at, mode} of others) chmodSync(at, mode);

    const dirs = [...dirsOnDisk(this.rootDir)];
    const inherited = dirs.filter(({dir}) => dir.origin === 'lower').map(({dir}) => dir);
    const xattrsBelow = new Map(
      readXattrs(inherited.map((dir) => dir.copiedUpFrom!)).map((xattrs, i) => [inherited[i], withoutTrusted(xattrs)]),
    );
    // In a user namespace only `user.*` can be set; overlayfs reads it with the mount option `userxattr`.
    const prefix = this.#privileges.inInitialUserNamespace ? 'trusted.' : 'user.';
    const whiteoutPaths: string[] = [];
    const setByTar: SpecialEntry[] = [];
    const setByNode: Dir[] = [];
    for (const {dir, lowersHidden} of dirs) {
      if (dir.origin === 'existing' && !dir.mtimeChanged) continue;
      const {attributes} = dir;
      const xattrs = new Map(xattrsBelow.get(dir) ?? attributes.xattrs);
      if (dir.opaque && !lowersHidden) {
        xattrs.set(`${prefix}${OPAQUE}`, Buffer.from('y'));
        this.hasWhiteouts = true;
      }
      if (dir.whiteouts !== undefined && dir.whiteouts.size > 0 && !dir.opaque && !lowersHidden) {
        whiteoutPaths.push(...[...dir.whiteouts].map((name) => join(dir, name)));
        xattrs.set(`${prefix}${ORIGIN}`, Buffer.alloc(0));
      }
      const exact = isExactTime(attributes.mtimeSec, attributes.mtimeNs);
      if (dir === this.rootDir || (xattrs.size === 0 && exact)) setByNode.push(dir);
      else setByTar.push({...attributes, xattrs, type: 'directory', path: dir.path});
    }
    this.hasWhiteouts ||= whiteoutPaths.length > 0;
    makeSpecialFiles(this.#root, [...special, ...whiteoutEntries(whiteoutPaths), ...setByTar], this.#warn);
    for (const dir of setByNode) this.#setAttributes(dir);
  }

  #setAttributes({path, attributes, disk}: Dir): void {
    const {mode, uid, gid, mtimeSec, mtimeNs} = attributes;
    const at = fsPath(`${this.#base}/${path}`);
    if (disk!.uid !== uid || disk!.gid !== gid) lchownSync(at, uid, gid);
    if (disk!.mode !== mode) chmodSync(at, mode);
    const time = mtimeSec + mtimeNs / 1e9;
    lutimesSync(at, time, time);
  }

  /**
   * Recreates directories that existed before and have extended attributes which the layer's entry does not name. An upper directory of
   * overlayfs does not show those of lower ones either.
   */
  #recreateMerged(): void {
    const merged = [...dirsOnDisk(this.rootDir)].map(({dir}) => dir).filter((dir) => dir.merged);
    const xattrs = readXattrs(merged.map((dir) => `${this.#base}/${dir.path}`));
    merged.forEach((dir, i) => {
      const own = [...withoutTrusted(xattrs[i]!).keys()].filter((key) => key !== HOST_XATTR);
      if (own.some((key) => dir.attributes.xattrs?.has(key) !== true)) this.#recreate(dir);
    });
  }

  #recreate(dir: Dir): void {
    const [parent, old] = [dir.parent!, `${this.#base}/${dir.path}`];
    const fresh = `${this.absolute(parent, '')}.wh..renewed`;
    mkdirSync(fsPath(fresh), 0o700);
    for (const name of readdirSync(fsPath(old), {encoding: 'latin1'})) renameSync(fsPath(`${old}/${name}`), fsPath(`${fresh}/${name}`));
    rmdirSync(fsPath(old));
    renameSync(fsPath(fresh), fsPath(old));
    dir.disk = attributesOf(lstat(old)!);
    parent.mtimeChanged = true;
  }

  /** overlayfs has no opaque mark for its root, so each name gets a whiteout. */
  #whiteOutRoot(): void {
    this.rootDir.opaque = false;
    this.rootDir.mtimeChanged = true;
    for (const name of this.lowerView?.names() ?? []) {
      const child = this.rootDir.children?.get(name);
      if (child?.disk !== undefined) child.opaque = true;
      else if (lstat(this.absolute(this.rootDir, name)) === undefined)
        this.rootDir.whiteouts = (this.rootDir.whiteouts ?? new Set()).add(name);
    }
  }
}

/** Removes a file or a tree without following links. An absent path is no error. */
function removeTree(path: string): void {
  const stat = lstat(path);
  if (stat === undefined) return;
  if (stat.isDirectory()) {
    for (const name of readdirSync(fsPath(path), {encoding: 'latin1'})) removeTree(`${path}/${name}`);
    rmdirSync(fsPath(path));
  } else unlinkSync(fsPath(path));
}

/** Forgets lower entries that are now hidden. */
function forgetLowers(dir: Dir): void {
  for (const [name, child] of dir.children ?? []) {
    if (child.disk === undefined) dir.children!.delete(name);
    else {
      child.lowerdirs = [];
      forgetLowers(child);
    }
  }
}

/** Directories on disk, parents first. `lowersHidden`: an ancestor is opaque. */
export function* dirsOnDisk(rootDir: Dir): Generator<{readonly dir: Dir; readonly lowersHidden: boolean}> {
  const todo = [{dir: rootDir, lowersHidden: false}];
  for (let at = todo.pop(); at !== undefined; at = todo.pop()) {
    yield at;
    const lowersHidden = at.lowersHidden || at.dir.opaque;
    for (const dir of at.dir.children?.values() ?? []) if (dir.disk !== undefined) todo.push({dir, lowersHidden});
  }
}

function hardLinkEntry(path: string, linkname: string): SpecialEntry {
  return {path, type: 'link', linkname, mode: 0, uid: 0, gid: 0, mtimeSec: 0, mtimeNs: 0};
}

/** 0/0 character devices, most of them hard links to the first. */
function whiteoutEntries(paths: readonly string[]): SpecialEntry[] {
  const node = {type: 'char', mode: 0, uid: 0, gid: 0, mtimeSec: 0, mtimeNs: 0, devmajor: 0, devminor: 0} as const;
  return paths.map((path, i) => {
    const first = i - (i % WHITEOUTS_PER_NODE);
    return i === first ? {...node, path} : hardLinkEntry(path, paths[first]!);
  });
}

export function withoutTrusted(xattrs: ReadonlyMap<string, Buffer>): ReadonlyMap<string, Buffer> {
  return new Map([...xattrs].filter(([key]) => !key.startsWith('trusted.')));
}
