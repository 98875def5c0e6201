/** Snapshots of one namespace and one snapshotter. */
import {berth} from '../../berth-command.ts';
import {ErrdefsError, hasCode, isErrdefs} from '../../errdefs.ts';
import {parseDigest} from '../../oci/descriptor.ts';
import {validateLabels} from '../../oci/identifier.ts';
import {hintToRemove} from '../../runtime/next-command.ts';
import {SnapshotStore} from '../../store/snapshots.ts';
import {getSnapshotter} from '../../store/snapshotters.ts';
import {withBallast} from '../../store/with-ballast.ts';
import type {Context} from '../context.ts';
import {notFoundIn} from '../not-found.ts';
import {ensureUnpacked} from '../pull/ensure-unpacked.ts';
import type {Labels, SnapshotsClient} from '../types/index.ts';
import {filtered} from './filter.ts';
import {planLocally} from './find-image.ts';

/** Protects a snapshot that nothing else refers to from collection, as `ctr snapshots` does. */
const rooted = (labels: Labels): Labels => ({'containerd.io/gc.root': new Date().toISOString(), ...labels});

export function snapshotsClient(context: Context, namespace: string, asked: string | undefined): Omit<SnapshotsClient, 'diff'> {
  const {store} = context;
  const snapshotter = context.snapshotterName(namespace, asked);
  const snapshots = new SnapshotStore(store, namespace, snapshotter);
  /** Gets a record; the error names other namespaces that have the snapshot. */
  const named = async <T>(key: string, action: () => T | Promise<T>): Promise<T> => {
    try {
      return await action();
    } catch (err) {
      if (!hasCode(err, 'not_found')) throw err;
      throw notFoundIn(store, namespace, 'snapshot', key, (ns) => ns.snapshots(snapshotter).find(key) !== undefined);
    }
  };
  /** The error names the command that removes a container that uses the snapshot. */
  const unused = async <T>(key: string, action: () => Promise<T>): Promise<T> => {
    try {
      return await named(key, action);
    } catch (err) {
      const user = isErrdefs(err) ? err.details?.container : undefined;
      if (typeof user !== 'string') throw err;
      const {code, message, details} = err as ErrdefsError;
      const hint = hintToRemove(namespace, [user], (await context.running(namespace)).ids.includes(user));
      throw new ErrdefsError(code, message, {cause: err, hint, ...(details === undefined ? {} : {details})});
    }
  };
  const create = async (kind: 'prepare' | 'view', key: string, parent: string | undefined, labels: Labels) => {
    validateLabels(labels);
    const record = await named(parent ?? key, () => snapshots[kind](key, parent, rooted(labels)));
    return snapshots.mounts(record.key);
  };
  return {
    snapshotter,
    list: async ({filters = []} = {}) =>
      filtered(snapshots.list(), filters, ({key, parent, kind, labels}) => ({name: key, parent: parent ?? '', kind, labels})),
    get: (key) => named(key, () => snapshots.get(key)),
    usage: (key) => named(key, () => ({key, ...snapshots.usage(key)})),
    prepare: (key, parent, {labels = {}} = {}) => create('prepare', key, parent, labels),
    view: (key, parent, {labels = {}} = {}) => create('view', key, parent, labels),
    commit: async (name, key, {labels = {}} = {}) => {
      validateLabels(labels);
      return unused(key, () => snapshots.commit(name, key, rooted(labels)));
    },
    delete: (key) => unused(key, () => withBallast(context.store, () => snapshots.remove(key))),
    mounts: (key) => named(key, () => snapshots.mounts(key)),
    mountScript: async (key, target) => {
      const {absoluteTarget, mountScript, planMounts} = await import('../../runtime/mount-plan.ts');
      const path = absoluteTarget(target);
      return named(key, () => mountScript(planMounts(snapshots.mounts(key), {literal: true}), path));
    },
    mount: async (key, target) => {
      const {mountExisting} = await import('./host-mounts.ts');
      return named(key, () => mountExisting(context, namespace, snapshotter, key, target));
    },
    label: async (key, labels) => {
      validateLabels(labels);
      return named(key, () => snapshots.label(key, labels));
    },
    unpack: async (text, {signal} = {}) => {
      const digest = parseDigest(text);
      const image = store.view((tx) =>
        tx
          .namespace(namespace)
          .images.list()
          .find(({target}) => target.digest === digest),
      );
      if (image === undefined)
        throw new ErrdefsError('not_found', `image with the target ${digest} in namespace ${JSON.stringify(namespace)}`, {
          hint: `targets are in the list: ${berth`-n ${namespace} images ls`}`,
        });
      const plan = await planLocally(context, namespace, image);
      const chainID = await ensureUnpacked(context, namespace, image.name, plan, getSnapshotter(snapshotter), signal);
      return {image: image.name, ...(chainID === undefined ? {} : {chainID})};
    },
  };
}
