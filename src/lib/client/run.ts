/** `run REF ID`: image → snapshot and container record → specification → the runtime, in the foreground → and with `rm` all of it gone. */
import {join} from 'node:path';
import {ErrdefsError, isErrdefs, wrap} from '../errdefs.ts';
import {isReservedLabel, validateIdentifier, validateLabels} from '../oci/identifier.ts';
import type {ExecConfig} from '../oci/manifest.ts';
import {cleanup, listRuns, type Run} from '../runtime/bundle.ts';
import {prepareSpec} from '../runtime/prepare.ts';
import {runForeground} from '../runtime/run.ts';
import {findRuntime} from '../runtime/runc.ts';
import {statePath} from '../store/layout.ts';
import type {ContainerRecord, Labels} from '../store/records.ts';
import {SnapshotStore} from '../store/snapshots.ts';
import {getSnapshotter} from '../store/snapshotters.ts';
import type {StoreTransaction} from '../store/store.ts';
import {deleteContainer} from './containers.ts';
import type {Context} from './context.ts';
import {findImage, planLocally} from './images.ts';
import type {RunOptions, RunResult} from './types.ts';
import {ensureUnpacked, imagesOf} from './unpack.ts';

const RUNTIME = 'io.containerd.runc.v2';
const STOP_SIGNAL = 'io.containerd.image.config.stop-signal';

/** Label of a container that goes when it ends: what a killed run left is then nobody's loss. */
export const TRANSIENT = 'berth/rm';

/** Where a namespace's bundles and the runtime's own state lie. */
export const runDirectory = (context: Context, namespace: string): string => join(statePath.runs(context.stateDir), namespace);

/** What runs in a namespace, or was left behind. */
export async function listNamespaceRuns(context: Context, namespace: string): Promise<readonly Run[]> {
  let runtime: ReturnType<typeof findRuntime>;
  try {
    runtime = findRuntime();
  } catch (err) {
    if (isErrdefs(err) && err.code === 'unavailable') return []; // without a runtime nothing can run
    throw err;
  }
  return listRuns(runDirectory(context, namespace), runtime);
}

/** Ids of a namespace's containers that have a living process. */
export async function runningContainers(context: Context, namespace: string): Promise<readonly string[]> {
  return (await listNamespaceRuns(context, namespace)).filter(({state}) => state !== 'stale').map(({id}) => id);
}

export async function run(context: Context, namespace: string, ref: string, id: string, options: RunOptions): Promise<RunResult> {
  try {
    return await runContainer(context, namespace, ref, id, options);
  } catch (err) {
    // What failed before the container ran is ours; a command line gives it a status of its own.
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
  const image = findImage(context, namespace, ref);
  const snapshotter = getSnapshotter(context.snapshotterName(namespace, options.snapshotter));
  const plan = await planLocally(context, image, options.platform);
  const chosen = imagesOf(plan)[0];
  if (chosen === undefined) throw new ErrdefsError('failed_precondition', `${image.name} is no image that can run`);
  const config = chosen.config.config;
  const makeSpec = prepareSpec({cgroupsPath: `/${namespace}/${id}`, image: config, options});
  await removeTransient(context, namespace, id);
  const parent = await ensureUnpacked(context, namespace, image.name, plan, snapshotter, options.signal);

  const snapshots = new SnapshotStore(store, namespace, snapshotter.name);
  const now = new Date().toISOString();
  const record: ContainerRecord = {
    id,
    image: image.name,
    labels: {...containerLabels(config), ...options.labels, ...(options.rm ? {[TRANSIENT]: 'true'} : {})},
    runtime: {name: RUNTIME},
    snapshotter: snapshotter.name,
    snapshotKey: id,
    spec: null,
    createdAt: now,
    updatedAt: now,
  };
  const exists = (): ErrdefsError =>
    new ErrdefsError('already_exists', `container ${JSON.stringify(id)}`, {hint: `remove it: ctr -n ${namespace} containers rm ${id}`});
  if (store.view((tx) => tx.namespace(namespace).containers.find(id)) !== undefined) throw exists();
  const within = (tx: StoreTransaction): void => {
    const {containers} = tx.namespace(namespace);
    if (containers.find(id) !== undefined) throw exists();
    containers.put(record);
  };
  await snapshots.prepare(id, parent, {}, within, {transient: options.rm ?? false});
  try {
    const {exitStatus} = await runForeground({
      id,
      stateDir: runDirectory(context, namespace),
      mounts: snapshots.mounts(id),
      volatile: options.rm ?? false,
      tty: options.tty ?? false,
      ...(options.stdio === undefined || options.stdio === 'inherit' ? {} : {stdio: options.stdio}),
      ...(options.pidFile === undefined ? {} : {pidFile: options.pidFile}),
      ...(options.signal === undefined ? {} : {signal: options.signal}),
      makeSpec: async (rootfs) => {
        const spec = makeSpec(rootfs);
        if (!options.rm)
          await store.update(`specification of container ${id}`, (tx) =>
            tx.namespace(namespace).containers.put({...record, spec, updatedAt: new Date().toISOString()}),
          );
        return spec;
      },
    });
    return {id, exitStatus};
  } catch (err) {
    // It never ran: there is nothing in it to keep.
    if (!options.rm && isErrdefs(err) && err.details?.runExit !== undefined)
      await deleteContainer(context, namespace, id, {keepSnapshot: false});
    throw err;
  } finally {
    if (options.rm) await deleteContainer(context, namespace, id, {keepSnapshot: false});
  }
}

/** Clears away what a `run --rm` of this id left when it was killed. @throws already_exists its container still runs */
async function removeTransient(context: Context, namespace: string, id: string): Promise<void> {
  const record = context.store.view((tx) => tx.namespace(namespace).containers.find(id));
  if (record?.labels[TRANSIENT] === undefined) return;
  try {
    await cleanup(runDirectory(context, namespace), id, findRuntime());
  } catch (err) {
    throw new ErrdefsError('already_exists', wrap(`container ${JSON.stringify(id)}`, err).message, {cause: err});
  }
  await deleteContainer(context, namespace, id, {keepSnapshot: false});
}

/** The image's labels that its containers get: none that containerd gives a meaning to. */
function containerLabels(config: ExecConfig): Labels {
  const own = Object.entries(config.Labels ?? {}).filter(
    ([key, value]) => !isReservedLabel(key) && !key.startsWith('berth/') && Buffer.byteLength(key + value) <= 4096,
  );
  return {...Object.fromEntries(own), ...(config.StopSignal === undefined ? {} : {[STOP_SIGNAL]: config.StopSignal})};
}
