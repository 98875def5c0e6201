/**
 * Named volumes: active snapshots of `native` under keys of their own. So collection, `df`, `check`, namespaces and kills treat them as
 * every other tree. A container refers to its volumes by labels (docs/decisions/0044-volumes.md).
 */

import {readdirSync} from 'node:fs';
import {berth} from '../../berth-command.ts';
import {ErrdefsError, fromErrno, hasCode} from '../../errdefs.ts';
import {isReservedLabel, validateIdentifier, validateLabels} from '../../oci/identifier.ts';
import {hintToRemove} from '../../runtime/next-command.ts';
import {collect} from '../../store/gc.ts';
import type {Labels, SnapshotRecord} from '../../store/records.ts';
import {referencesOfContainer, snapshotNode} from '../../store/refcounts.ts';
import {SnapshotStore} from '../../store/snapshots.ts';
import type {NamespaceView} from '../../store/transaction-types.ts';
import {withBallast} from '../../store/with-ballast.ts';
import type {Context} from '../context.ts';
import {notFoundIn} from '../not-found.ts';
import type {VolumeInfo, VolumesClient} from '../types/index.ts';
import {filtered} from './filter.ts';

const SNAPSHOTTER = 'native';
const PREFIX = 'volumes/';
/** Label of a volume's snapshot: `unused` before a container has had it, then `used`. */
const STATE = 'berth/volume';

export const volumeKey = (name: string): string => `${PREFIX}${name}`;

export const volumeName = ({key}: SnapshotRecord): string => key.slice(PREFIX.length);

/** The label by which a container refers to a volume. */
export const volumeReference = (name: string): string => `containerd.io/gc.ref.snapshot.${SNAPSHOTTER}/${volumeKey(name)}`;

/** Whether a snapshot is a named volume. */
export const isVolume = ({key, labels}: SnapshotRecord): boolean => key.startsWith(PREFIX) && labels[STATE] !== undefined;

const rooted = (labels: Labels, state: 'used' | 'unused'): Labels => ({
  ...labels,
  'containerd.io/gc.root': new Date().toISOString(),
  [STATE]: state,
});

const isOwn = (label: string): boolean => isReservedLabel(label) || label.startsWith('berth/');

/** Containers by the keys of the snapshots that they refer to. */
function users(ns: NamespaceView): (key: string) => readonly string[] {
  const all = ns.containers.list().map((record) => ({id: record.id, nodes: new Set(referencesOfContainer(record).nodes)}));
  return (key) => all.filter(({nodes}) => nodes.has(snapshotNode(SNAPSHOTTER, key))).map(({id}) => id);
}

