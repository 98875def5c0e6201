/**
 * Snapshots mounted on the host: the only mounts that outlive a command.
 *
 *     <state>/mounts/<id>/   mount.json, and while it is mounted l/ and m/ (see runtime/mount-plan.ts)
 *
 * The record is written first and removed last, so that whatever a killed process leaves is found through it. A lease, named after the
 * target as ctr's is, keeps the snapshot and its layers.
 */

import {createHash} from 'node:crypto';
import {mkdirSync, realpathSync, renameSync, rmSync, statSync} from 'node:fs';
import {join} from 'node:path';
import {berth} from '../../berth-command.ts';
import {ErrdefsError, fromErrno, hasCode, isErrdefs} from '../../errdefs.ts';
import {isTemporary, listIfPresent, readIfPresent, temporaryName, writeAtomic} from '../../fs/durable.ts';
import {isNamespacePinned, type MountInfo, mountNamespace, mountsInNamespace} from '../../fs/mountinfo.ts';
import {bootId, formatIdentity, liveness, ownIdentity, parseIdentity} from '../../fs/process.ts';
import {hasIntermediateMounts, hostMounter, removeMountDirectory, unmount, unmountBelow} from '../../runtime/host-mount.ts';
import {absoluteTarget, type Mount, planMounts} from '../../runtime/mount-plan.ts';
import {collect, isFormerMountLease, LEASE_MOUNT, MOUNT_ENDED} from '../../store/gc.ts';
import {runtimeStatePath} from '../../store/layout.ts';
import type {LeaseRecord} from '../../store/records.ts';
import {SnapshotStore} from '../../store/snapshots.ts';
import {getSnapshotter} from '../../store/snapshotters.ts';
import type {NamespaceTransaction, StoreTransaction, StoreView} from '../../store/transaction-types.ts';
import type {Context} from '../context.ts';
import {ensureUnpacked} from '../pull/ensure-unpacked.ts';
import type {HostMount, ImageMountOptions} from '../types/index.ts';
import {findImage, planLocally} from './find-image.ts';

/** Lifetime of an image's snapshot after its unmount, in milliseconds; as ctr's. */
const KEEP_MS = 24 * 3600_000;

const VERSION = 1;

/** `mount.json`. */
export interface MountRecord {
  /** Absolute path without symbolic links. */
  readonly target: string;
  /** Root of the store: several stores may share a state directory. */
  readonly root: string;
  readonly namespace: string;
  readonly snapshotter: string;
  readonly key: string;
  /** Name of the image; absent for a snapshot that the user had prepared. */
  readonly image?: string;
  readonly readOnly: boolean;
  /** Inode number of the mount namespace. */
  readonly mountNamespace: string;
  /** Identities of the processes that mount: the command, and its shell, which may outlive it. */
  readonly makers: readonly string[];
  /** Number of mounts at the target before this one. */
  readonly before: number;
  /** The mount that was made; absent until it is known. */
  readonly mounted?: MountInfo;
  /** RFC 3339, UTC. */
  readonly createdAt: string;
}

interface FoundRecord {
  readonly directory: string;
  readonly record: MountRecord;
}

const recordFile = (directory: string): string => join(directory, 'mount.json');

const writeRecord = (directory: string, record: MountRecord): void =>
  writeAtomic(recordFile(directory), `${JSON.stringify({version: VERSION, ...record})}\n`, {sync: false});

/** @returns `undefined` when it is no valid record: half-written, or of another version */
export function parseMountRecord(value: unknown): MountRecord | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  const {version, ...record} = value as {readonly version?: unknown} & Partial<MountRecord>;
  const {target, root, namespace, snapshotter, key, image = '', mountNamespace: seen, createdAt} = record;
  const texts = [target, root, namespace, snapshotter, key, image, seen, createdAt];
  const isRecord = version === VERSION && texts.every((text) => typeof text === 'string') && Array.isArray(record.makers);
  return isRecord ? (record as MountRecord) : undefined;
}

