/**
 * Layers as EROFS images: the layer's inflated tar is kept as one file, and a small index beside it tells the kernel where
 * in it each file lies. Nothing is extracted, and no path of the image is ever created on this machine.
 */
import {
  chownSync,
  closeSync,
  fstatSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import {join} from 'node:path';
import {ErrdefsError, fromErrno, is} from '../errdefs.ts';
import {readIfPresent, writeAtomic} from '../fs/durable.ts';
import {bootId} from '../fs/process.ts';
import {runOn, runSync} from '../fs/spawn.ts';
import type {TreeUsage} from './layers.ts';
import {statePath} from './layout.ts';

/** Names in a layer's directory. */
export const EROFS_TAR = 'layer.tar';
export const EROFS_INDEX = 'layer.erofs';

/** The user and group that nobody is: what mkfs.erofs runs as. */
const NOBODY = 65534;
/** Bounds of mkfs.erofs: memory in bytes, processor time in seconds, size of the index in bytes. A layer of 100,000 files needs 40 MB and 0.3 s. */
const LIMITS = ['--as=2147483648', '--cpu=120', '--fsize=4294967296', '--core=0'];

/** Entries that an index takes besides the tar's own. */
export interface FurtherEntries {
  /** Where the tar's own entries end, in bytes. */
  readonly at: number;
  /** Entries without content, as an archive with its end. */
  readonly bytes: Buffer;
}

/**
 * Writes the index of `directory`'s tar. The tar is hostile input: mkfs.erofs reads and writes it through descriptors,
 * as nobody, with no way to gain rights and with bounds.
 *
 * @param further stands in the tar's place while it is indexed; the tar is afterwards what it was
 * @returns false when mkfs.erofs refuses the tar: then the layer has to be extracted
 * @throws unavailable mkfs.erofs is not installed
 */
export async function indexTar(directory: string, further?: FurtherEntries): Promise<boolean> {
  const indexing = new Indexing(directory, further);
  try {
    return indexing.end(await runOn('prlimit', MKFS, indexing.options));
  } finally {
    indexing.close();
  }
}

/** As `indexTar`, but nothing else gets the thread meanwhile. */
function indexTarSync(directory: string): boolean {
  const indexing = new Indexing(directory, undefined);
  try {
    return indexing.end(runSync('prlimit', MKFS, indexing.options).status);
  } finally {
    indexing.close();
  }
}

const MKFS = [
  ...LIMITS,
  'setpriv',
  `--reuid=${NOBODY}`,
  `--regid=${NOBODY}`,
  '--clear-groups',
  '--no-new-privs',
  '--bounding-set=-all',
  'mkfs.erofs',
  '--quiet',
  '--tar=i',
  '--aufs',
  '-Uclear',
  '-Enosbcrc',
  '/proc/self/fd/3',
];

/** What is around a run of mkfs.erofs. */
class Indexing {
  readonly #path: string;
  #tar = -1;
  #index = -1;
  #restore: () => void = () => {};

  constructor(directory: string, further: FurtherEntries | undefined) {
    this.#path = join(directory, EROFS_INDEX);
    try {
      this.#tar = openSync(join(directory, EROFS_TAR), further === undefined ? 'r' : 'r+');
      this.#index = openSync(this.#path, 'wx+', 0o600);
      chownSync(this.#path, NOBODY, NOBODY);
      if (further !== undefined) this.#restore = replaceEnd(this.#tar, further);
    } catch (err) {
      this.close();
      throw fromErrno(err, this.#path);
    }
  }

  get options(): {readonly package: string; readonly descriptors: readonly number[]} {
    return {package: 'erofs-utils', descriptors: [this.#tar, this.#index]};
  }

  /** @param status of mkfs.erofs @returns whether there is an index */
  end(status: number): boolean {
    try {
      this.#restore();
      if (status !== 0) rmSync(this.#path);
      else {
        setRootMode(this.#index);
        chownSync(this.#path, 0, 0);
      }
    } catch (err) {
      throw fromErrno(err, this.#path);
    }
    return status === 0;
  }

  close(): void {
    for (const fd of [this.#tar, this.#index]) if (fd >= 0) closeSync(fd);
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

/** Fields of the superblock that are of the moment: its checksum, and seconds and nanoseconds of when it was made. [offset, length] */
const OF_THE_MOMENT = [
  [4, 4],
  [24, 12],
] as const;

/** Whether two indexes are the same but for the moment that they were made in. */
export function isSameIndex(one: string, other: string): boolean {
  const fds = [one, other].map((path) => openSync(path, 'r')) as [number, number];
  const buffers = [Buffer.alloc(1 << 18), Buffer.alloc(1 << 18)] as const;
  try {
    for (let at = 0; ; ) {
      const [a, b] = buffers.map((buffer, i) => buffer.subarray(0, readSync(fds[i]!, buffer, 0, buffer.length, at))) as [Buffer, Buffer];
      if (at === 0 && a.length > SUPERBLOCK + 128 && b.length > SUPERBLOCK + 128)
        for (const [offset, length] of OF_THE_MOMENT)
          for (const block of [a, b]) block.fill(0, SUPERBLOCK + offset, SUPERBLOCK + offset + length);
      if (!a.equals(b)) return false;
      if (a.length === 0) return true;
      at += a.length;
    }
  } finally {
    for (const fd of fds) closeSync(fd);
  }
}

const MAGIC = 0xe0f5e1e2;

/** What an indexed layer takes, with the inodes that its superblock counts; `undefined` for a layer that was extracted. See the kernel's fs/erofs/erofs_fs.h. */
export function indexedUsage(directory: string): TreeUsage | undefined {
  const index = statSync(join(directory, EROFS_INDEX), {throwIfNoEntry: false});
  if (index === undefined) return undefined;
  const block = Buffer.alloc(128);
  const fd = openSync(join(directory, EROFS_INDEX), 'r');
  try {
    readSync(fd, block, 0, block.length, SUPERBLOCK);
  } finally {
    closeSync(fd);
  }
  if (block.readUInt32LE(0) !== MAGIC) throw new ErrdefsError('data_loss', `${join(directory, EROFS_INDEX)} is no EROFS image`);
  return {size: 512 * (index.blocks + statSync(join(directory, EROFS_TAR)).blocks), inodes: Number(block.readBigUInt64LE(16))};
}

interface Probe {
  readonly bootId: string;
  readonly usable: boolean;
  readonly reason: string;
}

/**
 * Whether this machine can index and mount layers so: tried once per boot with a real one, and remembered in `stateDir`.
 *
 * @returns `reason` says in a few words why not
 */
export function probeErofs(stateDir: string): {readonly usable: boolean; readonly reason: string} {
  const file = statePath.erofs(stateDir);
  try {
    const known = JSON.parse(readIfPresent(file) ?? '{}') as Partial<Probe>;
    if (known.bootId === bootId() && typeof known.usable === 'boolean') return {usable: known.usable, reason: known.reason ?? ''};
  } catch {
    // Torn or foreign: it is only a cache.
  }
  const reason = tryErofs();
  const result: Probe = {bootId: bootId(), usable: reason === '', reason};
  try {
    writeAtomic(file, `${JSON.stringify(result)}\n`, {sync: false});
  } catch {
    // Not ours to write: it is asked again next time.
  }
  return result;
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

/** @returns why it does not work; empty when it does */
function tryErofs(): string {
  if (process.geteuid?.() !== 0) return 'only root may mount';
  const directory = mkdtempSync('/tmp/berth-erofs-');
  try {
    writeFileSync(join(directory, EROFS_TAR), probeTar());
    if (!indexTarSync(directory)) return 'mkfs.erofs does not index tar archives: it is older than 1.8';
    const mount = 'mount -t erofs -o ro,device=layer.tar layer.erofs /mnt';
    const {status} = runSync('unshare', ['--mount', '--propagation', 'private', 'sh', '-c', mount], {
      package: 'util-linux',
      cwd: directory,
    });
    return status === 0 ? '' : 'the kernel does not mount EROFS images from files: it is older than 6.12, or built without';
  } catch (err) {
    if (is(err, 'unavailable')) return 'mkfs.erofs is not installed';
    throw err;
  } finally {
    rmSync(directory, {recursive: true, force: true});
  }
}
