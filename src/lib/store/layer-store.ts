/**
 * Unpacked trees, shared by all namespaces. A layer of an image is a cache of a durable blob: it is not synced, is
 * trusted within the boot that made it, and rebuilt from its blob after a power loss. What a user wrote is no cache.
 */
import {existsSync, lstatSync, realpathSync, renameSync, rmdirSync, statSync} from 'node:fs';
import {join} from 'node:path';
import {ErrdefsError, fromErrno, hasCode, isErrdefs} from '../errdefs.ts';
import {
  isTemporary,
  listIfPresent,
  makeDirectories,
  mountPointsBelow,
  readIfPresent,
  removeInPlace,
  removeTree,
  renameInto,
  sweepTemporary,
  syncPath,
  temporaryName,
  unlinkIfPresent,
  writeAtomic,
} from '../fs/durable.ts';
import {bootId, formatIdentity, liveness, ownIdentity, parseIdentity, uniqueName} from '../fs/process.ts';
import {runSync} from '../fs/spawn.ts';
import {type Digest, isDigest} from '../oci/descriptor.ts';
import {randomHex} from '../oci/hash.ts';
import {Housekeeping} from './housekeeping.ts';
import {indexedDefect, indexedFiles} from './indexed-layer.ts';
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
  /** Of a layer that is indexed, its files and their sizes in bytes. */
  readonly files?: Readonly<Record<string, number>>;
}

const LAYER_INFO = 'layer.json';
/** The directory of a layer that was extracted, and of a user's own. */
const TREE = 'fs';

/** Why a layer cannot be used. */
export interface LayerDefect {
  /** `suspect`: it may be whole. */
  readonly severity: 'damage' | 'suspect';
  /** In a few words. */
  readonly problem: string;
}

/** Whether an entry of `layers/` has a name as snapshotters give them. */
export const isLayerName = (name: string): boolean => /^[a-z]+-(?:sha\d+|chain|own)-/.test(name);

/** A new name for the tree of a snapshot that somebody writes, as against one that was unpacked from a blob. */
export const ownLayerName = (snapshotter: string): string => `${snapshotter}-own-${randomHex(12)}`;

export const isOwnLayer = (id: string): boolean => /^[a-z]+-own-/.test(id);

export class LayerStore {
  readonly #layout: Layout;
  readonly #housekeeping: Housekeeping;
  /** Whether what is made in `work/` can be renamed to `layers/`; unknown before the first layer. */
  #canRenameWork: boolean | undefined;

  constructor(layout: Layout, housekeeping = new Housekeeping()) {
    this.#layout = layout;
    this.#housekeeping = housekeeping;
  }

  /** The layer's own directory: `layer.json`, and the trees that its snapshotter keeps in it. */
  path(id: string): string {
    return this.#layout.layer(id);
  }

  info(id: string): LayerInfo | undefined {
    try {
      return readInfo(this.path(id));
    } catch (err) {
      throw fromErrno(err, `layer ${id}`);
    }
  }

  /** Whether the layer is here with all its files, and can be believed: see `defect`. */
  isUsable(id: string): boolean {
    return this.defect(id) === undefined;
  }

  /** Why a layer cannot be used, as far as one sees without reading all its bytes; `undefined` when it can. */
  defect(id: string): LayerDefect | undefined {
    const damage = (problem: string): LayerDefect => ({severity: 'damage', problem});
    const path = this.path(id);
    try {
      const stat = statSync(path, {throwIfNoEntry: false});
      if (stat === undefined) return damage('is missing');
      if (!stat.isDirectory()) return damage('is not a directory');
      const info = readInfo(path);
      const missing = indexedDefect(path, info?.files);
      if (missing === 'extracted' && !lstatSync(join(path, TREE), {throwIfNoEntry: false})?.isDirectory()) return damage('has no tree');
      if (missing !== undefined && missing !== 'extracted') return damage(missing);
      if (info === undefined) return {severity: 'suspect', problem: 'its layer.json is malformed'};
      if (isTrusted(info)) return undefined;
      return {severity: 'suspect', problem: 'was created in an earlier boot and may be incomplete on disk'};
    } catch (err) {
      const failure = fromErrno(err, 'cannot be read');
      if (!isErrdefs(failure) || hasCode(failure, 'resource_exhausted')) throw failure;
      return damage(failure.message.replace(/: [a-z ]+$/, ''));
    }
  }