function readRecord(directory: string): MountRecord | undefined {
  try {
    return parseMountRecord(JSON.parse(readIfPresent(recordFile(directory)) ?? 'null'));
  } catch (err) {
    if (err instanceof SyntaxError) return undefined;
    // What the disk does not give back, or something else in its place, is no record either.
    const failure = fromErrno(err, `record of a mount in ${directory}`);
    if (!isErrdefs(failure) || hasCode(failure, 'resource_exhausted')) throw failure;
    return undefined;
  }
}

/** Directories of records, including incomplete ones of dead processes. */
function recordDirectories(stateDir: string): readonly string[] {
  const directory = runtimeStatePath.mounts(stateDir);
  return listIfPresent(directory).map((name) => join(directory, name));
}

function listRecords({store, stateDir}: Context): readonly FoundRecord[] {
  return recordDirectories(stateDir).flatMap((directory) => {
    const record = isTemporary(directory) ? undefined : readRecord(directory);
    return record === undefined || record.root !== store.layout.root ? [] : [{directory, record}];
  });
}

/** Whether a process that mounts it may still be alive. */
const isMaking = ({makers}: MountRecord): boolean =>
  makers.some((maker) => {
    const identity = parseIdentity(maker);
    return identity !== undefined && liveness(identity) !== 'dead';
  });

const bootOf = ({makers}: MountRecord): string | undefined => parseIdentity(makers[0] ?? '')?.bootId;

const isSame = (a: MountInfo, b: MountInfo | undefined): boolean => a.device === b?.device && a.root === b.root && a.type === b.type;

/** A record's mount, and whether it is the topmost at its target; `undefined` when it is not mounted. */
function findMounted(
  record: MountRecord,
  mounts: readonly MountInfo[],
): {readonly mounted: MountInfo; readonly onTop: boolean} | undefined {
  const mountsAtTarget = mounts.filter(({target}) => target === record.target);
  // Killed before the mount was recorded: any mount above the earlier ones is ours.
  const index = record.mounted === undefined ? record.before : mountsAtTarget.findLastIndex((mount) => isSame(mount, record.mounted));
  const mounted = mountsAtTarget[index];
  return mounted === undefined ? undefined : {mounted, onTop: index === mountsAtTarget.length - 1};
}

function stateOf(record: MountRecord): HostMount['state'] {
  if (bootOf(record) !== bootId()) return 'stale';
  const mounts = mountsInNamespace(record.mountNamespace);
  if (isMaking(record) && record.mounted === undefined) return 'mounting';
  if (mounts !== undefined) return findMounted(record, mounts) === undefined ? 'stale' : 'mounted';
  const sameProcesses = parseIdentity(record.makers[0]!)?.pidNamespace === ownIdentity().pidNamespace;
  // A mount namespace of another pid namespace, or one held open by a file, cannot be seen from here.
  return sameProcesses && !isNamespacePinned(record.mountNamespace) ? 'stale' : 'unknown';
}

function describe(record: MountRecord, state = stateOf(record)): HostMount {
  const {target, namespace, snapshotter, key, image, readOnly, createdAt} = record;
  return {target, namespace, snapshotter, key, ...(image === undefined ? {} : {image}), readOnly, state, createdAt};
}

export const listMounts = (context: Context, namespace: string): readonly HostMount[] =>
  listRecords(context)
    .filter(({record}) => record.namespace === namespace)
    .map(({record}) => describe(record));

/** Canonical path of a target directory. @throws not_found @throws invalid_argument it is not a directory */
function canonicalTarget(target: string): string {
  const path = absoluteTarget(target);
  const what = `directory ${JSON.stringify(target)}`;
  try {
    if (!statSync(path).isDirectory()) throw new ErrdefsError('invalid_argument', `${what} is not a directory`);
    return realpathSync(path);
  } catch (err) {
    throw fromErrno(err, what);
  }
}

function requireRoot(): void {
  if (process.geteuid?.() !== 0)
    throw new ErrdefsError('permission_denied', 'only root may mount', {
      hint: 'run it as root, or in a shell that sees the mount: berth unshare',
    });
}

