/** What a snapshot changed: its tree and another one, mounted privately, compared, and written as a layer. */

import {findChanges, type TreeChange, type TreePair} from '../../archive/find-tree-changes.ts';
import {writeLayerDiff} from '../../archive/layer-diff.ts';
import {berth} from '../../berth-command.ts';
import {ErrdefsError, fromErrno, hasCode, isErrdefs} from '../../errdefs.ts';
import type {Mount} from '../../runtime/mount-plan.ts';
import {hintToRun} from '../../runtime/next-command.ts';
import {runtimeStatePath} from '../../store/layout.ts';
import {SnapshotStore} from '../../store/snapshots.ts';
import {findImage, planLocally} from '../api/find-image.ts';
import type {Context} from '../context.ts';
import {startScratchMountHolder} from '../pull/layer-lookup.ts';
import {type FoundTask, findTask} from '../tasks/find-task.ts';
import {pauseForNow} from '../tasks/processes-and-freezer.ts';
import type {ContainerChange, ImageChangesOptions} from '../types/index.ts';
import {withUnpacked} from './unpacked-image.ts';

/** A tree to compare, in a namespace and a snapshotter. */
export interface SnapshotPair {
  readonly namespace: string;
  readonly snapshotter: string;
  readonly key: string;
  /** The tree before; default: the parent's. */
  readonly against?: string | undefined;
  /** A container's: what every start makes to mount on is no change of its own. */
  readonly ofContainer?: boolean;
}

/**
 * Calls `use` with both trees, which nobody changes meanwhile: a container that runs in one is paused.
 *
 * @throws aborted the snapshot was removed meanwhile
 */
export async function* withTrees<T>(context: Context, pair: SnapshotPair, use: (trees: TreePair) => AsyncIterable<T>): AsyncGenerator<T> {
  const {namespace, snapshotter, key} = pair;
  const snapshots = new SnapshotStore(context.store, namespace, snapshotter);
  const record = snapshots.get(key);
  const against = pair.against ?? record.parent;
  const [lower, upper] = [against === undefined ? [] : snapshots.treeMounts(against), snapshots.treeMounts(key)];
  const {assertStill, resume} = await pauseUser(context, pair);
  try {
    const holder = await startScratchMountHolder(runtimeStatePath.views(context.stateDir), context.store.housekeeping);
    try {
      const paths = await holder.mount(joined(lower, upper));
      const overlaid = against === record.parent ? snapshots.ownTree(key) : undefined;
      yield* use({lower: lower.length === 0 ? undefined : paths[lower.length - 1], upper: paths.at(-1)!, overlaid});
    } finally {
      await holder.close();
    }
    await assertStill();
  } finally {
    await resume();
  }
  const now = snapshots.list().find((one) => one.key === key);
  if (now?.layer !== record.layer) throw new ErrdefsError('aborted', `snapshot ${JSON.stringify(key)} was removed meanwhile`);
}

/** Both lists of mounts as one. */
function joined(lower: readonly Mount[], upper: readonly Mount[]): readonly Mount[] {
  const shift = (text: string): string =>
    text.replaceAll(/\{\{ mount (\d+) \}\}/g, (_, n: string) => `{{ mount ${Number(n) + lower.length} }}`);
  return [...lower, ...upper.map(({type, source, options}) => ({type, source: shift(source), options: options.map(shift)}))];
}

/** Holds the container that writes to a snapshot. */
interface Hold {
  /** @throws aborted it went on meanwhile, or was started */
  assertStill(): Promise<void>;
  /** Lets it go on, if this hold has paused it. */
  resume(): Promise<void>;
}

/** Finds the task of the container that writes to a snapshot. */
function taskOf(context: Context, {namespace, snapshotter, key}: SnapshotPair): (() => Promise<FoundTask | undefined>) | undefined {
  const user = context.store.view((tx) =>
    tx
      .namespace(namespace)
      .containers.list()
      .find((one) => one.snapshotter === snapshotter && one.snapshotKey === key),
  );
  if (user === undefined) return undefined;
  return () =>
    findTask(context, namespace, user.id).catch((err: unknown) => {
      // Without a runtime nothing runs.
      if (hasCode(err, 'not_found') || hasCode(err, 'unavailable')) return undefined;
      throw err;
    });
}

/** Whether `withTrees` has to pause a container. */
export const isInUse = async (context: Context, pair: SnapshotPair): Promise<boolean> =>
  (await taskOf(context, pair)?.())?.task.status === 'running';

