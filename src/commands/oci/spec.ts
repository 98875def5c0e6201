import {BaseCommand} from '../../cli/base-command.ts';

export default class Spec extends BaseCommand {
  static override summary = 'show the default specification of a container, as JSON';
  static override description = 'The one of a container is shown by "containers info --spec".';

  async run(): Promise<unknown> {
    const {flags} = await this.parse(Spec);
    const spec = await (await this.client(flags)).defaultSpec();
    this.printJSON(spec);
    return spec;
  }
}
