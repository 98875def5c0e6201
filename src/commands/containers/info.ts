import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';

export default class Info extends BaseCommand {
  static override summary = 'show a container as JSON';
  static override args = {id: Args.string({required: true, description: 'container'})};
  static override flags = {spec: Flags.boolean({description: 'show only the runtime specification'})};

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(Info);
    const {containers} = await this.namespace(flags);
    const container = await containers.get(args.id);
    const shown = flags.spec ? container.spec : container;
    this.printJSON(shown);
    return shown;
  }
}
