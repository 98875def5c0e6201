/** `tasks start`: starts a container that exists, from the specification in its record. */
import {ErrdefsError} from '../../errdefs.ts';
import type {Spec} from '../../runtime/spec.ts';
import {SnapshotStore} from '../../store/snapshots.ts';
import {changeContainer} from '../change-container.ts';
import type {Context} from '../context.ts';
import {notFoundIn} from '../not-found.ts';
import type {RunResult, TaskStartOptions} from '../types/index.ts';
import {launch} from './launch.ts';
import {recordedNetwork} from './network-options.ts';
import {asRunFailure} from './run-failure.ts';

export function startTask(context: Context, namespace: string, id: string, options: TaskStartOptions): Promise<RunResult> {
  return asRunFailure(() => startContainer(context, namespace, id, options));
}

async function startContainer(context: Context, namespace: string, id: string, options: TaskStartOptions): Promise<RunResult> {
  const {store} = context;
  const record = store.view((tx) => tx.namespace(namespace).containers.find(id));
  if (record === undefined) throw notFoundIn(store, namespace, 'container', id, (ns) => ns.containers.find(id) !== undefined);
  if (record.spec === null)
    throw new ErrdefsError(
      'failed_precondition',
      `container ${JSON.stringify(id)} has no specification: the run that made it did not get that far`,
      {
        hint: `remove it: ctr -n ${namespace} containers rm ${id}`,
      },
    );
  const spec = record.spec as Spec;
  const network = recordedNetwork(record);
  const snapshots = new SnapshotStore(store, namespace, record.snapshotter);
  return launch(
    context,
    namespace,
    {
      id,
      begin: async () => snapshots.mounts(record.snapshotKey),
      makeSpec: () => spec,
      keepSpec: async (placed) => {
        await changeContainer(context, namespace, id, 'specification', () => ({spec: placed}));
      },
      tty: spec.process.terminal === true,
      rm: false,
      ...(network === undefined ? {} : {network}),
      ...(record.runtime.name.startsWith('io.containerd.') ? {} : {runtime: record.runtime.name}),
      ...(options.signal === undefined ? {} : {signal: options.signal}),
    },
    options,
  );
}
