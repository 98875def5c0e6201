import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';
import {withProgress} from '../../cli/progress.ts';
import {CHECKPOINT_HINTS} from '../../cli/unsupported-flags.ts';
import type {CheckpointResult} from '../../lib/client/types/index.ts';

export default class Checkpoint extends BaseCommand {
  static override summary = 'write the processes of a detached container to disk, and end them';
  static override description =
    'criu writes memory, descriptors and terminals; "containers restore" lets the container go on from there, also after a reboot. The checkpoint stays with its container, in place of an earlier one, until it is restored or removed. Files are not part of it: they stay in the snapshot of the container, as they are.';
  static override examples = ['containers checkpoint r1', 'containers checkpoint --leave-running r1', 'containers checkpoint --remove r1'];
  static override args = {id: Args.string({required: true, description: 'container'})};
  static override flagHints = CHECKPOINT_HINTS;
  static override flags = {
    'leave-running': Flags.boolean({char: 'R', description: 'let the container go on'}),
    'tcp-established': Flags.boolean({description: 'keep TCP connections; without it, a container that has some is refused'}),
    remove: Flags.boolean({exclusive: ['leave-running', 'tcp-established'], description: 'remove the checkpoint instead of making one'}),
  };

  async run(): Promise<CheckpointResult | {readonly removed: string}> {
    const {args, flags} = await this.parse(Checkpoint);
    const {containers} = await this.namespace(flags);
    if (flags.remove) {
      await containers.removeCheckpoint(args.id);
      this.print(args.id);
      return {removed: args.id};
    }
    const options = {leaveRunning: flags['leave-running'], tcpEstablished: flags['tcp-established'], signal: this.signal};
    const made = await withProgress(flags, this.context, (onEvent) => containers.checkpoint(args.id, {...options, onEvent}));
    this.print(made.id);
    return made;
  }
}