export function volumesClient(context: Context, namespace: string): VolumesClient {
  const {store} = context;
  const snapshots = new SnapshotStore(store, namespace, SNAPSHOTTER);
  const missing = (name: string): ErrdefsError =>
    notFoundIn(store, namespace, 'volume', name, (ns) => find(ns, name) !== undefined, `list them: ${berth`-n ${namespace} volumes ls`}`);
  const list = (): readonly VolumeInfo[] =>
    store.view((tx) => {
      const ns = tx.namespace(namespace);
      const usedBy = users(ns);
      return ns
        .snapshots(SNAPSHOTTER)
        .list()
        .filter(isVolume)
        .map((record): VolumeInfo => {
          const {key, labels, layer, createdAt} = record;
          const given = Object.entries(labels).filter(([label]) => !isOwn(label));
          const path = treeOf(context, layer!);
          return {name: volumeName(record), labels: Object.fromEntries(given), path, usedBy: usedBy(key), createdAt};
        });
    });
  const get = (name: string): VolumeInfo => {
    validateIdentifier(name);
    const found = list().find((volume) => volume.name === name);
    if (found === undefined) throw missing(name);
    return found;
  };
  const remove = (name: string): Promise<void> => withBallast(store, () => snapshots.remove(volumeKey(name)));
  return {
    list: async ({filters = []} = {}) => filtered(list(), filters, ({name, labels}) => ({name, labels})),
    get: async (name) => get(name),
    create: async (name, {labels = {}} = {}) => {
      validateIdentifier(name);
      validateLabels(labels);
      const reserved = Object.keys(labels).find(isOwn);
      if (reserved !== undefined) throw new ErrdefsError('invalid_argument', `label ${JSON.stringify(reserved)} is not for users`);
      await snapshots.prepare(volumeKey(name), undefined, rooted(labels, 'unused')).catch((err: unknown) => {
        throw hasCode(err, 'already_exists') ? new ErrdefsError('already_exists', `volume ${JSON.stringify(name)}`) : err;
      });
      return get(name);
    },
    delete: async (name) => {
      const {usedBy} = get(name);
      if (usedBy.length > 0) {
        const {ids} = await context.running(namespace);
        throw new ErrdefsError('failed_precondition', `volume ${JSON.stringify(name)} is used by ${usedBy.join(', ')}`, {
          hint: hintToRemove(
            namespace,
            usedBy,
            usedBy.some((id) => ids.includes(id)),
          ),
          details: {volume: name, usedBy},
        });
      }
      await remove(name);
    },
    prune: async ({dryRun = false} = {}) => {
      const unused = list().filter(({usedBy}) => usedBy.length === 0);
      const removed: string[] = [];
      for (const {name} of unused)
        try {
          if (!dryRun) await remove(name);
          removed.push(name);
        } catch (err) {
          // It has a user by now, or somebody else has removed it.
          if (!hasCode(err, 'failed_precondition') && !hasCode(err, 'not_found')) throw err;
        }
      return removed;
    },
  };
}

function find(ns: NamespaceView, name: string): SnapshotRecord | undefined {
  const record = ns.snapshots(SNAPSHOTTER).find(volumeKey(name));
  return record !== undefined && isVolume(record) ? record : undefined;
}

export const treeOf = ({store}: Context, layer: string): string => `${store.layers.path(layer)}/fs`;

/**
 * The directory of a volume, for a container that refers to it already. A volume that does not exist is made; it, and one that no container
 * has had and nobody has written to, is filled.
 *
 * @param fill makes the tree of a new volume, at a path that does not exist
 * @throws failed_precondition a snapshot that is no volume has its key
 */
export async function useVolume(context: Context, namespace: string, name: string, fill: (tree: string) => void): Promise<string> {
  const {store} = context;
  const snapshots = new SnapshotStore(store, namespace, SNAPSHOTTER);
  const key = volumeKey(name);
  for (;;) {
    const record = store.view((tx) => tx.namespace(namespace).snapshots(SNAPSHOTTER).find(key));
    if (record !== undefined && !isVolume(record))
      throw new ErrdefsError('failed_precondition', `volume ${JSON.stringify(name)}: snapshot ${JSON.stringify(key)} is no volume`, {
        hint: `remove it: ${berth`-n ${namespace} snapshots rm --snapshotter ${SNAPSHOTTER} ${key}`}`,
      });
    if (record?.labels[STATE] === 'used') return treeOf(context, record.layer!);
    const isUnused = (one: SnapshotRecord): boolean => one.labels[STATE] === 'unused' && isEmpty(treeOf(context, one.layer!));
    try {
      if (record !== undefined && !isUnused(record)) await snapshots.label(key, {[STATE]: 'used'});
      else {
        const labels = rooted(record?.labels ?? {}, 'used');
        await snapshots.prepare(key, undefined, labels, (tx) => collect(store, tx), {fill, replaces: isUnused});
        store.layers.emptyTrash();
      }
    } catch (err) {
      // Another container was faster, or somebody has removed it.
      if (!hasCode(err, 'already_exists') && !hasCode(err, 'not_found')) throw err;
    }
  }
}

function isEmpty(directory: string): boolean {
  try {
    return readdirSync(directory).length === 0;
  } catch (err) {
    throw fromErrno(err, directory);
  }
}
