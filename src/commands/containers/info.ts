import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import {BaseCommand} from '../../cli/base.ts';

export default class Info extends BaseCommand {
  static override summary = 'show a container as JSON';
  static override args = {id: Args.string({required: true, description: 'container'})};
  static override flags = {spec: Flags.boolean({description: 'only its runtime specification'})};

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(Info);
    const {containers} = await this.namespace(flags);
    const container = await containers.get(args.id);
    const shown = flags.spec ? container.spec : container;
    this.printJSON(shown);
    return shown;
  }
}
