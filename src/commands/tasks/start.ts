import {Args, Flags} from '../../cli/define-flags.ts';
import {ProcessCommand} from '../../cli/process-base-command.ts';
import {START_FLAGS, startOptions} from '../../cli/task-flags.ts';
import {NO_FIFOS} from '../../cli/unsupported-flags.ts';
import type {RunResult} from '../../lib/client/types/index.ts';

export default class Start extends ProcessCommand {
  static override summary = 'start a container that has no task';
  static override description = 'Without --detach it ends with the container, and with its exit status.';
  static override examples = ['tasks start r1', 'tasks start --detach r1'];
  static override flagHints = NO_FIFOS;
  static override args = {id: Args.string({required: true, description: 'container'})};
  static override flags = {
    ...START_FLAGS,
    'split-cgroup': Flags.boolean({
      description: 'put its control group below that of this command, for a unit of systemd with Delegate=yes',
    }),
    interactive: Flags.boolean({char: 'i', description: 'keep what it reads open, for "tasks attach"; with --detach'}),
  };

  async run(): Promise<RunResult> {
    const {args, flags} = await this.parse(Start);
    const {tasks} = await this.namespace(flags);
    const result = await tasks.start(args.id, {
      ...startOptions(flags),
      ...(flags['split-cgroup'] ? {splitCgroup: true} : {}),
      signal: this.deadline,
    });
    return this.conclude(result, result.id);
  }
}