/** @returns false when the target has a record: renaming onto its directory, which is never empty, fails */
function renameIfFree(temporary: string, directory: string): boolean {
  try {
    renameSync(temporary, directory);
    return true;
  } catch (err) {
    if (['ENOTEMPTY', 'EEXIST'].includes((err as NodeJS.ErrnoException).code ?? '')) return false;
    throw err;
  }
}

/** Claims a target. @returns the record's directory @throws already_exists something is mounted there */
async function claim(context: Context, record: MountRecord): Promise<string> {
  const parent = runtimeStatePath.mounts(context.stateDir);
  const id = createHash('sha256').update(`${record.mountNamespace}\0${record.target}`).digest('hex').slice(0, 32);
  const directory = join(parent, id);
  mkdirSync(parent, {recursive: true, mode: 0o700});
  const temporary = temporaryName(directory);
  mkdirSync(temporary, {mode: 0o700});
  try {
    writeRecord(temporary, record);
    for (;;) {
      if (await context.store.update(`mount at ${record.target}`, () => renameIfFree(temporary, directory))) return directory;
      const other = readRecord(directory);
      const state = other === undefined ? 'stale' : stateOf(other);
      if (state !== 'stale')
        throw new ErrdefsError(
          'already_exists',
          `mount of ${JSON.stringify(other!.image ?? other!.key)} at ${JSON.stringify(record.target)}`,
          {
            hint: `unmount it first: ${berth`images unmount ${record.target}`}`,
          },
        );
      if (other === undefined) await removeMountDirectory(directory);
      else await endMount(context, {directory, record: other}, 'drop');
    }
  } catch (err) {
    rmSync(temporary, {recursive: true, force: true});
    throw fromErrno(err, `mount at ${JSON.stringify(record.target)}`);
  }
}

/**
 * Removes a record and its leftovers. Records are added and removed under the store's lock, so that a process never removes the record
 * that another has put in its place meanwhile.
 */
async function release({store}: Context, {directory, record}: FoundRecord): Promise<void> {
  const old = temporaryName(directory);
  const take = (): boolean => {
    if (readRecord(directory)?.createdAt !== record.createdAt) return false;
    renameSync(directory, old);
    return true;
  };
  if (store.exists() ? await store.update(`end of the mount at ${record.target}`, take) : take()) await removeMountDirectory(old);
}

/** Leases the snapshot that is, or is about to be, mounted. */
function putLease(ns: NamespaceTransaction, {target, snapshotter, key, createdAt}: MountRecord): void {
  const before = ns.leases.find(target);
  if (before !== undefined && before.labels[LEASE_MOUNT] === undefined)
    throw new ErrdefsError('already_exists', `lease ${JSON.stringify(target)}`, {hint: 'a mount needs a lease of that name'});
  ns.leases.put({
    id: target,
    labels: {[LEASE_MOUNT]: bootId()},
    expiresAt: new Date(Date.parse(createdAt) + KEEP_MS).toISOString(),
    content: [],
    layers: [],
    snapshots: [`${snapshotter}/${key}`],
    createdAt,
    updatedAt: createdAt,
  });
}

/** The lease of a record; not one that somebody else has created under the same ID since. */
function leaseOf(ns: NamespaceTransaction, {target, createdAt}: MountRecord): LeaseRecord | undefined {
  const lease = ns.leases.find(target);
  return lease?.labels[LEASE_MOUNT] !== undefined && lease.createdAt === createdAt ? lease : undefined;
}

/**
 * Ends the lease of a mount that is gone.
 *
 * @param then `keep` keeps the snapshot of an image for a day; `drop` leaves it to other references; `remove` removes it
 */
