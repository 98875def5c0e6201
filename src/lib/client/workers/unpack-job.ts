/**
 * The worker side of unpacking: hashes the inflated bytes for the diff ID, and indexes or extracts them. Another thread inflates the
 * next bytes meanwhile. It is synchronous; jobs of a thread alternate slot by slot.
 */
import {closeSync, openSync, readSync, rmSync, writeSync} from 'node:fs';
import {join} from 'node:path';
import {type Applier, type ApplyResult, createApplier} from '../../archive/apply.ts';
import {createErofsIndex, type ErofsIndex, type ImplicitParent} from '../../archive/erofs-index.ts';
import {createTarReader, type TarReader} from '../../archive/tar.ts';
import {ErrdefsError, fromErrno} from '../../errdefs.ts';
import {FreeSpaceGuard} from '../../fs/free-space.ts';
import type {Digest} from '../../oci/descriptor.ts';
import {createHash} from '../../oci/hash.ts';
import {type Backing, EROFS_TAR} from '../../store/indexed-layer.ts';
import type {Room} from '../../store/quota.ts';
import {type LayerFormat, noteWhiteouts} from '../../store/snapshotters.ts';
import {type ThreadError, toThreadError} from './errors.ts';
import {writeLayerIndex} from './layer-index.ts';
import {type Ring, releaseSlot, slotOf, stopReading} from './ring.ts';
import {type Port, serialize} from './yielding-port.ts';

export interface UnpackJob {
  /** The object, for messages: `layer sha256:…`. */
  readonly what: string;
  /** The layer's directory; a tree is extracted to `fs` in it. */
  readonly directory: string;
  readonly form: LayerFormat;
  /** For the form `erofs`. */
  readonly backing?: Backing;
  /** Trees of the lower layers, topmost first; absent while they are unknown. */
  readonly lowers?: readonly string[];
  /** Most bytes that it may have when it is inflated, and why; absent: as many as there is space for. */
  readonly room?: Room;
  /** Expected; absent while the image's config is unknown: the caller compares then. */
  readonly diffID?: Digest;
}

/** How a layer was unpacked. */
export interface UnpackResult {
  /** Digest of the inflated bytes. */
  readonly diffID: Digest;
  /** Absent for a layer that was indexed, not extracted. */
  readonly applied?: ApplyResult;
  /** Directories whose attributes the index still needs from lower layers; absent when there are none. */
  readonly implicitParents?: readonly ImplicitParent[];
  readonly warnings: readonly string[];
}

/** From the inflating thread: a number is the length of the next slot's bytes. */
export type ToUnpacker = number | 'end' | 'close';

/** The answer to `end`; an error may come before it. */
export type FromUnpacker =
  | {readonly result: UnpackResult; readonly error?: undefined}
  | {readonly result?: undefined; readonly error: ThreadError};

/** Unpacks one layer from the slots of a ring. */
export function serveUnpacking(job: UnpackJob, ring: Ring, port: Port<FromUnpacker, ToUnpacker>): void {
  let unpacker: LayerUnpacker | undefined;
  const end = (): void => {
    unpacker?.close();
    unpacker = undefined;
  };
  const fail = (err: unknown): void => {
    end();
    stopReading(ring);
    port.postMessage({error: toThreadError(err)});
  };
  const attempt = (action: () => void): void => {
    try {
      action();
    } catch (err) {
      fail(err);
    }
  };
  attempt(() => {
    unpacker = new LayerUnpacker(job);
  });
  let taken = 0;
  serialize(port, (message) => {
    if (message === 'close') {
      end();
      port.close();
    } else if (message === 'end') {
      attempt(() => {
        const result = unpacker?.end();
        if (result !== undefined) port.postMessage({result});
        end();
      });
    } else {
      attempt(() => unpacker?.write(slotOf(ring, taken % ring.slots, message)));
      taken++;
      releaseSlot(ring);
    }
  });
}

/** Receives an inflated layer: extracts or indexes it. */
interface Target {
  write(chunk: Uint8Array): void;
  end(): Pick<UnpackResult, 'applied' | 'implicitParents'>;
  close(): void;
}

/** The error for a layer whose inflated bytes are not those that its image's config names. */
const wrongDiffID = (what: string, diffID: Digest, expected: Digest): ErrdefsError =>
  new ErrdefsError('failed_precondition', `${what} unpacks to ${diffID}, but the image's config says ${expected}`);

class LayerUnpacker {
  readonly #job: UnpackJob;
  readonly #hash = createHash('sha256');
  readonly #freeSpace: FreeSpaceGuard;
  readonly #target: Target;
  readonly #warnings: string[] = [];
  #size = 0;

