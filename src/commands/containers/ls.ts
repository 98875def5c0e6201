import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/oclif-definitions.ts';
import {quiet} from '../../cli/shared-flags.ts';
import type {ContainerRecord} from '../../lib/client/types/index.ts';

export default class List extends BaseCommand {
  static override summary = 'list containers';
  static override args = {filter: Args.string({multiple: true, description: 'filter, such as image~=redis'})};
  static override flags = {quiet: quiet('the identifiers')};

  async run(): Promise<readonly ContainerRecord[]> {
    const {args, flags} = await this.parse(List);
    const client = await this.namespace(flags);
    const containers = await client.containers.list({filters: args.filter ?? []});
    if (flags.quiet) this.list(containers, ({id}) => id);
    else this.table(['CONTAINER', 'IMAGE', 'RUNTIME'], containers, ({id, image, runtime}) => [id, image, runtime.name]);
    return containers;
  }
}
