import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';

export default class Remove extends BaseCommand {
  static override summary = 'remove leases, and the data that only they protected';
  static override args = {id: Args.string({required: true, multiple: true, description: 'lease to remove'})};
  static override flags = {sync: Flags.boolean({hidden: true, description: 'accepted for compatibility: removal is always synchronous'})};

  async run(): Promise<{removed: string[]}> {
    const {args, flags} = await this.parse(Remove);
    const {leases} = await this.namespace(flags);
    return {removed: await this.each('delete', args.id, (id) => leases.delete(id))};
  }
}