async function endMount(context: Context, found: FoundRecord, then: 'keep' | 'drop' | 'remove'): Promise<void> {
  const {store} = context;
  const {record} = found;
  const {namespace, snapshotter, key, image} = record;
  const isThere = store.exists() && store.view((tx) => tx.namespaces.find(namespace)) !== undefined;
  if (isThere) {
    await store.update(`end of the mount at ${record.target}`, (tx) => {
      const ns = tx.namespace(namespace);
      const lease = leaseOf(ns, record);
      if (lease === undefined) return;
      const now = Date.now();
      if (image === undefined || then !== 'keep') ns.leases.delete(lease.id);
      else
        ns.leases.put({
          ...lease,
          labels: {...lease.labels, [LEASE_MOUNT]: MOUNT_ENDED},
          expiresAt: new Date(now + KEEP_MS).toISOString(),
          updatedAt: new Date(now).toISOString(),
        });
      collect(store, tx);
    });
    store.layers.emptyTrash();
  }
  if (isThere && image !== undefined && then === 'remove') await removeIfPresent(new SnapshotStore(store, namespace, snapshotter), key);
  await release(context, found);
}

async function removeIfPresent(snapshots: SnapshotStore, key: string): Promise<void> {
  try {
    await snapshots.remove(key);
  } catch (err) {
    if (!hasCode(err, 'not_found')) throw err;
  }
}

/**
 * Mounts a snapshot.
 *
 * @param make creates it, once the target is claimed, and runs `within` in the same transaction
 * @param undo removes what `make` created, after a failure
 */
async function mountSnapshot(
  context: Context,
  wanted: Pick<MountRecord, 'target' | 'namespace' | 'snapshotter' | 'key' | 'image' | 'readOnly'>,
  make: (within: (tx: StoreTransaction) => void) => Promise<readonly Mount[]>,
  undo: () => Promise<void>,
): Promise<HostMount> {
  const {target, namespace} = wanted;
  const ns = mountNamespace();
  const mountsAtTarget = (): readonly MountInfo[] => (mountsInNamespace(ns) ?? []).filter((mount) => mount.target === target);
  let record: MountRecord = {
    ...wanted,
    root: context.store.layout.root,
    mountNamespace: ns,
    makers: [formatIdentity(ownIdentity())],
    before: mountsAtTarget().length,
    createdAt: new Date().toISOString(),
  };
  const directory = await claim(context, record);
  const updateRecord = (change: Partial<MountRecord>): void => {
    record = {...record, ...change};
    writeRecord(directory, record);
  };
  try {
    const mounts = await make((tx) => putLease(tx.namespace(namespace), record));
    const mounter = hostMounter(directory, target, (identity) => updateRecord({makers: [...record.makers, identity]}));
    await mounter.mount(planMounts(mounts));
    const mounted = mountsAtTarget()[record.before];
    if (mounted === undefined) throw new ErrdefsError('aborted', `mount at ${JSON.stringify(target)} was unmounted meanwhile`);
    updateRecord({mounted});
    return describe(record);
  } catch (err) {
    if (mountsAtTarget()[record.before] !== undefined) await unmount(target);
    await endMount(context, {directory, record}, 'drop');
    await undo();
    throw err;
  }
}

/** @throws already_exists something is mounted there, or an earlier mount left a snapshot of another image */
export async function mountImage(
  context: Context,
  namespace: string,
  name: string,
  directory: string,
  {rw = false, snapshotter: asked, platform, signal}: ImageMountOptions,
): Promise<HostMount> {
  requireRoot();
  const {store} = context;
  const target = canonicalTarget(directory);
  const image = findImage(context, namespace, name);
  const snapshotter = getSnapshotter(context.snapshotterName(namespace, asked));
  const plan = await planLocally(context, namespace, image, platform);
  const parent = await ensureUnpacked(context, namespace, image.name, plan, snapshotter, signal);
  const snapshots = new SnapshotStore(store, namespace, snapshotter.name);
  const kind = rw ? 'active' : 'view';
  let isCreated = false;
  const make = async (within: (tx: StoreTransaction) => void): Promise<readonly Mount[]> => {
    const existing = store.view((tx) => tx.namespace(namespace).snapshots(snapshotter.name).find(target));
    if (existing !== undefined && (existing.kind !== kind || existing.parent !== parent))
      throw new ErrdefsError('already_exists', `snapshot ${JSON.stringify(target)} of an earlier mount`, {
        hint: `remove it first: ${berth`-n ${namespace} images unmount --rm ${target}`}`,
      });
    if (existing !== undefined) await store.update(`mount at ${target}`, within);
    else {
      // A writable snapshot may hold the user's data; a view can be created again.
      const labels = rw ? {'containerd.io/gc.root': new Date().toISOString()} : {};
      await snapshots[rw ? 'prepare' : 'view'](target, parent, labels, within);
      isCreated = true;
    }
    return snapshots.mounts(target);
  };
  const undo = async (): Promise<void> => {
    if (isCreated) await removeIfPresent(snapshots, target);
  };
  return mountSnapshot(
    context,
    {target, namespace, snapshotter: snapshotter.name, key: target, image: image.name, readOnly: !rw},
    make,
    undo,
  );
}