  /** All layers, sorted. What has neither the name of one nor says what it is was not created by berth. */
  list(): readonly string[] {
    return listIfPresent(this.#layout.layers).filter((name) => isLayerName(name) || (!isTemporary(name) && this.info(name) !== undefined));
  }

  /** An empty private directory in which a layer is made; swept when this process is gone. */
  createWork(): string {
    const {work, layers, root} = this.#layout;
    try {
      if (this.#canRenameWork !== false) {
        const directory = join(work, uniqueName());
        makeDirectories(directory, {sync: false});
        this.#canRenameWork ??= this.#tryRename(directory);
        if (this.#canRenameWork) return directory;
        rmdirSync(directory);
      }
      const directory = temporaryName(join(layers, 'work'));
      makeDirectories(directory, {sync: false});
      return directory;
    } catch (err) {
      throw fromErrno(err, `state directory ${root}`);
    }
  }

  /** Tries it with an empty directory, which is back in its place on return. @returns false: `layers/` is on another filesystem */
  #tryRename(directory: string): boolean {
    const there = temporaryName(join(this.#layout.layers, 'work'));
    try {
      renameInto(directory, there);
    } catch (err) {
      if ((err as NodeJS.ErrnoException).code === 'EXDEV') return false;
      throw err;
    }
    renameSync(there, directory);
    return true;
  }

  /**
   * Gives a layer that was made in `work` its name. One that is there already and can be believed is left, and `work`
   * removed: nobody can tell the two apart.
   *
   * @param options.sync whether its names are on the disk on return; of what is in its trees only `sync` says so
   */
  publish(
    work: string,
    id: string,
    info: Pick<LayerInfo, 'snapshotter' | 'diffID'>,
    options: {readonly sync: boolean} = {sync: false},
  ): void {
    try {
      const files = indexedFiles(work);
      const full: LayerInfo = {
        version: 1,
        ...info,
        bootId: bootId(),
        durable: false,
        ...(Object.keys(files).length === 0 ? {} : {files}),
      };
      writeAtomic(join(work, LAYER_INFO), `${JSON.stringify(full)}\n`, options);
      while (!this.#rename(work, id, options)) {
        if (this.isUsable(id)) {
          this.#housekeeping.attempt(`layer ${id}`, () => removeTree(work));
          return;
        }
        this.#discardUnusable(id);
      }
    } catch (err) {
      throw fromErrno(err, `layer ${id}`);
    }
  }

  /** @returns false when there is one of that name: the kernel replaces no directory that has entries */
  #rename(work: string, id: string, options?: {readonly sync: boolean}): boolean {
    try {
      renameInto(work, this.path(id), options);
      return true;
    } catch (err) {
      const {code} = err as NodeJS.ErrnoException;
      if (code === 'ENOTEMPTY' || code === 'EEXIST' || code === 'ENOTDIR') return false;
      throw err;
    }
  }

  /** Another one who found the same layer unusable may have replaced it meanwhile: then that one is put back. */
  #discardUnusable(id: string): void {
    const trash = this.#moveAway(this.path(id), (pinned) => isTrusted(readInfo(pinned)));
    if (trash !== undefined && isTrusted(readInfo(trash))) this.#rename(trash, id);
  }

  /** Layers that are trusted in this boot only, by id, each with what tells it from a later one of that name. @param minAgeMs of the youngest, in milliseconds */
  unsynced(minAgeMs: number): ReadonlyMap<string, string> {
    const newest = Date.now() - minAgeMs;
    const found = new Map<string, string>();
    for (const id of this.list()) {
      const info = this.info(id);
      if (info === undefined || info.durable || info.diffID === undefined || info.bootId !== bootId()) continue;
      const made = this.#stamp(id);
      if (made !== undefined && made.mtimeMs <= newest) found.set(id, made.stamp);
    }
    return found;
  }

  /** Brings everything on the layers' filesystem to the disk: one call, where a tree would take one a file. */
  sync(): void {
    if (!existsSync(this.#layout.layers)) return;
    const {status, stderr} = runSync('sync', ['--file-system', this.#layout.layers], {package: 'coreutils'});
    if (status !== 0) throw new ErrdefsError('data_loss', `sync of ${this.#layout.layers} ended with status ${status}: ${stderr.trim()}`);
  }

  /**
   * Says of a layer that it is on the disk, so that it survives a reboot. The caller has synced it, holds the store's lock, and
   * syncs once more.
   *
   * @param stamp as `unsynced` gave it before the sync
   * @returns false when it is gone, or was replaced meanwhile
   */
  markDurable(id: string, stamp: string): boolean {
    const info = this.info(id);
    if (info === undefined || this.#stamp(id)?.stamp !== stamp) return false;
    this.#writeInfo(id, {...info, durable: true}, false);
    return true;
  }

  /** File that says what a layer is. */
  infoFile(id: string): string {
    return join(this.path(id), LAYER_INFO);
  }

  /** Says anew what a user's own tree is, where that was lost. */
  restoreOwnInfo(id: string, snapshotter: string): void {
    this.#writeInfo(id, {version: 1, snapshotter, bootId: bootId(), durable: false}, true);
  }

  #writeInfo(id: string, info: LayerInfo, sync: boolean): void {
    try {
      writeAtomic(join(this.path(id), LAYER_INFO), `${JSON.stringify(info)}\n`, {sync});
    } catch (err) {
      throw fromErrno(err, `layer ${id}`);
    }
  }

  #stamp(id: string): {readonly stamp: string; readonly mtimeMs: number} | undefined {
    try {
      const stat = statSync(join(this.path(id), LAYER_INFO), {throwIfNoEntry: false});
      return stat === undefined ? undefined : {stamp: `${stat.ino}:${stat.mtimeMs}`, mtimeMs: stat.mtimeMs};
    } catch (err) {
      if ((err as NodeJS.ErrnoException).code === 'ENOTDIR') return undefined;
      throw fromErrno(err, `layer ${id}`);
    }
  }

  /** Puts what was made in `directory`, with its layer.json, in the place of a layer. The caller holds the store's lock. */
  replace(id: string, directory: string): void {
    this.discard(id);
    try {
      renameInto(directory, this.path(id));
    } catch (err) {
      throw fromErrno(err, `layer ${id}`);
    }
  }

  /** Moves a layer out of sight, if it is there; `emptyTrash` gives its space back. */
  discard(id: string): void {
    try {
      this.#moveAway(this.path(id));
    } catch (err) {
      throw fromErrno(err, `layer ${id}`);
    }
  }

  /** A name in the trash that nobody else uses. */
  trashName(): string {
    return join(this.#layout.trash, uniqueName());
  }

  /**
   * Moves something to the trash; that it is not there is success. Where the kernel does not rename it – the trash is on another
   * filesystem, or the directory in the lower layer of an overlay – it is deleted in its place.
   *
   * @param unless as that of `removeInPlace`
   * @returns where it is now; `undefined` when it is gone
   */
  #moveAway(path: string, unless?: (pinned: string) => boolean): string | undefined {
    const trash = this.trashName();
    try {
      return moveToTrash(path, trash) ? trash : undefined;
    } catch (err) {
      if ((err as NodeJS.ErrnoException).code !== 'EXDEV') throw err;
    }
    if (lstatSync(path).isDirectory()) {
      assertNotMounted(path, mountPointsBelow(realpathSync(path)));
      removeInPlace(path, LAYER_INFO, {sync: readInfo(path)?.durable === true, ...(unless === undefined ? {} : {unless})});
    } else unlinkIfPresent(path);
    return undefined;
  }

  /**
   * Deletes what this process has moved to the trash, and what those left there that are gone. Outside the lock: it may take long.
   * What cannot be deleted stays, with a warning; so does what something is mounted on, whose files are another's.
   */
  emptyTrash(): void {
    const {trash, layers} = this.#layout;
    this.#housekeeping.attempt(`trash ${trash}`, () => {
      const own = `${formatIdentity(ownIdentity())}.`;
      const names = listIfPresent(trash).filter((name) => {
        const mover = parseIdentity(name);
        return name.startsWith(own) || mover === undefined || liveness(mover) !== 'alive';
      });
      if (names.length === 0) return;
      // What says of itself that it is whole, whatever happens, must not come back after a power loss without what is deleted here.
      if (names.some((name) => readInfo(join(trash, name))?.durable)) for (const directory of [layers, trash]) syncPath(directory);
      const real = realpathSync(trash);
      const mounted = mountPointsBelow(real);
      for (const name of names)
        this.#housekeeping.attempt(`trash ${trash}`, () => {
          const path = join(real, name);
          assertNotMounted(
            path,
            mounted.filter((at) => at === path || at.startsWith(`${path}/`)),
          );
          removeTree(path);
        });
    });
  }

