/** `tasks start`: starts a container that exists, from the specification in its record. */
import {berth} from '../../berth-command.ts';
import {ErrdefsError} from '../../errdefs.ts';
import {parseDigest} from '../../oci/descriptor.ts';
import type {Restoration} from '../../runtime/detached.ts';
import {idMappings} from '../../runtime/id-mappings.ts';
import type {Mount} from '../../runtime/mount-plan.ts';
import type {Spec} from '../../runtime/spec.ts';
import type {ContainerRecord} from '../../store/records.ts';
import {SnapshotStore} from '../../store/snapshots.ts';
import {changeContainer} from '../change-container.ts';
import type {Context} from '../context.ts';
import {directoryMounts} from '../host-directory-root.ts';
import {missingSpecification} from '../missing-specification.ts';
import {notFoundIn} from '../not-found.ts';
import {assertAllowed, assertUnsignedAllowed} from '../signatures/assert-allowed.ts';
import {IMAGE_DIGEST, policyOf} from '../signatures/policy.ts';
import type {PipedTask, RunResult, TaskStartOptions} from '../types/index.ts';
import {findTaskIfAny} from './find-task.ts';
import {launch} from './launch.ts';
import {assertMappable} from './mapped-tree.ts';
import {asRunFailure} from './mark-run-failure.ts';
import {recordedNetwork} from './network-options.ts';
import type {MaybePiped} from './with-streams.ts';

/** @property restore goes on from a checkpoint */
type StartOptions = MaybePiped<TaskStartOptions> & {readonly restore?: Restoration};

export function startTask(context: Context, namespace: string, id: string, options: StartOptions): Promise<RunResult | PipedTask> {
  return asRunFailure(() => startContainer(context, namespace, id, options));
}

/**
 * For those that would end a task first.
 *
 * @throws failed_precondition the namespace demands signatures, and the container's image has none
 */
export async function assertMayStart(context: Context, namespace: string, id: string): Promise<void> {
  const record = context.store.view((tx) => tx.namespace(namespace).containers.find(id));
  if (record !== undefined) await assertStillAllowed(context, namespace, record);
}

export async function startContainer(
  context: Context,
  namespace: string,
  id: string,
  options: StartOptions,
): Promise<RunResult | PipedTask> {
  const {store} = context;
  const record = store.view((tx) => tx.namespace(namespace).containers.find(id));
  if (record === undefined) throw notFoundIn(store, namespace, 'container', id, (ns) => ns.containers.find(id) !== undefined);
  if (record.spec === null) {
    const found = await findTaskIfAny(context, namespace, id);
    if (found !== undefined) throw new ErrdefsError('already_exists', `container ${JSON.stringify(id)} is ${found.task.status}`);
    throw await missingSpecification(context, namespace, record);
  }
  await assertStillAllowed(context, namespace, record);
  const spec = record.spec as Spec;
  const mappings = idMappings(spec.linux);
  if (mappings !== undefined) await assertMappable(context, mappings, record.snapshotKey === '');
  const network = recordedNetwork(record);
  return launch(
    context,
    namespace,
    {
      id,
      begin: async () => {
        const now = store.view((tx) => tx.namespace(namespace).containers.find(id));
        if (now?.createdAt !== record.createdAt)
          throw new ErrdefsError('aborted', 'the container was removed meanwhile', {hint: 'run it again'});
        const mounts =
          record.snapshotKey === ''
            ? directoryMounts(spec.root.path)
            : new SnapshotStore(store, namespace, record.snapshotter).mounts(record.snapshotKey);
        // criu restores the mounts of a container, but of its root only what the runtime gives it.
        return options.restore !== undefined && spec.root.readonly === true ? readOnly(mounts) : mounts;
      },
      makeSpec: () => spec,
      keepSpec: async (placed) => {
        await changeContainer(context, namespace, id, 'specification', () => ({spec: placed}));
      },
      tty: spec.process.terminal === true,
      mappings,
      rm: false,
      ...(network === undefined ? {} : {network}),
      ...(record.runtime.name.startsWith('io.containerd.') ? {} : {runtime: record.runtime.name}),
      ...(options.restore === undefined ? {} : {restore: options.restore}),
      ...(options.signal === undefined ? {} : {signal: options.signal}),
    },
    options,
  );
}

/** The last one is the root. */
const readOnly = (mounts: readonly Mount[]): readonly Mount[] =>
  mounts.map((mount, i) =>
    i < mounts.length - 1 ? mount : {...mount, options: ['ro', ...mount.options.filter((option) => option !== 'rw')]},
  );

/**
 * What the namespace demands may have changed since the container was made, and its image's name may be another image's. Of a container
 * that does not say what it was made of, the image that has the name now is asked.
 *
 * @throws failed_precondition it is not allowed, or is gone
 */
async function assertStillAllowed(context: Context, namespace: string, {image: name, labels: own}: ContainerRecord): Promise<void> {
  if (name === '') {
    context.store.view((tx) => assertUnsignedAllowed(tx, namespace));
    return;
  }
  const {labels, image} = context.store.view((tx) => ({
    labels: tx.namespaces.find(namespace)?.labels,
    image: tx.namespace(namespace).images.find(name),
  }));
  if (policyOf(labels) === undefined) return;
  const madeOf = own[IMAGE_DIGEST];
  if (madeOf !== undefined) {
    await assertAllowed(context, namespace, {name, target: {digest: parseDigest(madeOf)}});
    return;
  }
  if (image === undefined)
    throw new ErrdefsError('failed_precondition', `image ${JSON.stringify(name)} is gone, so that its signature cannot be checked`, {
      hint: `pull it again: ${berth`-n ${namespace} images pull ${name}`}`,
    });
  await assertAllowed(context, namespace, image);
}
