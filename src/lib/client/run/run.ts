/** `run REF ID`: creates snapshot, record and specification, runs the container in the foreground, and with `rm` removes all of it. */
import {ErrdefsError, isErrdefs} from '../../errdefs.ts';
import {formatIdentity, ownIdentity} from '../../fs/process.ts';
import {isReservedLabel, validateIdentifier, validateLabels} from '../../oci/identifier.ts';
import type {ExecConfig} from '../../oci/manifest.ts';
import {cgroupPath, populatedCgroups} from '../../runtime/bundle.ts';
import type {Mount} from '../../runtime/mount-plan.ts';
import {resolveSpec} from '../../runtime/resolve-spec.ts';
import {runForeground} from '../../runtime/run.ts';
import {findRuntime} from '../../runtime/runc.ts';
import type {ContainerRecord, Labels} from '../../store/records.ts';
import {SnapshotStore} from '../../store/snapshots.ts';
import {getSnapshotter} from '../../store/snapshotters.ts';
import type {StoreTransaction} from '../../store/transaction-types.ts';
import {deleteContainer} from '../api/containers.ts';
import {findImage, planLocally} from '../api/find-image.ts';
import type {Context} from '../context.ts';
import {assertUnpacked, ensureUnpacked, imagesOf} from '../pull/unpack.ts';
import {cgroupOf, isAbandoned, runDirectory, TRANSIENT} from '../running.ts';
import {assertAllowed} from '../signatures/assert-allowed.ts';
import type {RunOptions, RunResult} from '../types/index.ts';

const RUNTIME = 'io.containerd.runc.v2';
const STOP_SIGNAL = 'io.containerd.image.config.stop-signal';

export async function run(context: Context, namespace: string, ref: string, id: string, options: RunOptions): Promise<RunResult> {
  try {
    return await runContainer(context, namespace, ref, id, options);
  } catch (err) {
    // The container did not run: commands give such failures an exit status of their own.
    if (!isErrdefs(err) || err.details?.runExit !== undefined) throw err;
    throw new ErrdefsError(err.code, err.message, {
      cause: err,
      ...(err.hint === undefined ? {} : {hint: err.hint}),
      details: {...err.details, runExit: 125},
    });
  }
}

async function runContainer(context: Context, namespace: string, ref: string, id: string, options: RunOptions): Promise<RunResult> {
  const {store} = context;
  validateIdentifier(id);
  validateLabels(options.labels ?? {});
  findRuntime();
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
  const makeSpec = await resolveSpec({cgroupsPath, image: config, options, ...(signal === undefined ? {} : {signal})});
  refuseTaken(context, namespace, id, `container ${JSON.stringify(id)}`);
  const parent = await ensureUnpacked(context, namespace, image.name, plan, snapshotter, options.signal);

  const snapshots = new SnapshotStore(store, namespace, snapshotter.name);
  const now = new Date().toISOString();
  const record: ContainerRecord = {
    id,
    image: image.name,
    labels: {...containerLabels(config), ...options.labels, ...(options.rm ? {[TRANSIENT]: formatIdentity(ownIdentity())} : {})},
    runtime: {name: RUNTIME},
    snapshotter: snapshotter.name,
    snapshotKey: id,
    spec: null,
    createdAt: now,
    updatedAt: now,
  };
  let overlaid = false;
  /** Key of the snapshot that this run has created. */
  let layer: string | undefined;
  const begin = async (): Promise<readonly Mount[]> => {
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
      containers.put(record);
    };
    const prepared = await snapshots.prepare(id, parent, {}, within, {transient: options.rm ?? false});
    layer = prepared.layer;
    const mounts = snapshots.mounts(id);
    overlaid = mounts.some(({type}) => type === 'overlay');
    return mounts;
  };
  const {exitStatus} = await runForeground({
    id,
    stateDir: runDirectory(context, namespace),
    mounts: begin,
    onExit: async (failed) => {
      // The container never ran, so its snapshot holds no data.
      if (layer !== undefined && (options.rm || failed))
        await deleteContainer(context, namespace, id, {keepSnapshot: false, only: (_, snapshot) => snapshot?.layer === layer});
    },
    onLeftover: (err) => store.housekeeping.warn(`container ${JSON.stringify(id)}`, err),
    volatile: options.rm ?? false,
    tty: options.tty ?? false,
    ...(options.stdio === undefined || options.stdio === 'inherit' ? {} : {stdio: options.stdio}),
    ...(options.pidFile === undefined ? {} : {pidFile: options.pidFile}),
    ...(options.signal === undefined ? {} : {signal: options.signal}),
    makeSpec: async (rootfs) => {
      const spec = makeSpec(rootfs);
      if (!options.rm)
        await store.update(`specification of container ${id}`, (tx) => {
          const {containers} = tx.namespace(namespace);
          containers.put({...containers.get(id), spec, updatedAt: new Date().toISOString()});
        });
      return spec;
    },
  }).catch(async (err: unknown) => {
    throw overlaid ? await explainMounts(err, store.layout.root) : err;
  });
  return {id, exitStatus};
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

/** The same error; or the one that `doctor` finds with mounts in `root`, when that may be the cause. */
async function explainMounts(err: unknown, root: string): Promise<unknown> {
  if (!isErrdefs(err) || err.code !== 'failed_precondition') return err;
  const {checkMounts} = await import('../../runtime/doctor.ts');
  const {status, detail, hint} = await checkMounts(root);
  if (status === 'ok' || hint === undefined) return err;
  return new ErrdefsError('failed_precondition', detail, {cause: err, hint, ...(err.details === undefined ? {} : {details: err.details})});
}

/** The image's labels that its containers inherit: all but those with a meaning for containerd. */
function containerLabels(config: ExecConfig): Labels {
  const own = Object.entries(config.Labels ?? {}).filter(
    ([key, value]) => !isReservedLabel(key) && !key.startsWith('berth/') && Buffer.byteLength(key + value) <= 4096,
  );
  return {...Object.fromEntries(own), ...(config.StopSignal === undefined ? {} : {[STOP_SIGNAL]: config.StopSignal})};
}
