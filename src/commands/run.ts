import {CONTAINER_FLAGS, containerID, explainID, MISSING_HINTS, REPLACED_ARGS, withContainerOptions} from '../cli/container-flags.ts';
import {Args, Flags} from '../cli/define-flags.ts';
import {ProcessCommand} from '../cli/process-base-command.ts';
import {START_FLAGS, startOptions} from '../cli/task-flags.ts';
import {UNSUPPORTED_FLAGS} from '../cli/unsupported-flags.ts';
import type {RunResult} from '../lib/client/types/index.ts';

export default class Run extends ProcessCommand {
  static override summary = 'run a container';
  static override description =
    `Everything after IMAGE and ID is the container's command. It replaces the image's ENTRYPOINT and CMD. The command ends with the
container, and with its exit status; with --detach the container runs on under conmon.`;
  static override examples = [
    'run --rm redis r1 redis-server --version',
    'run --rm -it alpine a1 sh',
    'run --detach --name r1 redis',
    "run --rm --name '' -v .:/src -w /src alpine ls",
  ];
  static override positionals = 2;
  static override replacedArgs = REPLACED_ARGS;
  static override missingHints = MISSING_HINTS;
  static override flagHints = UNSUPPORTED_FLAGS;
  static override args = {
    image: Args.string({required: true, description: 'image'}),
    id: Args.string({required: true, description: 'name of the new container'}),
  };
  static override flags = {
    rm: Flags.boolean({description: 'remove the container when it ends'}),
    ...START_FLAGS,
    ...CONTAINER_FLAGS,
  };

  async run(): Promise<RunResult> {
    const {args, flags} = await this.parse(Run);
    const namespace = await this.namespace(flags);
    const id = await containerID(args.id, flags.name, this.tail);
    const started = {...startOptions(flags), rm: flags.rm};
    const result = await withContainerOptions(flags, id, this.tail, this.context, (options) =>
      namespace.run(args.image ?? '', id, {...options, ...started, signal: this.deadline}),
    ).catch((err: unknown) => {
      throw explainID(err, args.id, this.tail);
    });
    return this.conclude(result, result.id);
  }
}
