/**
 * A thread's part of a layer: what was inflated is hashed for the diff ID, and kept as a tar or made into a tree. Another
 * thread inflates the next bytes meanwhile. Synchronous; layers of one thread take turns slot by slot.
 */
import {closeSync, openSync, readSync, rmSync, writeSync} from 'node:fs';
import {join} from 'node:path';
import {type Applier, type ApplyResult, createApplier} from '../../archive/apply.ts';
import {createErofsIndex, type ErofsIndex, type ImpliedParent} from '../../archive/erofs-index.ts';
import {createTarReader, type TarReader} from '../../archive/tar.ts';
import {ErrdefsError, fromErrno} from '../../errdefs.ts';
import {FreeSpaceGuard} from '../../fs/free-space.ts';
import type {Digest} from '../../oci/descriptor.ts';
import {createHash} from '../../oci/hash.ts';
import {type Backing, EROFS_TAR} from '../../store/erofs.ts';
import {type LayerForm, noteMarks} from '../../store/snapshotters.ts';
import {type ThreadError, toThreadError} from './errors.ts';
import {writeLayerIndex} from './layer-index.ts';
import {type Ring, release, slotOf, stop} from './ring.ts';
import {inTurns, type Port} from './yielding-port.ts';

export interface LayingJob {
  /** The object, for messages: `layer sha256:…`. */
  readonly what: string;
  /** The layer's directory; its tree is made in `fs` in it. */
  readonly directory: string;
  readonly form: LayerForm;
  /** For the form `erofs`. */
  readonly backing?: Backing;
  /** Trees below, nearest first; absent while they are not known. */
  readonly lowers?: readonly string[];
  readonly diffID: Digest;
}

/** What became of a layer. */
export interface Laid {
  /** Absent when nothing was extracted: the layer was only stored, or indexed. */
  readonly applied?: ApplyResult;
  /** Present when the layer's index needs attributes from the layers below. */
  readonly impliedParents?: readonly ImpliedParent[];
  readonly warnings: readonly string[];
}

/** From the thread that inflates: a number is the length of the next slot's bytes. */
export type ToLaying = number | 'end' | 'close';

/** The answer to `end`; or before it, when nothing more is taken. */
export type FromLaying = {readonly laid: Laid; readonly error?: undefined} | {readonly laid?: undefined; readonly error: ThreadError};

/** Lays out one layer, from the slots of a ring. */
export function serveLaying(job: LayingJob, ring: Ring, port: Port<FromLaying, ToLaying>): void {
  let laying: Laying | undefined;
  const end = (): void => {
    laying?.close();
    laying = undefined;
  };
  const fail = (err: unknown): void => {
    end();
    stop(ring);
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
    laying = new Laying(job);
  });
  let taken = 0;
  inTurns(port, (message) => {
    if (message === 'close') {
      end();
      port.close();
    } else if (message === 'end') {
      attempt(() => {
        const laid = laying?.end();
        if (laid !== undefined) port.postMessage({laid});
        end();
      });
    } else {
      attempt(() => laying?.write(slotOf(ring, taken % ring.slots, message)));
      taken++;
      release(ring);
    }
  });
}

/** Where an inflated layer goes. */
interface Target {
  write(chunk: Uint8Array): void;
  end(): Pick<Laid, 'applied' | 'impliedParents'>;
  close(): void;
}

class Laying {
  readonly #job: LayingJob;
  readonly #hash = createHash('sha256');
  readonly #room: FreeSpaceGuard;
  readonly #target: Target;
  readonly #warnings: string[] = [];
  #size = 0;

  constructor(job: LayingJob) {
    this.#job = job;
    // How large a layer becomes nobody says before it has.
    this.#room = new FreeSpaceGuard(job.directory, `${job.what}: unpacking`);
    this.#target = openTarget(job, (message) => this.#warnings.push(message));
  }

  write(chunk: Uint8Array): void {
    this.#room.check(this.#size);
    this.#hash.update(chunk);
    this.#target.write(chunk);
    this.#size += chunk.length;
  }

  /** @throws failed_precondition it is not the layer that the image's config names */
  end(): Laid {
    const {what, diffID: expected} = this.#job;
    const diffID = `sha256:${this.#hash.digest('hex')}`;
    if (diffID !== expected)
      throw new ErrdefsError('failed_precondition', `${what} unpacks to ${diffID}, but the image's config says ${expected}`);
    const end = this.#target.end();
    if (end.applied?.hasMarks === true) noteMarks(this.#job.directory);
    return {...end, warnings: this.#warnings};
  }

  close(): void {
    this.#target.close();
  }
}

function openTarget({directory, form, backing, lowers}: LayingJob, warn: (message: string) => void): Target {
  const applier = (): Applier =>
    createApplier({
      root: join(directory, 'fs'),
      form: form === 'plain' ? 'plain' : 'overlay',
      ...(lowers === undefined ? {} : {lowers}),
      warn,
    });
  // With the layers below at hand a layer is there to be extracted: it was found to need them.
  if (backing !== undefined && lowers === undefined) return new IndexedTarget(directory, backing, applier);
  const tree = applier();
  return {write: (chunk) => tree.write(chunk), end: () => ({applied: tree.end()}), close: () => tree.abort()};
}

/** Bytes read from a tar at a time. */
const CHUNK = 256 << 10;
/** Bytes written at a time: on some filesystems larger writes are slower. */
const MAX_WRITE = 128 << 10;

/** Keeps the tar as it is and indexes it; one that an index would not do right is extracted at the end. */
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

  end(): Pick<Laid, 'applied' | 'impliedParents'> {
    this.#reader.end();
    // Some writers leave out the last padding; the kernel does not read half a block.
    const isWhole = this.#size >= this.#reader.entriesEnd;
    if (this.#index.reasons.size > 0 || !isWhole) return {applied: this.#extract()};
    const impliedParents = writeLayerIndex(this.#directory, this.#backing, this.#index, this.#size);
    return impliedParents.length === 0 ? {} : {impliedParents};
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
