import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';

export default class Remove extends BaseCommand {
  static override summary = 'remove one or more volumes, with what is in them';
  static override description = 'A volume that a container has, running or not, stays.';
  static override examples = ['volumes rm data'];
  static override args = {name: Args.string({required: true, multiple: true, description: 'volume to remove'})};

  async run(): Promise<{removed: string[]}> {
    const {args, flags} = await this.parse(Remove);
    const {volumes} = await this.namespace(flags);
    return {removed: await this.each('remove', args.name, (name) => volumes.delete(name))};
  }
}
