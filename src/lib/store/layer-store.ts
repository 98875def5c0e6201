/**
 * Unpacked layers, shared by all namespaces. A layer of an image is a cache of its blob: it is not synced, trusted only within the boot
 * that made it, and unpacked again after a power loss. A user's own tree is no cache.
 */
import {existsSync, lstatSync, realpathSync, renameSync, rmdirSync, statSync} from 'node:fs';
import {join} from 'node:path';
import {quoteWord} from '../berth-command.ts';
import {ErrdefsError, fromErrno, hasCode, isErrdefs} from '../errdefs.ts';
import {
  discardTree,
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
import {Housekeeping} from './cleanup-warnings.ts';
import {indexedDefect, indexedFiles} from './indexed-layer.ts';
import type {Layout} from './layout.ts';

export interface LayerInfo {
  readonly version: 1;
  readonly snapshotter: string;
  /** Diff ID of the unpacked blob; absent for a user's own tree. */
  readonly diffID?: Digest;
  /** Boot in which the layer was made. */
  readonly bootId: string;
  /** The whole layer is synced and survives a power loss. */
  readonly durable: boolean;
  /** File sizes of an indexed layer, in bytes. */
  readonly files?: Readonly<Record<string, number>>;
}

const LAYER_INFO = 'layer.json';
/** Tree of an extracted layer, or of a user. */
const TREE = 'fs';

/** Why a layer cannot be used. */
export interface LayerDefect {
  /** `suspect`: the layer may be intact. */
  readonly severity: 'damage' | 'suspect';
  /** Message fragment. */
  readonly problem: string;
}

/** Whether a name has the form that snapshotters give to layers. */
export const isLayerName = (name: string): boolean => /^[a-z]+-(?:sha\d+|chain|own|one)-/.test(name);

/** A new ID for the writable tree of a snapshot, as opposed to an unpacked layer. */
export const ownLayerName = (snapshotter: string): string => `${snapshotter}-own-${randomHex(12)}`;

export const isOwnLayer = (id: string): boolean => /^[a-z]+-own-/.test(id);

export class LayerStore {
  readonly #layout: Layout;
  readonly #housekeeping: Housekeeping;
  /** Whether the kernel can rename from `work/` to `layers/`; undefined before the first layer. */
  #canRenameWork: boolean | undefined;

  constructor(layout: Layout, housekeeping = new Housekeeping()) {
    this.#layout = layout;
    this.#housekeeping = housekeeping;
  }

  /** Directory of a layer: `layer.json`, and the files of its snapshotter. */
  path(id: string): string {
    return this.#layout.layer(id);
  }

  /** Where a container's layer keeps the volumes that end with it, beside its tree. */
  ownVolumes(id: string): string {
    return join(this.path(id), 'volumes');
  }

  info(id: string): LayerInfo | undefined {
    try {
      return readInfo(this.path(id));
    } catch (err) {
      throw fromErrno(err, `layer ${id}`);
    }
  }

  /** Whether the layer is complete and trusted; see `defect`. */
  isUsable(id: string): boolean {
    return this.defect(id) === undefined;
  }

  /** Why a layer is unusable, without reading all its bytes; `undefined` when it is usable. */
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

  /** All layers, sorted. An entry with neither a layer's name nor a valid layer.json was not created by berth. */
  list(): readonly string[] {
    return listIfPresent(this.#layout.layers).filter((name) => isLayerName(name) || (!isTemporary(name) && this.info(name) !== undefined));
  }

  /** Creates an empty directory for an unpublished layer. It is swept when this process is gone. */
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

  /** Removes the directory of an unpublished layer, as `discardTree`. */
  discardWork(directory: string): void {
    this.#housekeeping.attempt(`incomplete layer ${directory}`, () => discardTree(directory));
  }

  /** Tests the rename with an empty directory and renames it back. @returns false: `layers/` is on another filesystem */
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
   * Publishes a layer that was made in `work`. An existing trusted layer wins; ours is identical and is discarded.
   *
   * @param options.sync sync the names; the trees are synced only by `sync`
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

  /** @returns false when the layer exists: the kernel does not replace a non-empty directory */
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

  /** Discards an unusable layer. If another process has replaced it with a trusted one meanwhile, that one is put back. */
  #discardUnusable(id: string): void {
    const trash = this.#moveAway(this.path(id), (pinned) => isTrusted(readInfo(pinned)));
    if (trash !== undefined && isTrusted(readInfo(trash))) this.#rename(trash, id);
  }

  /**
   * Image layers that are trusted only in this boot.
   *
   * @param minAgeMs minimum age in milliseconds; a layer from the future, before the clock was set back, counts as old
   * @returns by ID, a stamp that distinguishes the layer from a later one of the same ID
   */
  unsynced(minAgeMs: number): ReadonlyMap<string, string> {
    const now = Date.now();
    const found = new Map<string, string>();
    for (const id of this.list()) {
      const info = this.info(id);
      if (info === undefined || info.durable || info.diffID === undefined || info.bootId !== bootId()) continue;
      const made = this.#stamp(id);
      if (made === undefined) continue;
      const age = now - made.mtimeMs;
      if (age < 0 || age >= minAgeMs) found.set(id, made.stamp);
    }
    return found;
  }

  /** Syncs the filesystem of the layers in one call; a tree would need one call per file. */
  sync(): void {
    if (!existsSync(this.#layout.layers)) return;
    const {status, stderr} = runSync('sync', ['--file-system', this.#layout.layers], {package: 'coreutils'});
    if (status !== 0) throw new ErrdefsError('data_loss', `sync of ${this.#layout.layers} ended with status ${status}: ${stderr.trim()}`);
  }

  /**
   * Marks a synced layer as durable, so that it survives a reboot. The caller holds the store's lock and syncs again afterwards.
   *
   * @param stamp from `unsynced`, taken before the sync
   * @returns false when the layer is gone or was replaced meanwhile
   */
  markDurable(id: string, stamp: string): boolean {
    const info = this.info(id);
    if (info === undefined || this.#stamp(id)?.stamp !== stamp) return false;
    this.#writeInfo(id, {...info, durable: true}, false);
    return true;
  }

  infoFile(id: string): string {
    return join(this.path(id), LAYER_INFO);
  }

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

  /** Replaces a layer by the one in `directory`, which has a layer.json. The caller holds the store's lock. */
  replace(id: string, directory: string): void {
    this.discard(id);
    try {
      renameInto(directory, this.path(id));
    } catch (err) {
      throw fromErrno(err, `layer ${id}`);
    }
  }

  /** Moves a layer to the trash, if it exists; `emptyTrash` frees its space. */
  discard(id: string): void {
    try {
      this.#moveAway(this.path(id));
    } catch (err) {
      throw fromErrno(err, `layer ${id}`);
    }
  }

  trashName(): string {
    return join(this.#layout.trash, uniqueName());
  }

  /**
   * Moves an entry to the trash; a missing entry is success. Where the kernel cannot rename it (the trash is on another filesystem, or the
   * directory lies in the lower layer of an overlay), the entry is deleted in place.
   *
   * @param unless see `removeInPlace`
   * @returns its path in the trash; `undefined` when it is gone
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
   * Deletes what this process or a dead one has moved to the trash. It may take long, so call it without the lock. An entry that cannot be
   * deleted, or has a mount point in it, stays with a warning.
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
      // A durable layer must not come back partly deleted after a power loss: sync its move to the trash first.
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

  /** Moves unpublished layers of dead processes to the trash. */
  sweepWork(): void {
    const {work, layers} = this.#layout;
    for (const name of listIfPresent(work)) {
      const owner = parseIdentity(name);
      if (owner === undefined || liveness(owner) !== 'dead') continue;
      // Another sweeper may have been faster.
      this.#housekeeping.attempt(`incomplete layer ${join(work, name)}`, () => void this.#moveAway(join(work, name)));
    }
    this.#housekeeping.attempt(`incomplete layers in ${layers}`, () => sweepTemporary(layers));
  }
}

/** @throws failed_precondition something is mounted in `path`: its files are not ours to delete */
function assertNotMounted(path: string, [point]: readonly string[]): void {
  if (point !== undefined)
    throw new ErrdefsError('failed_precondition', `${path}: ${point} is a mount point`, {hint: `unmount it: umount ${quoteWord(point)}`});
}

const isTrusted = (info: LayerInfo | undefined): boolean =>
  info !== undefined && (info.durable || info.bootId === bootId() || info.diffID === undefined);

function readInfo(directory: string): LayerInfo | undefined {
  let text: string | undefined;
  try {
    text = readIfPresent(join(directory, LAYER_INFO));
  } catch (err) {
    // Not a readable file: the same as no layer.json.
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
    return undefined; // torn by a power loss: the layer is not trusted either
  }
}

/** Renames `path` to `trash`. @returns false when `path` is missing */
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
