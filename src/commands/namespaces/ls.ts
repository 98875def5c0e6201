import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';
import {quiet} from '../../cli/shared-flags.ts';
import {formatLabels, formatSize} from '../../cli/value-formatters.ts';
import type {NamespaceRecord} from '../../lib/client/types/index.ts';

export default class List extends BaseCommand {
  static override summary = 'list namespaces';
  static override description = 'The label berth/quota-bytes bounds what a namespace holds: blobs, unpacked layers and data of containers.';
  static override examples = ['namespaces ls --usage'];
  static override args = {filter: Args.string({multiple: true, description: 'filter, such as labels.team==red'})};
  static override flags = {
    quiet: quiet('the names'),
    usage: Flags.boolean({description: 'show what each namespace holds, and its quota'}),
  };

  async run(): Promise<readonly (NamespaceRecord & {readonly used?: number; readonly quota?: number})[]> {
    const {args, flags} = await this.parse(List);
    const client = await this.client(flags);
    const namespaces = await client.namespaces.list({filters: args.filter ?? []});
    if (!flags.usage || flags.quiet) {
      this.table(['NAME', 'LABELS'], namespaces, ({name, labels}) => [name, formatLabels(labels)]);
      return namespaces;
    }
    const usages = new Map((await client.df()).namespaces.map((usage) => [usage.name, usage]));
    const rows = namespaces.map((namespace): NamespaceRecord & {readonly used: number; readonly quota?: number} => {
      const {used = 0, quota} = usages.get(namespace.name) ?? {};
      return {...namespace, used, ...(quota === undefined ? {} : {quota})};
    });
    this.table(['NAME', 'USED', 'QUOTA', 'LABELS'], rows, ({name, used, quota, labels}) => [
      name,
      formatSize(used),
      quota === undefined ? '-' : formatSize(quota),
      formatLabels(labels),
    ]);
    return rows;
  }
}
