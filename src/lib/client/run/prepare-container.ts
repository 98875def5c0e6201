/** What a new container is made of: its image's tree and config, its record, its snapshot. */

import {ErrdefsError, isErrdefs} from '../../errdefs.ts';
import {formatIdentity, ownIdentity, type ProcessIdentity} from '../../fs/process.ts';
import {isReservedLabel, validateIdentifier, validateLabels} from '../../oci/identifier.ts';
import type {ExecConfig} from '../../oci/manifest.ts';
import {cgroupPath, populatedCgroups} from '../../runtime/cgroup-removal.ts';
import type {IdMappings} from '../../runtime/id-mappings.ts';
import type {Mount} from '../../runtime/mount-plan.ts';
import {hintToRemove, hintToStop} from '../../runtime/next-command.ts';
import {findRuntime} from '../../runtime/oci-runtime.ts';
import type {RootReader} from '../../runtime/path-in-root.ts';
import type {Spec} from '../../runtime/spec.ts';
import type {ContainerRecord, Labels, SnapshotRecord} from '../../store/records.ts';
import {referencesOfContainer, snapshotNode} from '../../store/refcounts.ts';
import {SnapshotStore} from '../../store/snapshots.ts';
import type {StoreTransaction} from '../../store/transaction-types.ts';
import type {Context} from '../context.ts';
import {deleteContainer} from '../delete-container.ts';
import {directoryMounts} from '../host-directory-root.ts';
import {cgroupOf, isAbandoned, TRANSIENT} from '../running-containers.ts';
import {IMAGE_DIGEST} from '../signatures/policy.ts';
import {assertMappable} from '../tasks/mapped-tree.ts';
import {networkLabel, networkOptions} from '../tasks/network-options.ts';
import {parseSignal, STOP_SIGNAL, STOP_TIMEOUT} from '../tasks/stop-signal.ts';
import type {CreateOptions, NetworkOptions} from '../types/index.ts';
import {containerSource} from './container-source.ts';
import {makeVolumes, plannedVolumes, volumeLabels} from './container-volumes.ts';
import {inheritVolumes} from './inherited-volumes.ts';

const RUNTIME = 'io.containerd.runc.v2';

export interface NewContainer {
  /** Makes the container's volumes, too; called after `begin`. */
  makeSpec(rootfs: RootReader): Promise<Spec>;
  readonly tty: boolean;
  readonly network: NetworkOptions | undefined;
  /** Of its users and groups; absent: they are the host's. */
  readonly mappings: IdMappings | undefined;
  /**
   * Writes the record and makes the snapshot.
   *
   * @param owner whose end makes the container garbage; absent for a container that stays
   * @returns the snapshot's mounts
   * @throws already_exists a container or a snapshot has the ID
   */
  begin(owner?: ProcessIdentity): Promise<readonly Mount[]>;
  /** Removes the record and the snapshot that `begin` made; nothing of another container that has taken the ID. */
  remove(): Promise<void>;
}

/** Finds and checks everything that a container needs, and unpacks its image; nothing of the container exists afterwards. */
export async function newContainer(
  context: Context,
  namespace: string,
  ref: string,
  id: string,
  given: CreateOptions,
): Promise<NewContainer> {
  const {store} = context;
  validateIdentifier(id);
  const inherited = inheritVolumes(context, namespace, given);
  const {options} = inherited;
  validateLabels(options.labels ?? {});
  validateLabels(options.snapshotLabels ?? {});
  const network = networkOptions(options);
  const runtime = options.runtime === undefined ? findRuntime() : findRuntime(options.runtime);
  let transient = false;
  let ownLayer: string | undefined;
  const source = await containerSource(context, namespace, ref, cgroupPath(namespace, id, ownIdentity()), options);
  await refuseTaken(context, namespace, id, `container ${JSON.stringify(id)}`);
  const {snapshotter, directory} = source;
  const volumes = plannedVolumes(source.config, options, directory !== undefined);
  if (source.mappings !== undefined) await assertMappable(context, source.mappings, directory !== undefined);
  const parent = await source.unpack();

  const now = new Date().toISOString();
  const record: ContainerRecord = {
    id,
    image: source.image,
    labels: {
      ...containerLabels(source.config),
      ...options.labels,
      ...stopLabels(options),
      ...networkLabel(network),
      ...(source.imageDigest === undefined ? {} : {[IMAGE_DIGEST]: source.imageDigest}),
      ...volumeLabels(volumes),
      ...inherited.labels,
    },
    runtime: {name: options.runtime === undefined ? RUNTIME : runtime.path},
    snapshotter,
    snapshotKey: directory === undefined ? id : '',
    spec: null,
    createdAt: now,
    updatedAt: now,
  };
  /** Whether a container of this ID is the one that `begin` has made; the ID may have been taken anew since. */
  let isOurs: ((record: ContainerRecord, snapshot: SnapshotRecord | undefined) => boolean) | undefined;
  return {
    makeSpec: async (rootfs) => {
      const from = directory === undefined ? rootfs : undefined;
      return source.makeSpec(rootfs, await makeVolumes(context, namespace, volumes, {ownLayer, from, transient}));
    },
    tty: source.tty,
    network,
    mappings: source.mappings,
    begin: async (owner) => {
      transient = owner !== undefined;
      // This run holds the ID, so a record under it that a killed `run --rm` left is garbage.
      if (await refuseTaken(context, namespace, id, '')) {
        refuseLiving(context, namespace, id);
        await deleteContainer(context, namespace, id, {keepSnapshot: false, only: isAbandoned});
      }
      const put = (tx: StoreTransaction): void => {
        source.assertStill(tx);
        inherited.assertStill(tx);
        const {containers} = tx.namespace(namespace);
        if (containers.find(id) !== undefined) throw new ErrdefsError('already_exists', '');
        containers.put(owner === undefined ? record : {...record, labels: {...record.labels, [TRANSIENT]: formatIdentity(owner)}});
      };
      if (directory !== undefined) {
        await store.update(`container ${id}`, put);
        isOurs = ({createdAt}) => createdAt === record.createdAt;
        return directoryMounts(directory);
      }
      const snapshots = new SnapshotStore(store, namespace, snapshotter);
      const {layer} = await snapshots.prepare(id, parent, options.snapshotLabels ?? {}, put, {transient}).catch((err: unknown) => {
        throw withHolder(context, namespace, {snapshotter, id}, err);
      });
      ownLayer = layer;
      isOurs = (_, snapshot) => snapshot?.layer === layer;
      return snapshots.mounts(id);
    },
    remove: async () => {
      if (isOurs !== undefined) await deleteContainer(context, namespace, id, {keepSnapshot: false, only: isOurs});
    },
  };
}

