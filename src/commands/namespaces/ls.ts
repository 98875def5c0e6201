import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';
import {quiet} from '../../cli/shared-flags.ts';
import {formatLabels, formatSize} from '../../cli/value-formatters.ts';
import type {NamespaceRecord, NamespaceUsage} from '../../lib/client/types/index.ts';

const QUOTA = 'berth/quota-bytes';

/** What counts for a quota, in bytes. */
const usedBy = ({content, snapshots, writable}: NamespaceUsage): number => content.size + snapshots.disk + writable.disk;

export default class List extends BaseCommand {
  static override summary = 'list namespaces';
  static override description = `The label ${QUOTA} bounds what a namespace holds: blobs, unpacked layers and data of containers.`;
  static override examples = ['namespaces ls --usage'];
  static override args = {filter: Args.string({multiple: true, description: 'filter, such as labels.team==red'})};
  static override flags = {
    quiet: quiet('the names'),
    usage: Flags.boolean({description: 'show what each namespace holds, and its quota'}),
  };

  async run(): Promise<readonly (NamespaceRecord & {readonly used?: number})[]> {
    const {args, flags} = await this.parse(List);
    const client = await this.client(flags);
    const namespaces = await client.namespaces.list({filters: args.filter ?? []});
    if (!flags.usage || flags.quiet) {
      this.table(['NAME', 'LABELS'], namespaces, ({name, labels}) => [name, formatLabels(labels)]);
      return namespaces;
    }
    const usages = new Map((await client.df()).namespaces.map((usage) => [usage.name, usedBy(usage)]));
    const used = namespaces.map((namespace) => ({...namespace, used: usages.get(namespace.name) ?? 0}));
    this.table(['NAME', 'USED', 'QUOTA', 'LABELS'], used, ({name, used: bytes, labels}) => [
      name,
      formatSize(bytes),
      labels[QUOTA] === undefined ? '-' : formatSize(Number(labels[QUOTA])),
      formatLabels(labels),
    ]);
    return used;
  }
}
