import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';
import {snapshotter} from '../../cli/shared-flags.ts';
import {formatLabels} from '../../cli/value-formatters.ts';
import {parseLabels} from '../../cli/value-parsers.ts';
import type {SnapshotRecord} from '../../lib/client/types/index.ts';

export default class Label extends BaseCommand {
  static override summary = 'set labels of a snapshot; an empty value removes one';
  static override args = {
    key: Args.string({required: true, description: 'snapshot'}),
    label: Args.string({multiple: true, description: 'label as KEY=VALUE'}),
  };
  static override flags = {snapshotter: snapshotter()};

  async run(): Promise<SnapshotRecord> {
    const {args, flags} = await this.parse(Label);
    const client = await this.namespace(flags);
    const snapshot = await client.snapshots(flags.snapshotter).label(args.key, parseLabels(args.label ?? []));
    this.print(formatLabels(snapshot.labels));
    return snapshot;
  }
}
