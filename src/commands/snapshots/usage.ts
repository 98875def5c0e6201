import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';
import {quiet, snapshotter} from '../../cli/shared-flags.ts';
import {formatSize} from '../../cli/value-formatters.ts';
import type {SnapshotUsage} from '../../lib/client/types/index.ts';

export default class Usage extends BaseCommand {
  static override summary = 'show disk usage of snapshots';
  static override args = {key: Args.string({multiple: true, description: 'snapshot; by default all'})};
  static override flags = {
    bytes: Flags.boolean({char: 'b', description: 'print sizes in bytes'}),
    quiet: quiet('the keys'),
    snapshotter: snapshotter(),
  };

  async run(): Promise<readonly SnapshotUsage[]> {
    const {args, flags} = await this.parse(Usage);
    const snapshots = (await this.namespace(flags)).snapshots(flags.snapshotter);
    const keys = args.key ?? (await snapshots.list()).map(({key}) => key);
    const usages = await Promise.all(keys.map((key) => snapshots.usage(key)));
    this.table(['KEY', 'SIZE', 'INODES'], usages, ({key, size, inodes}) => [
      key,
      flags.bytes ? String(size) : formatSize(size),
      String(inodes),
    ]);
    return usages;
  }
}