  /** Moves to the trash what dead processes left half-made. */
  sweepWork(): void {
    const {work, layers} = this.#layout;
    for (const name of listIfPresent(work)) {
      const owner = parseIdentity(name);
      if (owner === undefined || liveness(owner) !== 'dead') continue;
      // Another sweeper may have been first.
      this.#housekeeping.attempt(`incomplete layer ${join(work, name)}`, () => void this.#moveAway(join(work, name)));
    }
    this.#housekeeping.attempt(`incomplete layers in ${layers}`, () => sweepTemporary(layers));
  }
}

/** @param points mount points in `path`: what is behind them is not ours to delete @throws failed_precondition */
function assertNotMounted(path: string, [point]: readonly string[]): void {
  if (point !== undefined)
    throw new ErrdefsError('failed_precondition', `${path}: ${point} is a mount point`, {hint: `unmount it: umount ${point}`});
}

const isTrusted = (info: LayerInfo | undefined): boolean =>
  info !== undefined && (info.durable || info.bootId === bootId() || info.diffID === undefined);

function readInfo(directory: string): LayerInfo | undefined {
  let text: string | undefined;
  try {
    text = readIfPresent(join(directory, LAYER_INFO));
  } catch (err) {
    // Something else is in its place, or in the layer's, or the disk does not give it back: that says nothing.
    if (
      !['EISDIR', 'ENOTDIR', 'ELOOP'].includes((err as NodeJS.ErrnoException).code ?? '') &&
      !hasCode(err, 'data_loss') &&
      !hasCode(err, 'permission_denied')
    )
      throw err;
  }
  if (text === undefined) return undefined;
  try {
    const info = JSON.parse(text) as LayerInfo | null;
    const valid =
      info?.version === 1 &&
      [info.snapshotter, info.bootId].every((field) => typeof field === 'string') &&
      typeof info.durable === 'boolean' &&
      (info.diffID === undefined || isDigest(info.diffID)) &&
      (info.files === undefined || (typeof info.files === 'object' && info.files !== null));
    return valid ? info : undefined;
  } catch {
    return undefined; // torn by a power loss: then the layer is not to be trusted either
  }
}

/** Renames `path` to `trash`. @returns false when it is not there */
export function moveToTrash(path: string, trash: string): boolean {
  if (lstatSync(path, {throwIfNoEntry: false}) === undefined) return false;
  try {
    renameInto(path, trash);
    return true;
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code !== 'ENOENT') throw err;
    return false;
  }
}
