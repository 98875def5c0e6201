import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';
import {compatible} from '../../cli/shared-flags.ts';

export default class Remove extends BaseCommand {
  static override summary = 'remove one or more containers';
  static override args = {id: Args.string({required: true, multiple: true, description: 'container to remove'})};
  static override flags = {
    force: Flags.boolean({char: 'f', description: 'end those that run'}),
    volumes: compatible('volumes without a name go with their container', 'v'),
    'keep-snapshot': Flags.boolean({description: 'keep the snapshot'}),
  };

  async run(): Promise<{removed: string[]}> {
    const {args, flags} = await this.parse(Remove);
    const {containers} = await this.namespace(flags);
    const options = {force: flags.force, keepSnapshot: flags['keep-snapshot']};
    return {removed: await this.each('delete', args.id, (id) => containers.delete(id, options))};
  }
}