  constructor(job: UnpackJob) {
    this.#job = job;
    // The size of an inflated layer is unknown in advance.
    this.#freeSpace = new FreeSpaceGuard(job.directory, `${job.what}: unpacking`);
    this.#target = openTarget(job, (message) => this.#warnings.push(message));
  }

  write(chunk: Uint8Array): void {
    this.#freeSpace.check(this.#size);
    const {what, room} = this.#job;
    if (room !== undefined && this.#size + chunk.length > room.bytes)
      throw new ErrdefsError('resource_exhausted', `${what}: unpacking stopped after ${this.#size} B: ${room.reason}`, {
        details: {quota: room.quota},
      });
    this.#hash.update(chunk);
    this.#target.write(chunk);
    this.#size += chunk.length;
  }

  /** @throws failed_precondition the diff ID is not the one in the image's config */
  end(): UnpackResult {
    const {what, diffID: expected} = this.#job;
    const diffID = `sha256:${this.#hash.digest('hex')}` as Digest;
    if (expected !== undefined && diffID !== expected) throw wrongDiffID(what, diffID, expected);
    const end = this.#target.end();
    if (end.applied?.hasWhiteouts === true) noteWhiteouts(this.#job.directory);
    return {...end, diffID, warnings: this.#warnings};
  }

  close(): void {
    this.#target.close();
  }
}

function openTarget({directory, form, backing, lowers}: UnpackJob, warn: (message: string) => void): Target {
  const applier = (): Applier =>
    createApplier({
      root: join(directory, 'fs'),
      form: form === 'plain' ? 'plain' : 'overlay',
      ...(lowers === undefined ? {} : {lowers}),
      warn,
    });
  // Lower layers are given only for a layer that an index cannot represent without them.
  if (backing !== undefined && lowers === undefined) return new IndexedTarget(directory, backing, applier);
  const tree = applier();
  return {write: (chunk) => tree.write(chunk), end: () => ({applied: tree.end()}), close: () => tree.abort()};
}

/** Bytes per read of a tar. */
const CHUNK = 256 << 10;
/** Bytes per write: on some filesystems larger writes are slower. */
const MAX_WRITE = 128 << 10;

/** Stores the tar and indexes it. At the end it extracts a tar that an index cannot represent. */
class IndexedTarget implements Target {
  readonly #directory: string;
  readonly #backing: Backing;
  readonly #applier: () => Applier;
  readonly #index: ErofsIndex = createErofsIndex();
  readonly #reader: TarReader = createTarReader(this.#index);
  #size = 0;
  #fd: number;

  constructor(directory: string, backing: Backing, applier: () => Applier) {
    this.#directory = directory;
    this.#backing = backing;
    this.#applier = applier;
    try {
      this.#fd = openSync(join(directory, EROFS_TAR), 'wx+', 0o600);
    } catch (err) {
      throw fromErrno(err, join(directory, EROFS_TAR));
    }
  }

  write(chunk: Uint8Array): void {
    try {
      for (let done = 0; done < chunk.length; ) done += writeSync(this.#fd, chunk, done, Math.min(chunk.length - done, MAX_WRITE));
    } catch (err) {
      throw fromErrno(err, join(this.#directory, EROFS_TAR));
    }
    this.#size += chunk.length;
    this.#reader.write(chunk);
  }

  end(): Pick<UnpackResult, 'applied' | 'implicitParents'> {
    this.#reader.end();
    // Some tar writers omit the last padding, and the kernel does not read a partial block.
    const isWhole = this.#size >= this.#reader.entriesEnd;
    if (this.#index.reasons.size > 0 || !isWhole) return {applied: this.#extract()};
    const implicitParents = writeLayerIndex(this.#directory, this.#backing, this.#index, this.#size);
    return implicitParents.length === 0 ? {} : {implicitParents};
  }

  #extract(): ApplyResult {
    const tree = this.#applier();
    try {
      const buffer = Buffer.allocUnsafe(CHUNK);
      for (let at = 0, n = 0; ; at += n) {
        n = readSync(this.#fd, buffer, 0, CHUNK, at);
        if (n === 0) break;
        tree.write(buffer.subarray(0, n));
      }
      const applied = tree.end();
      rmSync(join(this.#directory, EROFS_TAR));
      return applied;
    } catch (err) {
      throw fromErrno(err, join(this.#directory, EROFS_TAR));
    } finally {
      tree.abort();
    }
  }

  close(): void {
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = -1;
  }
}