async function pauseUser(context: Context, pair: SnapshotPair): Promise<Hold> {
  const nothing = async (): Promise<void> => {};
  const find = taskOf(context, pair);
  if (find === undefined) return {assertStill: nothing, resume: nothing};
  const found = await find();
  const goOn = found?.task.status === 'running' ? await pauseForNow(found) : undefined;
  return {
    assertStill: async () => {
      const now = (await find())?.task;
      // What is killed ends although it is frozen.
      if (now === undefined || now.status === 'paused' || now.status === 'stopped' || now.status === 'created') return;
      throw new ErrdefsError('aborted', `container ${JSON.stringify(now.id)} ran while its tree was read`, {hint: 'run it again'});
    },
    resume: async () => {
      if (goOn === undefined) return;
      try {
        await goOn();
      } catch (err) {
        // It was killed, or somebody else has let it go on.
        if ((await find())?.task.status !== 'paused') return;
        const {id} = found!.task;
        const failure = fromErrno(err, `container ${JSON.stringify(id)} stays paused`);
        if (!isErrdefs(failure)) throw err;
        context.warn(
          new ErrdefsError(failure.code, failure.message, {
            cause: err,
            hint: hintToRun(pair.namespace, id, 'paused'),
          }),
        );
      }
    },
  };
}

/** What the runtime makes in every tree that lacks it, to mount on; empty as long as nobody else puts something there. */
const MOUNT_POINTS: Readonly<Record<'directories' | 'files', ReadonlySet<string>>> = {
  directories: new Set(['dev', 'etc', 'proc', 'run', 'sys']),
  files: new Set(['etc/hostname', 'etc/hosts', 'etc/resolv.conf']),
};

function withoutMountPoints(changes: readonly TreeChange[]): readonly TreeChange[] {
  const holding = new Set<string>();
  // What is in a directory comes before the directory.
  const kept = changes.toReversed().filter(({kind, path, stat}) => {
    const isDirectory = stat?.isDirectory() === true && MOUNT_POINTS.directories.has(path) && !holding.has(path);
    const isFile = stat?.isFile() === true && MOUNT_POINTS.files.has(path) && stat.size === 0n;
    if (kind === 'added' && (isDirectory || isFile)) return false;
    holding.add(path.slice(0, path.lastIndexOf('/')));
    return true;
  });
  return kept.toReversed();
}

async function changesIn(
  trees: TreePair,
  {ofContainer = false}: SnapshotPair,
  signal: AbortSignal | undefined,
): Promise<readonly TreeChange[]> {
  const changes = await findChanges(trees, signal);
  return ofContainer ? withoutMountPoints(changes) : changes;
}

/** The tar of a layer that makes the tree of `against` that of the snapshot. @param latest latest mtime, in seconds since 1970 */
export function snapshotLayer(
  context: Context,
  pair: SnapshotPair,
  {latest, signal}: {readonly latest?: number | undefined; readonly signal?: AbortSignal | undefined},
): AsyncGenerator<Buffer> {
  return withTrees(context, pair, async function* write(trees) {
    yield* writeLayerDiff(trees.upper, await changesIn(trees, pair, signal), {latest, signal});
  });
}

/** @throws not_found @throws failed_precondition it has no snapshot */
export async function containerChanges(
  context: Context,
  namespace: string,
  id: string,
  {signal}: {readonly signal?: AbortSignal},
): Promise<readonly ContainerChange[]> {
  return listChanges(context, containerPair(context, namespace, id), signal);
}

/** What the top layer of an image changes in those below it. @throws not_found */
export async function imageChanges(
  context: Context,
  namespace: string,
  ref: string,
  {platform, snapshotter: asked, signal}: ImageChangesOptions,
): Promise<readonly ContainerChange[]> {
  const image = findImage(context, namespace, ref);
  const plan = await planLocally(context, namespace, image, platform);
  return withUnpacked(context, namespace, {name: image.name, plan}, {snapshotter: asked, signal}, async (snapshotter, top) =>
    top === undefined ? [] : listChanges(context, {namespace, snapshotter, key: top}, signal),
  );
}

async function listChanges(context: Context, pair: SnapshotPair, signal: AbortSignal | undefined): Promise<readonly ContainerChange[]> {
  const found: TreeChange[] = [];
  for await (const change of withTrees(context, pair, async function* list(trees) {
    yield* await changesIn(trees, pair, signal);
  }))
    found.push(change);
  const kinds = new Map<string, ContainerChange['kind']>();
  for (const {kind, path} of found) {
    if (kind === 'unmodified') continue;
    for (let slash = path.indexOf('/'); slash >= 0; slash = path.indexOf('/', slash + 1)) {
      const parent = path.slice(0, slash);
      if (!kinds.has(parent)) kinds.set(parent, 'modified');
    }
    kinds.set(path, kind);
  }
  return [...kinds].map(([path, kind]) => ({kind, path: `/${Buffer.from(path, 'latin1').toString()}`}));
}

export function containerPair(context: Context, namespace: string, id: string): SnapshotPair {
  const record = context.store.view((tx) => tx.namespace(namespace).containers.find(id));
  if (record === undefined)
    throw new ErrdefsError('not_found', `container ${JSON.stringify(id)} in namespace ${JSON.stringify(namespace)}`, {
      hint: `list them: ${berth`-n ${namespace} containers ls`}`,
    });
  if (record.snapshotKey === '')
    throw new ErrdefsError('failed_precondition', `container ${JSON.stringify(id)} has no snapshot: its root is a directory`);
  return {namespace, snapshotter: record.snapshotter, key: record.snapshotKey, ofContainer: true};
}
