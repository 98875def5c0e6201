import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';
import {snapshotter} from '../../cli/shared-flags.ts';
import type {SnapshotRecord} from '../../lib/client/types/index.ts';

export default class Info extends BaseCommand {
  static override summary = 'show a snapshot as JSON';
  static override args = {key: Args.string({required: true, description: 'snapshot'})};
  static override flags = {snapshotter: snapshotter()};

  async run(): Promise<SnapshotRecord> {
    const {args, flags} = await this.parse(Info);
    const client = await this.namespace(flags);
    const snapshot = await client.snapshots(flags.snapshotter).get(args.key);
    this.printJSON(snapshot);
    return snapshot;
  }
}
