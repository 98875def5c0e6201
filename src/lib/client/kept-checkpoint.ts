/**
 * The checkpoint of a container: a snapshot of `native` under a key of its own, to which the container refers by a label. So collection,
 * counts, `df`, `check`, quotas and kills treat it as every other tree (docs/decisions/0046-checkpoints.md).
 *
 *     checkpoint.json    how its task was started
 *     images/            criu's
 */
import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {ErrdefsError, fromErrno, isErrdefs} from '../errdefs.ts';
import type {TaskIO} from '../runtime/task-record.ts';
import type {ContainerRecord, Labels, SnapshotRecord} from '../store/records.ts';
import {referencesOfContainer, snapshotNode} from '../store/refcounts.ts';
import type {NamespaceView} from '../store/transaction-types.ts';
import type {Context} from './context.ts';

export const CHECKPOINT_SNAPSHOTTER = 'native';

export const checkpointKey = (id: string): string => `checkpoints/${id}`;

/** Label of a checkpoint's snapshot, and of its container: when it was made. */
const CHECKPOINT = 'berth/checkpoint';
const REFERENCE = `containerd.io/gc.ref.snapshot.${CHECKPOINT_SNAPSHOTTER}/checkpoint`;

/** Labels of a container that has a checkpoint; of `undefined`, changes of one that has none any more. */
export const checkpointLabels = (id: string, createdAt: string | undefined): Labels => ({
  [CHECKPOINT]: createdAt ?? '',
  [REFERENCE]: createdAt === undefined ? '' : checkpointKey(id),
});

export const snapshotLabels = (createdAt: string): Labels => ({[CHECKPOINT]: createdAt});

export const isCheckpoint = ({key, labels}: SnapshotRecord): boolean => key.startsWith('checkpoints/') && labels[CHECKPOINT] !== undefined;

/** The checkpoint of a container; `undefined` when it has none. */
export function findCheckpoint(ns: NamespaceView, container: ContainerRecord): SnapshotRecord | undefined {
  const key = checkpointKey(container.id);
  if (!referencesOfContainer(container).nodes.includes(snapshotNode(CHECKPOINT_SNAPSHOTTER, key))) return undefined;
  const found = ns.snapshots(CHECKPOINT_SNAPSHOTTER).find(key);
  return found !== undefined && isCheckpoint(found) ? found : undefined;
}

/** What is written beside criu's images. */
export interface CheckpointDescription {
  readonly version: 1;
  readonly io: TaskIO;
  readonly tcpEstablished: boolean;
}

const DESCRIPTION = 'checkpoint.json';

export const descriptionIn = (tree: string): string => join(tree, DESCRIPTION);
export const imagesIn = (tree: string): string => join(tree, 'images');

/** @returns the tree of a checkpoint, and what it says @throws data_loss it is damaged */
export function readCheckpoint(
  {store}: Context,
  {key, layer}: SnapshotRecord,
): {readonly tree: string; readonly description: CheckpointDescription} {
  const what = `checkpoint ${JSON.stringify(key)}`;
  const tree = join(store.layers.path(layer ?? ''), 'fs');
  try {
    const description = JSON.parse(readFileSync(descriptionIn(tree), 'utf8')) as CheckpointDescription | null;
    if (description?.version === 1 && typeof description.io?.kind === 'string') return {tree, description};
  } catch (err) {
    const known = fromErrno(err, what);
    if (isErrdefs(known) && known.code !== 'not_found') throw known;
  }
  throw new ErrdefsError('data_loss', `${what} cannot be read`, {hint: 'remove it by --remove'});
}
