import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';

export default class Remove extends BaseCommand {
  static override summary = 'remove one or more empty namespaces';
  static override args = {name: Args.string({required: true, multiple: true, description: 'namespace to remove'})};
  static override flags = {recursive: Flags.boolean({description: 'remove everything in them first'})};

  async run(): Promise<{removed: string[]}> {
    const {args, flags} = await this.parse(Remove);
    const client = await this.client(flags);
    return {removed: await this.each('delete', args.name, (name) => client.namespaces.delete(name, {recursive: flags.recursive}))};
  }
}
