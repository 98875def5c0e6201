import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/oclif-definitions.ts';
import {quiet} from '../../cli/shared-flags.ts';
import {formatLabels} from '../../cli/value-formatters.ts';
import type {NamespaceRecord} from '../../lib/client/types/index.ts';

export default class List extends BaseCommand {
  static override summary = 'list namespaces';
  static override args = {filter: Args.string({multiple: true, description: 'filter, such as labels.team==red'})};
  static override flags = {quiet: quiet('the names')};

  async run(): Promise<readonly NamespaceRecord[]> {
    const {args, flags} = await this.parse(List);
    const client = await this.client(flags);
    const namespaces = await client.namespaces.list({filters: args.filter ?? []});
    this.table(['NAME', 'LABELS'], namespaces, ({name, labels}) => [name, formatLabels(labels)]);
    return namespaces;
  }
}
