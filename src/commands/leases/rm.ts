import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import {BaseCommand} from '../../cli/base.ts';

export default class Remove extends BaseCommand {
  static override summary = 'remove one or more leases, and what only they kept';
  static override args = {id: Args.string({required: true, multiple: true, description: 'lease to remove'})};
  static override flags = {sync: Flags.boolean({hidden: true, description: 'taken for the sake of scripts: removal is always complete'})};

  async run(): Promise<{removed: string[]}> {
    const {args, flags} = await this.parse(Remove);
    const {leases} = await this.namespace(flags);
    return {removed: await this.each('delete', args.id, (id) => leases.delete(id))};
  }
}
