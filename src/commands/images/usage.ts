import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';
import {omitUndefined} from '../../cli/omit-undefined.ts';
import {quiet, snapshotter} from '../../cli/shared-flags.ts';
import {formatSize} from '../../cli/value-formatters.ts';
import type {SnapshotUsage} from '../../lib/client/types/index.ts';

export default class Usage extends BaseCommand {
  static override summary = 'show disk usage of the unpacked layers of an image';
  static override args = {ref: Args.string({required: true, description: 'image of the namespace'})};
  static override flags = {quiet: quiet('the keys'), snapshotter: snapshotter()};

  async run(): Promise<readonly SnapshotUsage[]> {
    const {args, flags} = await this.parse(Usage);
    const {images} = await this.namespace(flags);
    const usage = await images.usage(args.ref, omitUndefined({snapshotter: flags.snapshotter}));
    this.table(['KEY', 'SIZE', 'INODES'], usage, ({key, size, inodes}) => [key, formatSize(size), String(inodes)]);
    return usage;
  }
}