/** Mounts an existing active snapshot or view. */
export async function mountExisting(
  context: Context,
  namespace: string,
  snapshotter: string,
  key: string,
  directory: string,
): Promise<HostMount> {
  requireRoot();
  const {store} = context;
  const target = canonicalTarget(directory);
  const snapshots = new SnapshotStore(store, namespace, snapshotter);
  const {kind} = snapshots.get(key);
  const mounts = snapshots.mounts(key);
  const make = async (within: (tx: StoreTransaction) => void): Promise<readonly Mount[]> => {
    await store.update(`mount at ${target}`, (tx) => {
      if (tx.namespace(namespace).snapshots(snapshotter).find(key) === undefined)
        throw new ErrdefsError('aborted', `snapshot ${JSON.stringify(key)} was removed meanwhile`);
      within(tx);
    });
    return mounts;
  };
  const wanted = {target, namespace, snapshotter, key, readOnly: kind === 'view'};
  return mountSnapshot(context, wanted, make, async () => undefined);
}

/** @throws not_found berth has mounted nothing there @throws failed_precondition it is busy, or in a mount namespace that cannot be entered */
export async function unmountTarget(
  context: Context,
  namespace: string,
  target: string,
  {rm = false}: {readonly rm?: boolean},
): Promise<HostMount> {
  requireRoot();
  const given = absoluteTarget(target);
  let path = given;
  try {
    path = realpathSync(given);
  } catch {
    // The target may have been removed while its record and lease are still there.
  }
  const what = `mount at ${JSON.stringify(path)}`;
  const all = listRecords(context).filter(({record}) => record.target === path);
  const found = all.find(({record}) => record.mountNamespace === mountNamespace()) ?? all[0];
  if (found === undefined) {
    const kept = rm ? await removeKeptSnapshot(context, namespace, path) : undefined;
    if (kept !== undefined) return kept;
    const isMounted = (mountsInNamespace(mountNamespace()) ?? []).some((mount) => mount.target === path);
    throw new ErrdefsError('not_found', what, {
      hint: isMounted ? 'berth did not mount it: unmount it with umount(8)' : 'see "berth images mount" for what is mounted',
    });
  }
  const {record} = found;
  if (record.namespace !== namespace)
    throw new ErrdefsError('not_found', `${what} in namespace ${JSON.stringify(namespace)}`, {
      hint: `it exists in namespace ${JSON.stringify(record.namespace)}: use -n ${record.namespace}`,
    });
  const state = stateOf(record);
  const refuse = (why: string, hint: string): never => {
    throw new ErrdefsError('failed_precondition', `${what} ${why}`, {hint});
  };
  if (state === 'mounting') refuse('is being set up', 'try again when that is done');
  if (state === 'unknown') refuse('belongs to a mount namespace that cannot be seen from here', 'unmount it where it was mounted');
  if (state === 'mounted') {
    if (record.mountNamespace !== mountNamespace()) refuse('is in another mount namespace', 'unmount it there: nsenter --mount');
    // Another process may have unmounted it since.
    const {onTop = true} = findMounted(record, mountsInNamespace(record.mountNamespace) ?? []) ?? {};
    if (!onTop) refuse('has something else mounted over it', `unmount that first: umount ${path}`);
    const complaint = await unmount(path);
    // Another process may have removed it first: that is no failure.
    if (complaint !== '' && stateOf(record) === 'mounted')
      refuse(`cannot be unmounted: ${complaint}`, `see which processes use it: fuser --mount --verbose ${path}`);
  }
  await endMount(context, found, rm ? 'remove' : 'keep');
  return describe(record, 'unmounted');
}

