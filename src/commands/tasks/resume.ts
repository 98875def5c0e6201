import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';

export default class Resume extends BaseCommand {
  static override summary = 'let paused containers go on';
  static override args = {id: Args.string({required: true, multiple: true, description: 'task'})};

  async run(): Promise<{readonly resumed: readonly string[]}> {
    const {args, flags} = await this.parse(Resume);
    const {tasks} = await this.namespace(flags);
    return {resumed: await this.each('resume', args.id, (id) => tasks.resume(id))};
  }
}
