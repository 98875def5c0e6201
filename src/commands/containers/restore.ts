import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';
import {withProgress} from '../../cli/progress.ts';
import {RESTORE_HINTS} from '../../cli/unsupported-flags.ts';
import type {RunResult} from '../../lib/client/types/index.ts';

export default class Restore extends BaseCommand {
  static override summary = 'let a container go on from its checkpoint, and leave it running';
  static override description =
    'What the container writes goes to the log that it had. The checkpoint is removed once the container runs. One that cannot be restored, because a file that it had open has another size by now, stays. A program that was waiting for a time sees EINTR, as after a signal.';
  static override examples = ['containers restore r1', 'containers restore --keep r1'];
  static override args = {id: Args.string({required: true, description: 'container'})};
  static override flagHints = RESTORE_HINTS;
  static override flags = {keep: Flags.boolean({char: 'k', description: 'keep the checkpoint'})};

  async run(): Promise<RunResult> {
    const {args, flags} = await this.parse(Restore);
    const {containers} = await this.namespace(flags);
    const options = {keep: flags.keep, signal: this.signal};
    const restored = await withProgress(flags, this.context, (onEvent) => containers.restore(args.id, {...options, onEvent}));
    this.print(restored.id);
    return restored;
  }
}
