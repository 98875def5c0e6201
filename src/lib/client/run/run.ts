/** `run REF ID`: creates snapshot, record and specification, runs the container, and with `rm` removes all of it when it ends. */
import {changeContainer} from '../change-container.ts';
import type {Context} from '../context.ts';
import {launch} from '../tasks/launch.ts';
import {asRunFailure} from '../tasks/mark-run-failure.ts';
import type {MaybePiped} from '../tasks/with-streams.ts';
import type {PipedTask, RunOptions, RunResult} from '../types/index.ts';
import {newContainer} from './prepare-container.ts';

export function run(
  context: Context,
  namespace: string,
  ref: string,
  id: string,
  options: MaybePiped<RunOptions>,
): Promise<RunResult | PipedTask> {
  return asRunFailure(async () => {
    const {rm = false, signal} = options;
    const container = await newContainer(context, namespace, ref, id, options);
    return launch(
      context,
      namespace,
      {
        id,
        begin: (owner) => container.begin(rm ? owner : undefined),
        makeSpec: container.makeSpec,
        keepSpec: async (spec) => {
          if (!rm) await changeContainer(context, namespace, id, 'specification', () => ({spec}));
        },
        onExit: async (failed) => {
          // A container that never ran has a snapshot without data.
          if (rm || failed) await container.remove();
        },
        rm,
        tty: container.tty,
        mappings: container.mappings,
        ...(container.network === undefined ? {} : {network: container.network}),
        ...(options.runtime === undefined ? {} : {runtime: options.runtime}),
        ...(signal === undefined ? {} : {signal}),
      },
      options,
    );
  });
}
