/**
 * Unpacked trees, shared by all namespaces. A layer of an image is a cache of a durable blob: it is not synced, is
 * trusted within the boot that made it, and rebuilt from its blob after a power loss. What a user wrote is no cache.
 */
import {existsSync, lstatSync, mkdirSync, readdirSync, rmSync} from 'node:fs';
import {join} from 'node:path';
import {ErrdefsError, fromErrno} from '../errdefs.ts';
import {listIfPresent, readIfPresent, renameInto, writeAtomic} from '../fs/durable.ts';
import {bootId, formatIdentity, liveness, ownIdentity, parseIdentity} from '../fs/process.ts';
import type {Digest} from '../oci/descriptor.ts';
import type {Layout} from './layout.ts';

export interface LayerInfo {
  readonly version: 1;
  readonly snapshotter: string;
  /** What it was unpacked from; absent for a user's own tree. */
  readonly diffID?: Digest;
  /** The boot that made it. */
  readonly bootId: string;
  /** Known to be on the disk whole, whatever happened since. */
  readonly durable: boolean;
}

export interface TreeUsage {
  /** Bytes on disk. */
  readonly size: number;
  readonly inodes: number;
}

let counter = 0;
const uniqueName = (): string => `${formatIdentity(ownIdentity())}.${Date.now().toString(36)}.${++counter}`;

export class LayerStore {
  readonly #layout: Layout;

  constructor(layout: Layout) {
    this.#layout = layout;
  }

  /** The layer's own directory: `layer.json`, and the trees that its snapshotter keeps in it. */
  path(id: string): string {
    return this.#layout.layer(id);
  }

  info(id: string): LayerInfo | undefined {
    const file = join(this.path(id), 'layer.json');
    const text = readIfPresent(file);
    if (text === undefined) return undefined;
    try {
      const info = JSON.parse(text) as LayerInfo;
      return info.version === 1 && typeof info.bootId === 'string' ? info : undefined;
    } catch {
      return undefined; // torn by a power loss: then the layer is not to be trusted either
    }
  }

  /** Whether the layer is here and can be believed: made in this boot, or known to be on the disk, or a user's own tree. */
  isUsable(id: string): boolean {
    const info = this.info(id);
    return info !== undefined && (info.durable || info.bootId === bootId() || info.diffID === undefined);
  }

  list(): readonly string[] {
    return listIfPresent(this.#layout.layers);
  }

  /** An empty private directory in which a layer is made; swept when this process is gone. */
  createWork(): string {
    const directory = join(this.#layout.work, uniqueName());
    try {
      mkdirSync(directory, {recursive: true, mode: 0o700});
    } catch (err) {
      throw fromErrno(err, `state directory ${this.#layout.root}`);
    }
    return directory;
  }

  /**
   * Gives a layer that was made in `work` its name. One that is there already and can be believed is left, and `work`
   * removed: nobody can tell the two apart.
   */
  publish(work: string, id: string, info: Pick<LayerInfo, 'snapshotter' | 'diffID'>): void {
    try {
      if (this.isUsable(id)) {
        rmSync(work, {recursive: true, force: true});
        return;
      }
      const full: LayerInfo = {version: 1, ...info, bootId: bootId(), durable: false};
      writeAtomic(join(work, 'layer.json'), `${JSON.stringify(full)}\n`, {sync: false});
      if (this.list().includes(id)) this.discard(id);
      renameInto(work, this.path(id));
    } catch (err) {
      throw fromErrno(err, `layer ${id}`);
    }
  }

  /** Moves a layer out of sight, if it is there; `emptyTrash` gives its space back. */
  discard(id: string): void {
    moveToTrash(this.path(id), this.trashName());
  }

  /** A name in the trash that nobody else uses. */
  trashName(): string {
    return join(this.#layout.trash, uniqueName());
  }

  /** Deletes what was moved to the trash, by whomever. Outside the lock: it may take long, and two may do it at once. */
  emptyTrash(): void {
    for (const name of listIfPresent(this.#layout.trash)) rmSync(join(this.#layout.trash, name), {recursive: true, force: true});
  }

  /** Moves to the trash what dead processes left half-made. */
  sweepWork(): void {
    for (const name of listIfPresent(this.#layout.work)) {
      const owner = parseIdentity(name);
      if (owner !== undefined && liveness(owner) !== 'dead') continue;
      moveToTrash(join(this.#layout.work, name), this.trashName()); // another sweeper may have been first
    }
  }
}

/** Renames `path` to `trash`; one that is not there is success. */
export function moveToTrash(path: string, trash: string): void {
  if (!existsSync(path)) return;
  try {
    renameInto(path, trash);
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code !== 'ENOENT') throw fromErrno(err, path);
  }
}

/** Bytes on disk and inodes of a tree; a file with several names counts once. @throws data_loss it is not there */
export function treeUsage(root: string): TreeUsage {
  const seen = new Set<number>();
  let size = 0;
  const visit = (path: Buffer): void => {
    const stat = lstatSync(path);
    if (seen.has(stat.ino)) return;
    seen.add(stat.ino);
    size += stat.blocks * 512;
    if (!stat.isDirectory()) return;
    for (const name of readdirSync(path, {encoding: 'buffer'})) visit(Buffer.concat([path, Buffer.from('/'), name]));
  };
  try {
    visit(Buffer.from(root));
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code === 'ENOENT') throw new ErrdefsError('data_loss', `tree ${root} is not on disk`, {cause: err});
    throw fromErrno(err, `tree ${root}`);
  }
  return {size, inodes: seen.size};
}
