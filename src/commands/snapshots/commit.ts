import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';
import {label, snapshotter} from '../../cli/shared-flags.ts';
import {parseLabels} from '../../cli/value-parsers.ts';
import type {SnapshotRecord} from '../../lib/client/types/index.ts';

export default class Commit extends BaseCommand {
  static override summary = 'turn an active snapshot into a committed one';
  static override args = {
    name: Args.string({required: true, description: 'name of the committed snapshot'}),
    key: Args.string({required: true, description: 'active snapshot'}),
  };
  static override flags = {label: label('the snapshot'), snapshotter: snapshotter()};

  async run(): Promise<SnapshotRecord> {
    const {args, flags} = await this.parse(Commit);
    const client = await this.namespace(flags);
    return client.snapshots(flags.snapshotter).commit(args.name, args.key, {labels: parseLabels(flags.label ?? [])});
  }
}
