/** What a new container is made of: its image's tree and config, its record, its snapshot. */
import {ErrdefsError} from '../../errdefs.ts';
import {formatIdentity, ownIdentity, type ProcessIdentity} from '../../fs/process.ts';
import {isReservedLabel, validateIdentifier, validateLabels} from '../../oci/identifier.ts';
import type {ExecConfig} from '../../oci/manifest.ts';
import {cgroupPath, populatedCgroups} from '../../runtime/cgroups.ts';
import type {Mount} from '../../runtime/mount-plan.ts';
import {findRuntime} from '../../runtime/oci-runtime.ts';
import type {RootReader} from '../../runtime/path-in-root.ts';
import {resolveSpec} from '../../runtime/resolve-spec.ts';
import type {Spec} from '../../runtime/spec.ts';
import type {ContainerRecord, Labels} from '../../store/records.ts';
import {SnapshotStore} from '../../store/snapshots.ts';
import {getSnapshotter} from '../../store/snapshotters.ts';
import type {StoreTransaction} from '../../store/transaction-types.ts';
import {findImage, planLocally} from '../api/find-image.ts';
import type {Context} from '../context.ts';
import {deleteContainer} from '../delete-container.ts';
import {ensureUnpacked} from '../pull/ensure-unpacked.ts';
import {assertUnpacked} from '../pull/image-snapshots.ts';
import {imagesOf} from '../pull/plan.ts';
import {cgroupOf, isAbandoned, TRANSIENT} from '../running-containers.ts';
import {assertAllowed} from '../signatures/assert-allowed.ts';
import {IMAGE_DIGEST} from '../signatures/policy.ts';
import {networkLabel, networkOptions} from '../tasks/network-options.ts';
import {parseSignal, STOP_SIGNAL, STOP_TIMEOUT} from '../tasks/stop-signal.ts';
import type {CreateOptions, NetworkOptions} from '../types/index.ts';

const RUNTIME = 'io.containerd.runc.v2';

export interface NewContainer {
  makeSpec(rootfs: RootReader): Spec;
  readonly network: NetworkOptions | undefined;
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
  options: CreateOptions,
): Promise<NewContainer> {
  const {store} = context;
  validateIdentifier(id);
  validateLabels(options.labels ?? {});
  validateLabels(options.snapshotLabels ?? {});
  const network = networkOptions(options);
  const runtime = options.runtime === undefined ? findRuntime() : findRuntime(options.runtime);
  const {pull: policy = 'never'} = options;
  if (policy !== 'never') {
    const {pullForRun} = await import('./pull-policy.ts');
    await pullForRun(context, namespace, ref, policy, options);
  }
  const image = findImage(context, namespace, ref);
  const approval = await assertAllowed(context, namespace, image);
  const snapshotter = getSnapshotter(context.snapshotterName(namespace, options.snapshotter));
  const plan = await planLocally(context, namespace, image, options.platform);
  const chosen = imagesOf(plan)[0];
  if (chosen === undefined) throw new ErrdefsError('failed_precondition', `${image.name} is not an image that can run`);
  const config = chosen.config.config;
  const cgroupsPath = cgroupPath(namespace, id, ownIdentity());
  const {signal} = options;
  const makeSpec = await resolveSpec({
    cgroupsPath,
    image: config,
    architecture: chosen.config.architecture,
    options: {...options, netHost: options.netHost === true || options.network === 'host'},
    ...(signal === undefined ? {} : {signal}),
  });
  refuseTaken(context, namespace, id, `container ${JSON.stringify(id)}`);
  const parent = await ensureUnpacked(context, namespace, image.name, plan, snapshotter, options.signal);

  const snapshots = new SnapshotStore(store, namespace, snapshotter.name);
  const now = new Date().toISOString();
  const record: ContainerRecord = {
    id,
    image: image.name,
    labels: {
      ...containerLabels(config),
      ...options.labels,
      ...stopLabels(options),
      ...networkLabel(network),
      [IMAGE_DIGEST]: image.target.digest,
    },
    runtime: {name: options.runtime === undefined ? RUNTIME : runtime.path},
    snapshotter: snapshotter.name,
    snapshotKey: id,
    spec: null,
    createdAt: now,
    updatedAt: now,
  };
  /** Key of the snapshot that `begin` has created. */
  let layer: string | undefined;
  return {
    makeSpec,
    network,
    begin: async (owner) => {
      // This run holds the ID, so a record under it that a killed `run --rm` left is garbage.
      if (refuseTaken(context, namespace, id, '')) {
        refuseLiving(context, namespace, id);
        await deleteContainer(context, namespace, id, {keepSnapshot: false, only: isAbandoned});
      }
      const within = (tx: StoreTransaction): void => {
        approval.assertStill(tx, image.target);
        assertUnpacked(context, tx, namespace, snapshotter.name, parent);
        const {containers} = tx.namespace(namespace);
        if (containers.find(id) !== undefined) throw new ErrdefsError('already_exists', '');
        containers.put(owner === undefined ? record : {...record, labels: {...record.labels, [TRANSIENT]: formatIdentity(owner)}});
      };
      const prepared = await snapshots.prepare(id, parent, options.snapshotLabels ?? {}, within, {transient: owner !== undefined});
      layer = prepared.layer;
      return snapshots.mounts(id);
    },
    remove: async () => {
      if (layer !== undefined)
        await deleteContainer(context, namespace, id, {keepSnapshot: false, only: (_, snapshot) => snapshot?.layer === layer});
    },
  };
}

/**
 * @param what names the container, when the caller's message does not
 * @returns whether an abandoned container has the ID
 * @throws already_exists another container has it
 */
function refuseTaken({store}: Context, namespace: string, id: string, what: string): boolean {
  const record = store.view((tx) => tx.namespace(namespace).containers.find(id));
  if (record === undefined || isAbandoned(record)) return record !== undefined;
  const hint = record.labels[TRANSIENT] === undefined ? `remove it: ctr -n ${namespace} containers rm ${id}` : 'it is removed when it ends';
  throw new ErrdefsError('already_exists', what, {hint});
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
