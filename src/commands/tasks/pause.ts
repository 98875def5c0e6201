import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';

export default class Pause extends BaseCommand {
  static override summary = 'freeze all processes of containers';
  static override args = {id: Args.string({required: true, multiple: true, description: 'task'})};

  async run(): Promise<{readonly paused: readonly string[]}> {
    const {args, flags} = await this.parse(Pause);
    const {tasks} = await this.namespace(flags);
    return {paused: await this.each('pause', args.id, (id) => tasks.pause(id))};
  }
}
