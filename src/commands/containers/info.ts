import {BaseCommand} from '../../cli/base-command.ts';
import type {ForeignDocument} from '../../cli/command-types.ts';
import {Args, Flags} from '../../cli/define-flags.ts';
import type {ContainerRecord} from '../../lib/client/types/index.ts';

export default class Info extends BaseCommand {
  static override summary = 'show a container as JSON';
  static override args = {id: Args.string({required: true, description: 'container'})};
  static override flags = {spec: Flags.boolean({description: 'show only the runtime specification'})};

  async run(): Promise<ContainerRecord | ForeignDocument> {
    const {args, flags} = await this.parse(Info);
    const {containers} = await this.namespace(flags);
    const container = await containers.get(args.id);
    const shown = flags.spec ? (container.spec as ForeignDocument) : container;
    this.printJSON(shown);
    return shown;
  }
}