/**
 * @param what names the container, when the caller's message does not
 * @returns whether an abandoned container has the ID
 * @throws already_exists another container has it
 */
async function refuseTaken(context: Context, namespace: string, id: string, what: string): Promise<boolean> {
  const record = context.store.view((tx) => tx.namespace(namespace).containers.find(id));
  if (record === undefined || isAbandoned(record)) return record !== undefined;
  const isRunning = (await context.running(namespace)).ids.includes(id);
  const hint =
    record.labels[TRANSIENT] !== undefined && isRunning
      ? `it is removed when it ends; ${hintToStop(namespace, id)}`
      : hintToRemove(namespace, [id], isRunning);
  throw new ErrdefsError('already_exists', what, {hint});
}

/** An error about a snapshot that has the ID, with the container that holds it: it has the volumes of one that was removed. */
function withHolder({store}: Context, namespace: string, {snapshotter, id}: {snapshotter: string; id: string}, err: unknown): unknown {
  if (!isErrdefs(err) || err.code !== 'already_exists' || err.hint !== undefined) return err;
  const node = snapshotNode(snapshotter, id);
  const holder = store.view((tx) =>
    tx
      .namespace(namespace)
      .containers.list()
      .find((one) => one.id !== id && referencesOfContainer(one).nodes.includes(node)),
  );
  if (holder === undefined) return err;
  return new ErrdefsError(err.code, err.message, {
    cause: err,
    hint: `take another ID: container ${JSON.stringify(holder.id)} has the volumes of one that was called so, by --volumes-from`,
  });
}

/** @throws already_exists an abandoned container has the ID and is still alive, although its state directory was removed */
function refuseLiving({store}: Context, namespace: string, id: string): void {
  const record = store.view((tx) => tx.namespace(namespace).containers.find(id));
  const cgroup = record === undefined ? undefined : cgroupOf(namespace, record);
  if (cgroup !== undefined && populatedCgroups(namespace).has(cgroup))
    throw new ErrdefsError('already_exists', '', {hint: `end its processes, which are in cgroup ${cgroup}`});
}

/** @throws invalid_argument no signal */
function stopLabels({stopSignal, stopTimeoutMs}: CreateOptions): Labels {
  if (stopSignal !== undefined) parseSignal(stopSignal);
  return {
    ...(stopSignal === undefined ? {} : {[STOP_SIGNAL]: stopSignal}),
    ...(stopTimeoutMs === undefined ? {} : {[STOP_TIMEOUT]: String(stopTimeoutMs)}),
  };
}

/** The image's labels that its containers inherit: all but those with a meaning for containerd. */
function containerLabels(config: ExecConfig): Labels {
  const own = Object.entries(config.Labels ?? {}).filter(
    ([key, value]) => !isReservedLabel(key) && !key.startsWith('berth/') && Buffer.byteLength(key + value) <= 4096,
  );
  return {...Object.fromEntries(own), ...(config.StopSignal === undefined ? {} : {[STOP_SIGNAL]: config.StopSignal})};
}
