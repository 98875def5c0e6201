import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';
import {withProgress} from '../../cli/progress.ts';
import {TASK_CHECKPOINT_HINTS} from '../../cli/unsupported-flags.ts';
import type {CheckpointResult} from '../../lib/client/types/index.ts';

export default class Checkpoint extends BaseCommand {
  static override summary = 'write the processes of a detached container to disk, and let them go on';
  static override description =
    'As "containers checkpoint --leave-running"; with --exit, as "containers checkpoint". "containers restore" lets the container go on from there, once it has ended.';
  static override examples = ['tasks checkpoint r1', 'tasks checkpoint --exit r1'];
  static override args = {id: Args.string({required: true, description: 'container'})};
  static override flagHints = TASK_CHECKPOINT_HINTS;
  static override flags = {
    exit: Flags.boolean({description: 'end the container'}),
    'tcp-established': Flags.boolean({description: 'keep TCP connections; without it, a container that has some is refused'}),
  };

  async run(): Promise<CheckpointResult> {
    const {args, flags} = await this.parse(Checkpoint);
    const {containers} = await this.namespace(flags);
    const options = {leaveRunning: !flags.exit, tcpEstablished: flags['tcp-established'], signal: this.signal};
    const made = await withProgress(flags, this.context, (onEvent) => containers.checkpoint(args.id, {...options, onEvent}));
    this.print(made.id);
    return made;
  }
}
