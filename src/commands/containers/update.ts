import {BaseCommand} from '../../cli/base-command.ts';
import {LIMIT_FLAGS, limitOptions} from '../../cli/container-flags.ts';
import {Args} from '../../cli/define-flags.ts';

export default class Update extends BaseCommand {
  static override summary = 'change the limits of containers, of running ones at once';
  static override examples = ['update --memory 512M r1', 'update --cpus 1.5 --pids-limit 200 r1 r2'];
  static override args = {id: Args.string({required: true, multiple: true, description: 'container'})};
  static override flags = LIMIT_FLAGS;

  async run(): Promise<{updated: string[]}> {
    const {args, flags} = await this.parse(Update);
    const {containers} = await this.namespace(flags);
    const limits = limitOptions(flags);
    return {updated: await this.each('update', args.id, (id) => containers.update(id, limits).then(() => id))};
  }
}
