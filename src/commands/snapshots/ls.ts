import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';
import {quiet, snapshotter} from '../../cli/shared-flags.ts';
import type {SnapshotRecord} from '../../lib/client/types/index.ts';

const KINDS = {active: 'Active', view: 'View', committed: 'Committed'} as const;

export default class List extends BaseCommand {
  static override summary = 'list snapshots';
  static override args = {filter: Args.string({multiple: true, description: 'filter, such as kind==active'})};
  static override flags = {quiet: quiet('the keys'), snapshotter: snapshotter()};

  async run(): Promise<readonly SnapshotRecord[]> {
    const {args, flags} = await this.parse(List);
    const client = await this.namespace(flags);
    const snapshots = await client.snapshots(flags.snapshotter).list({filters: args.filter ?? []});
    this.table(['KEY', 'PARENT', 'KIND'], snapshots, ({key, parent, kind}) => [key, parent ?? '', KINDS[kind]]);
    return snapshots;
  }
}
