/** Probes whether this machine can mount indexed layers. */
import {accessSync, constants, mkdirSync, mkdtempSync, statSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {ErrdefsError, fromErrno, hasCode, isErrdefs} from '../errdefs.ts';
import {nearestExisting, readIfPresent, removeTree, temporaryName, writeAtomic} from '../fs/durable.ts';
import {isNearlyFull} from '../fs/free-space.ts';
import {bootId} from '../fs/process.ts';
import {runSync} from '../fs/spawn.ts';
import {type Backing, EROFS_IMAGE, EROFS_INDEX, EROFS_TAR, writeIndex} from '../store/indexed-layer.ts';
import {runtimeStatePath} from '../store/layout.ts';
import {isRootless} from '../user-namespace-identity.ts';

/** Result of the probe. */
export interface ErofsSupport {
  /** `undefined` when it cannot index and mount layers at all. */
  readonly backing: Backing | undefined;
  /** Why it cannot mount from files, in a few words; empty when it can. */
  readonly reason: string;
}

/** Earlier results, by device number of the filesystem. */
interface ProbeCache {
  readonly bootId: string;
  readonly filesystems: Readonly<Record<string, {readonly backing: Backing | 'none'; readonly reason: string}>>;
}

/** @returns results of this boot; none when the file is missing or malformed */
function readProbeCache(file: string): ProbeCache {
  const nothing: ProbeCache = {bootId: bootId(), filesystems: {}};
  try {
    const known = JSON.parse(readIfPresent(file) ?? 'null') as Partial<ProbeCache> | null;
    const {bootId, filesystems} = known ?? {};
    return bootId === nothing.bootId && typeof filesystems === 'object' && filesystems !== null ? {bootId, filesystems} : nothing;
  } catch {
    return nothing;
  }
}

/**
 * Whether and how this machine can mount indexed layers below `root`. It mounts an empty one, once for each boot and filesystem,
 * because not all filesystems can be mounted from. `stateDir` holds the result.
 *
 * @param root of a store; it need not exist yet
 */
export function probeErofs(stateDir: string, root: string): ErofsSupport {
  if (isRootless()) return {backing: undefined, reason: 'only root of the machine may mount them'};
  const file = runtimeStatePath.erofs(stateDir);
  const existing = nearestExisting(root);
  const filesystem = String(statSync(existing).dev);
  const known = readProbeCache(file).filesystems[filesystem];
  if (known?.backing === 'files' || known?.backing === 'loop') return {backing: known.backing, reason: String(known.reason)};
  if (known?.backing === 'none') return {backing: undefined, reason: String(known.reason)};
  const scratch = createScratch(existing);
  // On a read-only filesystem another one is probed, and the result is not stored.
  if (scratch === undefined) return probeByMounting(mkdtempSync('/tmp/berth-erofs-'));
  const {backing = 'none', reason, isLasting} = probeByMounting(scratch);
  // A full disk is a passing state.
  if (backing === 'none' && (!isLasting || isNearlyFull(existing))) return {backing: undefined, reason};
  try {
    const {bootId, filesystems} = readProbeCache(file);
    writeAtomic(file, `${JSON.stringify({bootId, filesystems: {...filesystems, [filesystem]: {backing, reason}}})}\n`, {sync: false});
  } catch {
    // Without permission to write the result, the next command probes again.
  }
  return {backing: backing === 'none' ? undefined : backing, reason};
}

/** @returns `undefined` when it cannot be created */
function createScratch(directory: string): string | undefined {
  const scratch = temporaryName(join(directory, 'probe'));
  try {
    mkdirSync(scratch, {mode: 0o700});
    return scratch;
  } catch {
    return undefined;
  }
}

interface ProbeResult extends ErofsSupport {
  /** Whether the result stays the same for this boot, because it depends on the kernel only. */
  readonly isLasting: boolean;
}

/** Exit status of mount(8) when the kernel refuses. */
const MOUNT_REFUSED = 32;

/** Whether the kernel has EROFS; valid after an attempt to mount one, which loads the module. */
const kernelHasErofs = (): boolean => /\terofs$/m.test(readIfPresent('/proc/filesystems') ?? '');

/** Whether this process may open a free loop device. A lack is a passing state: all may be in use, or the module may not be loaded. */
function hasFreeLoopDevice(): boolean {
  try {
    const {status, stdout} = runSync('losetup', ['--find'], {package: 'util-linux'});
    if (status !== 0) return false;
    accessSync(stdout.toString().trim(), constants.R_OK);
    return true;
  } catch {
    return false;
  }
}

const TAR_BYTES = 1024;
const BLOCK = 512;
/** Bytes of an empty index that are not zero, without the number of its blocks: offset, hex digits. */
const EMPTY_INDEX = `1024 e2e1f5e0 1032 02 1036 09 1038 28 1040 01 1104 08 1110 01 1112 09 1216 02 1280 05 1284 ed41 1288 1b
  1300 01 1324 02 1344 28 1352 18 1354 02 1356 28 1364 19 1366 02 1368 2e2e2e`;
const EMPTY_INDEX_BYTES = 1371;
/** Offsets of the number of its blocks: in the superblock, and as the address of the tar. */
const BLOCK_COUNTS = [1060, 1220];

/**
 * The index of a tar of `TAR_BYTES` without entries, as archive/erofs-index.ts writes it. Many commands load this file, and they
 * need not load that one.
 *
 * @param alignment of the index's length, in bytes
 */
export function emptyIndex(alignment: number): Buffer {
  const bytes = Buffer.alloc(Math.ceil(EMPTY_INDEX_BYTES / alignment) * alignment);
  for (const [, offset, hex] of EMPTY_INDEX.matchAll(/(\d+) ([0-9a-f]+)/g)) bytes.write(hex!, Number(offset), 'hex');
  for (const offset of BLOCK_COUNTS) bytes.writeUInt32LE(bytes.length / BLOCK, offset);
  return bytes;
}

/** @param scratch an empty directory; it is removed */
function probeByMounting(scratch: string): ProbeResult {
  const none = (reason: string, isLasting: boolean): ProbeResult => ({backing: undefined, reason, isLasting});
  const mounts = (backing: Backing, options: string, file: string): boolean => {
    const directory = join(scratch, backing);
    mkdirSync(directory);
    writeFileSync(join(directory, EROFS_TAR), Buffer.alloc(TAR_BYTES));
    writeIndex(directory, backing, (alignment) => [emptyIndex(alignment)]);
    const mount = `mount -t erofs -o ro,${options} ${file} .`;
    const isolated = ['--mount', '--propagation', 'private', 'sh', '-c', mount];
    const {status} = runSync('unshare', isolated, {package: 'util-linux', cwd: directory});
    if (status !== 0 && status !== MOUNT_REFUSED) throw new ErrdefsError('resource_exhausted', `mount failed with status ${status}`);
    return status === 0;
  };
  try {
    if (mounts('files', `device=${EROFS_TAR}`, EROFS_INDEX)) return {backing: 'files', reason: '', isLasting: true};
    const reason =
      'the kernel cannot mount EROFS images from files on this filesystem: it is older than 6.12, was built without that, or the filesystem does not support it';
    const isFree = hasFreeLoopDevice();
    if (mounts('loop', 'loop', EROFS_IMAGE)) return {backing: 'loop', reason, isLasting: true};
    // With a free loop device before and after, the kernel itself refuses.
    return none(`${reason}; nor can it from loop devices`, !kernelHasErofs() || (isFree && hasFreeLoopDevice()));
  } catch (err) {
    // A program that is missing can be installed at any time.
    if (hasCode(err, 'unavailable')) return none(`${isErrdefs(err) ? err.details?.program : 'a program'} is not installed`, false);
    if (hasCode(err, 'resource_exhausted')) return none((err as Error).message, false);
    throw fromErrno(err, `probe ${scratch}`);
  } finally {
    try {
      removeTree(scratch);
    } catch {
      // A collection removes it once this process has ended.
    }
  }
}
