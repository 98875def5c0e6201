/**
 * Layers as EROFS images: the layer's inflated tar is kept as it is, and a small index tells the kernel where in it each
 * file lies. Nothing is extracted, and no path of the image is ever created on this machine.
 */
import {
  chownSync,
  closeSync,
  existsSync,
  fstatSync,
  ftruncateSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
  statfsSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import {join} from 'node:path';
import {ErrdefsError, fromErrno, is, isErrdefs} from '../errdefs.ts';
import {nearestExisting, readIfPresent, removeTree, temporaryName, writeAtomic} from '../fs/durable.ts';
import {bootId} from '../fs/process.ts';
import {isAllButFull} from '../fs/space.ts';
import {runOn, runSync} from '../fs/spawn.ts';
import type {TreeUsage} from './layers.ts';
import {statePath} from './layout.ts';

/** Names in a layer's directory: tar and index, */
export const EROFS_TAR = 'layer.tar';
export const EROFS_INDEX = 'layer.erofs';
/** or both in one file, the index first. */
export const EROFS_IMAGE = 'layer.img';

/**
 * What the kernel reads an indexed layer from: its two files, as Linux can from 6.12 on, or one file by way of a loop device,
 * which comes and goes with the mount.
 */
export type Backing = 'files' | 'loop';

/**
 * Users and groups that nobody is, and no other process: those of one user could reach into each other. Of them, systemd's list
 * of users says that they are unused.
 */
const STRANGERS = {first: 0x70000000, count: 0x10000000};
/** How long mkfs.erofs may take that neither computes nor ends, in milliseconds. */
const TIMEOUT_MS = 600_000;
/**
 * Bounds of mkfs.erofs: memory in bytes, processor time in seconds, size of the index in bytes, and threads, of which it uses some. A
 * layer of 100,000 files needs 40 MB and 0.3 s.
 */
const LIMITS = ['--as=2147483648', '--cpu=120', '--fsize=4294967296', '--core=0', '--nproc=256'];

/** Entries that an index takes besides the tar's own. */
export interface FurtherEntries {
  /** Where the tar's own entries end, in bytes. */
  readonly at: number;
  /** Entries without content, as an archive with its end. */
  readonly bytes: Buffer;
}

/**
 * Writes the index of `directory`'s tar, and for a loop device makes one file of the two. The tar is hostile input: mkfs.erofs
 * reads it and writes the index through descriptors, as a user that nobody else is, with no way to gain rights and with bounds.
 *
 * @param further stands in the tar's place while it is indexed; the tar is afterwards what it was
 * @returns false when mkfs.erofs refuses the tar: then the layer has to be extracted
 * @throws unavailable mkfs.erofs is not installed
 */
export async function indexTar(directory: string, backing: Backing, further?: FurtherEntries): Promise<boolean> {
  const indexing = new Indexing(directory, backing, further);
  try {
    return indexing.end(await runOn('prlimit', indexing.command, indexing.options));
  } finally {
    indexing.close();
  }
}

/** As `indexTar`, but nothing else gets the thread meanwhile. */
function indexTarSync(directory: string, backing: Backing): boolean {
  const indexing = new Indexing(directory, backing, undefined);
  try {
    return indexing.end(runSync('prlimit', indexing.command, indexing.options).status);
  } finally {
    indexing.close();
  }
}

const MKFS = ['mkfs.erofs', '--quiet', '--tar=i', '--aufs', '-Uclear', '-Enosbcrc', '/proc/self/fd/3'];

/** What is around a run of mkfs.erofs. */
class Indexing {
  readonly #directory: string;
  readonly #path: string;
  readonly #backing: Backing;
  readonly #user = STRANGERS.first + Math.floor(Math.random() * STRANGERS.count);
  #tar = -1;
  #end = -1;
  #index = -1;
  #restore: () => void = () => {};

  constructor(directory: string, backing: Backing, further: FurtherEntries | undefined) {
    this.#directory = directory;
    this.#backing = backing;
    this.#path = join(directory, EROFS_INDEX);
    try {
      this.#tar = openSync(join(directory, EROFS_TAR), 'r');
      this.#index = openSync(this.#path, 'wx+', 0o600);
      chownSync(this.#path, this.#user, this.#user);
      if (further === undefined) return;
      this.#end = openSync(join(directory, EROFS_TAR), 'r+');
      this.#restore = replaceEnd(this.#end, further);
    } catch (err) {
      this.close();
      throw fromErrno(err, this.#path);
    }
  }

  /** Arguments of prlimit(1). */
  get command(): readonly string[] {
    const ids = [`--reuid=${this.#user}`, `--regid=${this.#user}`, '--clear-groups'];
    return [...LIMITS, 'setpriv', ...ids, '--no-new-privs', '--bounding-set=-all', ...MKFS];
  }

  get options(): {readonly package: string; readonly descriptors: readonly number[]; readonly timeoutMs: number} {
    return {package: 'erofs-utils', descriptors: [this.#tar, this.#index], timeoutMs: TIMEOUT_MS};
  }

  /** @param status of mkfs.erofs @returns whether there is an index */
  end(status: number): boolean {
    try {
      this.#restore();
      if (status !== 0 || !hasInodes(this.#index)) {
        rmSync(this.#path);
        return false;
      }
      setRootMode(this.#index);
      chownSync(this.#path, 0, 0);
      if (this.#backing === 'loop') joinFiles(this.#directory, this.#index);
      return true;
    } catch (err) {
      throw fromErrno(err, this.#path);
    }
  }

  close(): void {
    for (const fd of [this.#tar, this.#end, this.#index]) if (fd >= 0) closeSync(fd);
  }
}

/** Bytes behind the entries of a tar: its end mark and what it is filled up with. More than a tape's record is no tar's habit. */
const LONGEST_END = 1 << 20;

/** Puts entries in the place of an archive's end. @returns what undoes it */
function replaceEnd(tar: number, {at, bytes}: FurtherEntries): () => void {
  const {size} = fstatSync(tar);
  if (size - at > LONGEST_END) throw new ErrdefsError('invalid_argument', `tar archive with ${size - at} B behind its end`);
  const end = Buffer.alloc(Math.max(size - at, 0));
  readSync(tar, end, 0, end.length, at);
  ftruncateSync(tar, Math.min(at, size));
  writeAllAt(tar, bytes, at);
  return () => {
    ftruncateSync(tar, Math.min(at, size));
    writeAllAt(tar, end, at);
  };
}

function writeAllAt(fd: number, bytes: Buffer, at: number): void {
  for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done, bytes.length - done, at + done);
}

const SUPERBLOCK = 1024;
const DIRECTORY_0755 = 0o40755;

/**
 * A root that the tar has no entry for gets mode 0777 of mkfs.erofs; a layer's root is 0755, as in containerd, whatever the
 * tar says of it. Offsets as in the kernel's fs/erofs/erofs_fs.h.
 */
function setRootMode(index: number): void {
  const block = Buffer.alloc(64);
  readSync(index, block, 0, block.length, SUPERBLOCK);
  const inode = block.readUInt32LE(40) * 2 ** block.readUInt8(12) + 32 * block.readUInt16LE(14);
  const mode = Buffer.alloc(2);
  mode.writeUInt16LE(DIRECTORY_0755);
  writeAllAt(index, mode, inode + 4);
}

/** The kernel's names and sizes; see fs/erofs/erofs_fs.h. */
const MAGIC = 0xe0f5e1e2;
const DEVICE_SLOT = 128;
const UNIFIED_ADDRESS = 68;

interface Superblock {
  /** Size of a block, in bytes. */
  readonly block: number;
  /** Where in it the address of its first further device stands. */
  readonly slot: number;
  readonly inodes: number;
}

/** Of an image or index. @throws data_loss */
function readSuperblock(fd: number, what: string): Superblock {
  const bytes = Buffer.alloc(128);
  readSync(fd, bytes, 0, bytes.length, SUPERBLOCK);
  const block = 2 ** bytes.readUInt8(12);
  const slot = DEVICE_SLOT * bytes.readUInt16LE(88) + UNIFIED_ADDRESS;
  if (bytes.readUInt32LE(0) !== MAGIC || bytes.readUInt16LE(86) !== 1 || slot + 4 > fstatSync(fd).size)
    throw new ErrdefsError('data_loss', `${what} is no EROFS image`);
  return {block, slot, inodes: Number(bytes.readBigUInt64LE(16))};
}

/** mkfs.erofs 1.8 ends with status 0 and an index without a root when it cannot start its threads. */
function hasInodes(index: number): boolean {
  try {
    return readSuperblock(index, EROFS_INDEX).inodes > 0;
  } catch (err) {
    if (is(err, 'data_loss')) return false;
    throw err;
  }
}

/** Bytes moved at a time. */
const CHUNK = 1 << 20;

function copyBytes(from: number, start: number, to: number, at: number): void {
  const buffer = Buffer.allocUnsafe(CHUNK);
  for (let done = 0, n = 0; ; done += n) {
    n = readSync(from, buffer, 0, CHUNK, start + done);
    if (n === 0) return;
    writeAllAt(to, buffer.subarray(0, n), at + done);
  }
}

/**
 * Makes one file of a tar and its index: a device that the index names need not be one of its own, it may follow in the same
 * file where the index says (Linux 6.4). Nothing of the tar is written anew where the filesystem can make room before it.
 */
function joinFiles(directory: string, index: number): void {
  const [tar, image] = [EROFS_TAR, EROFS_IMAGE].map((name) => join(directory, name)) as [string, string];
  const {block, slot} = readSuperblock(index, join(directory, EROFS_INDEX));
  const room = Math.max(statfsSync(directory).bsize, block);
  const start = Math.ceil(fstatSync(index).size / room) * room;
  const isInserted = makesRoom(tar, start);
  const joined = openSync(isInserted ? tar : image, isInserted ? 'r+' : 'wx+', 0o600);
  try {
    if (!isInserted) copyFile(tar, joined, start);
    copyBytes(index, 0, joined, 0);
    const address = Buffer.alloc(4);
    address.writeUInt32LE(start / block);
    writeAllAt(joined, address, slot);
  } finally {
    closeSync(joined);
  }
  if (isInserted) renameSync(tar, image);
  else rmSync(tar);
  rmSync(join(directory, EROFS_INDEX));
}

/** @returns false where the filesystem, or this machine's fallocate, cannot: then the file is as it was */
function makesRoom(path: string, length: number): boolean {
  try {
    return runSync('fallocate', ['--insert-range', '--length', String(length), path], {package: 'util-linux'}).status === 0;
  } catch (err) {
    if (is(err, 'unavailable')) return false;
    throw err;
  }
}

function copyFile(from: string, to: number, at: number): void {
  const fd = openSync(from, 'r');
  try {
    copyBytes(fd, 0, to, at);
  } finally {
    closeSync(fd);
  }
}

/** The tar of an indexed layer. */
export interface IndexedTar {
  readonly path: string;
  /** Where in the file it begins, in bytes. */
  readonly start: number;
  readonly backing: Backing;
}

/** @returns `undefined` for a layer that was extracted @throws data_loss an image does not say where its tar is */
export function findTar(directory: string): IndexedTar | undefined {
  const [tar, image] = [EROFS_TAR, EROFS_IMAGE].map((name) => join(directory, name)) as [string, string];
  if (existsSync(tar)) return {path: tar, start: 0, backing: 'files'};
  if (!existsSync(image)) return undefined;
  const fd = openSync(image, 'r');
  try {
    const {block, slot} = readSuperblock(fd, image);
    const address = Buffer.alloc(4);
    readSync(fd, address, 0, address.length, slot);
    const start = address.readUInt32LE() * block;
    if (start > fstatSync(fd).size) throw new ErrdefsError('data_loss', `${image} ends before its tar`);
    return {path: image, start, backing: 'loop'};
  } finally {
    closeSync(fd);
  }
}

/** The files of an indexed layer, and their sizes in bytes; none for a layer that was extracted. */
export function indexedFiles(directory: string): Readonly<Record<string, number>> {
  const sizes: Record<string, number> = {};
  for (const name of [EROFS_IMAGE, EROFS_INDEX, EROFS_TAR]) {
    const stat = lstatSync(join(directory, name), {throwIfNoEntry: false});
    if (stat !== undefined) sizes[name] = stat.size;
  }
  return sizes;
}

/**
 * What an indexed layer lacks, in a few words, as far as names and sizes tell.
 *
 * @param expected as `indexedFiles` when it was made; absent where that was not noted
 * @returns `undefined` when it lacks nothing; `extracted` for a layer that is not indexed
 */
export function indexedDefect(directory: string, expected: Readonly<Record<string, number>> | undefined): string | undefined {
  const found = indexedFiles(directory);
  const names = Object.keys(expected ?? found);
  if (names.length === 0) return 'extracted';
  const wanted = names.includes(EROFS_IMAGE) ? [EROFS_IMAGE] : [EROFS_INDEX, EROFS_TAR];
  for (const name of wanted) {
    if (found[name] === undefined) return `lacks ${name}`;
    if (!lstatSync(join(directory, name)).isFile()) return `${name} is no file`;
    if (expected !== undefined && found[name] !== expected[name])
      return `${name} has ${found[name]} B, and should have ${expected[name]} B`;
    closeSync(openSync(join(directory, name), 'r'));
  }
  return undefined;
}

/** Indexes a layer's tar once more, in `directory` (not there yet), as the layer itself was. @returns as `indexTar` */
export async function indexAnew({path, start, backing}: IndexedTar, directory: string): Promise<boolean> {
  mkdirSync(directory, {recursive: true});
  const tar = join(directory, EROFS_TAR);
  if (backing === 'files') linkSync(path, tar);
  else {
    const [from, to] = [openSync(path, 'r'), openSync(tar, 'wx', 0o600)];
    try {
      copyBytes(from, start, to, 0);
    } finally {
      for (const fd of [from, to]) closeSync(fd);
    }
  }
  return indexTar(directory, backing);
}

/** The files of a layer that are the same for the same tar, but for the moment: its index, or the whole. */
export const comparableFile = (directory: string): string | undefined =>
  [EROFS_IMAGE, EROFS_INDEX].map((name) => join(directory, name)).find((path) => existsSync(path));

/** Fields of the superblock that are of the moment: its checksum, and seconds and nanoseconds of when it was made. [offset, length] */
const OF_THE_MOMENT = [
  [4, 4],
  [24, 12],
] as const;

/** Blanks what is of the moment. @param bytes of an index or image, from its beginning; too few of them have nothing of it */
export function blankMoment(bytes: Buffer): void {
  if (bytes.length <= SUPERBLOCK + 128) return;
  for (const [offset, length] of OF_THE_MOMENT) bytes.fill(0, SUPERBLOCK + offset, SUPERBLOCK + offset + length);
}

/** Whether two indexes, or images, are the same but for the moment that they were made in. */
export function isSameIndex(one: string, other: string): boolean {
  const fds = [one, other].map((path) => openSync(path, 'r')) as [number, number];
  const buffers = [Buffer.alloc(1 << 18), Buffer.alloc(1 << 18)] as const;
  try {
    for (let at = 0; ; ) {
      const [a, b] = buffers.map((buffer, i) => buffer.subarray(0, readSync(fds[i]!, buffer, 0, buffer.length, at))) as [Buffer, Buffer];
      if (at === 0) for (const block of [a, b]) blankMoment(block);
      if (!a.equals(b)) return false;
      if (a.length === 0) return true;
      at += a.length;
    }
  } finally {
    for (const fd of fds) closeSync(fd);
  }
}

/** What an indexed layer takes, with the inodes that its superblock counts; `undefined` for a layer that was extracted. */
export function indexedUsage(directory: string): TreeUsage | undefined {
  const path = comparableFile(directory);
  if (path === undefined) return undefined;
  const tar = path.endsWith(EROFS_IMAGE) ? 0 : statSync(join(directory, EROFS_TAR)).blocks;
  const fd = openSync(path, 'r');
  try {
    return {size: 512 * (fstatSync(fd).blocks + tar), inodes: readSuperblock(fd, path).inodes};
  } finally {
    closeSync(fd);
  }
}

/** What this machine can do. */
export interface ErofsSupport {
  /** `undefined` when it cannot index and mount layers at all. */
  readonly backing: Backing | undefined;
  /** In a few words why it cannot, or cannot in the better way; empty when there is nothing to say. */
  readonly reason: string;
}

/** What the probe has found, by the number of the filesystem's device. */
interface Probed {
  readonly bootId: string;
  readonly filesystems: Readonly<Record<string, {readonly backing: Backing | 'none'; readonly reason: string}>>;
}

/** @returns what was found in this boot; what is torn or foreign is nothing: it is only a cache */
function readProbed(file: string): Probed {
  const nothing: Probed = {bootId: bootId(), filesystems: {}};
  try {
    const known = JSON.parse(readIfPresent(file) ?? 'null') as Partial<Probed> | null;
    const {bootId, filesystems} = known ?? {};
    return bootId === nothing.bootId && typeof filesystems === 'object' && filesystems !== null ? {bootId, filesystems} : nothing;
  } catch {
    return nothing;
  }
}

/**
 * Whether and how this machine can index and mount layers that lie below `root`: tried with a real one once per boot and
 * filesystem, since not all can be mounted from, and remembered in `stateDir`.
 *
 * @param root a store's; it need not be there yet
 */
export function probeErofs(stateDir: string, root: string): ErofsSupport {
  if (process.geteuid?.() !== 0) return {backing: undefined, reason: 'only root may mount'};
  const file = statePath.erofs(stateDir);
  const place = nearestExisting(root);
  const filesystem = String(statSync(place).dev);
  const known = readProbed(file).filesystems[filesystem];
  if (known?.backing === 'files' || known?.backing === 'loop') return {backing: known.backing, reason: String(known.reason)};
  if (known?.backing === 'none') return {backing: undefined, reason: String(known.reason)};
  const scratch = makeScratch(place);
  if (scratch === undefined) return tryErofs(mkdtempSync('/tmp/berth-erofs-')); // what can only be read is asked of another one, and again
  const {backing = 'none', reason, isLasting} = tryErofs(scratch);
  // On a disk that is full nothing can be indexed, and there will be room again.
  if (backing === 'none' && (!isLasting || isAllButFull(place))) return {backing: undefined, reason};
  try {
    const {bootId, filesystems} = readProbed(file);
    writeAtomic(file, `${JSON.stringify({bootId, filesystems: {...filesystems, [filesystem]: {backing, reason}}})}\n`, {sync: false});
  } catch {
    // Not ours to write: it is asked again next time.
  }
  return {backing: backing === 'none' ? undefined : backing, reason};
}

/** @returns `undefined` where nothing can be made */
function makeScratch(directory: string): string | undefined {
  const scratch = temporaryName(join(directory, 'probe'));
  try {
    mkdirSync(scratch, {mode: 0o700});
    return scratch;
  } catch {
    return undefined;
  }
}

/** An archive with one directory: mkfs.erofs refuses an empty one. */
function probeTar(): Buffer {
  const header = Buffer.alloc(512);
  const fields: readonly (readonly [offset: number, text: string])[] = [
    [0, 'd/'],
    [100, '0000755'],
    [108, '0000000'],
    [116, '0000000'],
    [124, '00000000000'],
    [136, '00000000000'],
    [148, '        '],
    [156, '5'],
    [257, 'ustar'],
    [263, '00'],
  ];
  for (const [offset, text] of fields) header.write(text, offset, 'latin1');
  header.write(
    header
      .reduce((sum, byte) => sum + byte, 0)
      .toString(8)
      .padStart(6, '0'),
    148,
    'latin1',
  );
  return Buffer.concat([header, Buffer.alloc(1024)]);
}

interface Tried extends ErofsSupport {
  /** Whether another try in this boot would end in the same way: it is due to the kernel, or to a program that says how old it is. */
  readonly isLasting: boolean;
}

/** The first release of erofs-utils that indexes tar archives. */
const OLDEST_MKFS = [1, 8] as const;

/** Exit status of mount(8) when the kernel refuses. */
const MOUNT_REFUSED = 32;

/** @returns e.g. `[1, 8, 6]`; `undefined` when it does not say @throws unavailable it is not installed */
function mkfsVersion(): readonly number[] | undefined {
  const {stdout} = runSync('mkfs.erofs', ['--version'], {package: 'erofs-utils'});
  return /\b\d+(?:\.\d+)+/.exec(stdout.toString())?.[0].split('.').map(Number);
}

/** Whether the kernel has the filesystem at all, once somebody has tried to mount one. */
const knowsErofs = (): boolean => /\terofs$/m.test(readIfPresent('/proc/filesystems') ?? '');

/** Why mkfs.erofs has made no index: it is too old, which lasts, or something else, which may pass. */
function mkfsFailure(): Tried {
  const [major, minor = 0] = mkfsVersion() ?? [];
  const [oldest, since] = OLDEST_MKFS;
  if (major !== undefined && (major < oldest || (major === oldest && minor < since)))
    return {
      backing: undefined,
      reason: `mkfs.erofs ${major}.${minor} does not index tar archives: 1.8 is the oldest that does`,
      isLasting: true,
    };
  return {backing: undefined, reason: 'mkfs.erofs failed this time: it may lack processes or memory', isLasting: false};
}

/** @param scratch an empty directory; it is removed */
function tryErofs(scratch: string): Tried {
  const none = (reason: string, isLasting: boolean): Tried => ({backing: undefined, reason, isLasting});
  const mounts = (backing: Backing, options: string, file: string): boolean => {
    const directory = join(scratch, backing);
    mkdirSync(directory);
    writeFileSync(join(directory, EROFS_TAR), probeTar());
    if (!indexTarSync(directory, backing)) throw new ErrdefsError('not_implemented', 'mkfs.erofs --tar=i');
    const mount = `mount -t erofs -o ro,${options} ${file} .`;
    const isolated = ['--mount', '--propagation', 'private', 'sh', '-c', mount];
    const {status} = runSync('unshare', isolated, {package: 'util-linux', cwd: directory});
    if (status !== 0 && status !== MOUNT_REFUSED)
      throw new ErrdefsError('resource_exhausted', `mount ended with status ${status} this time`);
    return status === 0;
  };
  const failed = (err: unknown): Tried => {
    // A program that is missing can be installed at any time.
    if (is(err, 'unavailable')) return none(`${isErrdefs(err) ? err.details?.program : 'a program'} is not installed`, false);
    if (is(err, 'resource_exhausted')) return none((err as Error).message, false);
    throw fromErrno(err, `probe ${scratch}`);
  };
  try {
    if (mounts('files', `device=${EROFS_TAR}`, EROFS_INDEX)) return {backing: 'files', reason: '', isLasting: true};
    const reason =
      'the kernel does not mount EROFS images from files of this filesystem: it is older than 6.12, or built without, or cannot';
    return mounts('loop', 'loop', EROFS_IMAGE)
      ? {backing: 'loop', reason, isLasting: true}
      : none(`${reason}; nor does it from loop devices`, !knowsErofs()); // all of those may be in use
  } catch (err) {
    if (!is(err, 'not_implemented')) return failed(err);
    try {
      return mkfsFailure();
    } catch (cause) {
      return failed(cause);
    }
  } finally {
    try {
      removeTree(scratch);
    } catch {
      // A collection takes it, once this process is gone.
    }
  }
}