/** Removes the snapshot that an earlier `unmount` without `rm` left. */
async function removeKeptSnapshot(context: Context, namespace: string, target: string): Promise<HostMount | undefined> {
  const {store} = context;
  const lease = store.view((tx) => (tx.namespaces.find(namespace) === undefined ? undefined : tx.namespace(namespace).leases.find(target)));
  const [, snapshotter, key] = /^([^/]+)\/(.*)$/s.exec(lease?.snapshots[0] ?? '') ?? [];
  if (lease?.labels[LEASE_MOUNT] === undefined || snapshotter === undefined || key === undefined) return undefined;
  await store.update(`end of the mount at ${target}`, (tx) => {
    tx.namespace(namespace).leases.delete(target);
    collect(store, tx);
  });
  store.layers.emptyTrash();
  await removeIfPresent(new SnapshotStore(store, namespace, snapshotter), key);
  return {target, namespace, snapshotter, key, readOnly: true, state: 'unmounted', createdAt: lease.createdAt};
}

/** What a killed process, or a boot, has left of a mount. */
export type MountLeftover = {readonly directory: string} & (
  | {readonly kind: 'unreadable record'; readonly record?: undefined}
  /** Its snapshot is no longer mounted. */
  | {readonly kind: 'stale record'; readonly record: MountRecord}
  /** Its snapshot is mounted, and so is what was needed only until then. */
  | {readonly kind: 'intermediate mounts'; readonly record: MountRecord}
);

export function mountLeftovers(context: Context): readonly MountLeftover[] {
  const leftover = (directory: string): MountLeftover | undefined => {
    if (isTemporary(directory)) {
      const owner = parseIdentity(directory.slice(directory.lastIndexOf('/.tmp.') + '/.tmp.'.length));
      return owner === undefined || liveness(owner) === 'dead' ? {directory, kind: 'unreadable record'} : undefined;
    }
    const record = readRecord(directory);
    if (record === undefined) return {directory, kind: 'unreadable record'};
    if (record.root !== context.store.layout.root) return undefined;
    const state = stateOf(record);
    if (state === 'stale') return {directory, kind: 'stale record', record};
    const isFinished = state === 'mounted' && record.mountNamespace === mountNamespace() && !isMaking(record);
    return isFinished && hasIntermediateMounts(directory) ? {directory, kind: 'intermediate mounts', record} : undefined;
  };
  return recordDirectories(context.stateDir).flatMap((directory) => leftover(directory) ?? []);
}

/** Drops the leases of mounts that an earlier boot had: their records may have gone with it. */
async function dropFormerLeases({store}: Context): Promise<void> {
  const former = (tx: StoreView): readonly string[] =>
    tx.namespaces.list().flatMap(({name}) => (tx.namespace(name).leases.list().some(isFormerMountLease) ? [name] : []));
  if (!store.exists() || store.view(former).length === 0) return;
  await store.update('end of the mounts of an earlier boot', (tx) => {
    for (const {name} of tx.namespaces.list()) {
      const {leases} = tx.namespace(name);
      for (const lease of leases.list().filter(isFormerMountLease)) leases.delete(lease.id);
    }
    collect(store, tx);
  });
  store.layers.emptyTrash();
}

/** Removes the leftovers of mounts. */
export async function sweepMounts(context: Context): Promise<void> {
  for (const {directory, kind, record} of mountLeftovers(context)) {
    if (kind === 'stale record') await endMount(context, {directory, record}, 'drop');
    else if (kind === 'intermediate mounts') await unmountBelow(directory);
    else await removeMountDirectory(directory);
  }
  await dropFormerLeases(context);
}
