import * as Args from '@oclif/core/args';
import {BaseCommand} from '../../cli/base.ts';
import {snapshotter} from '../../cli/flags.ts';
import {defined, formatSize} from '../../cli/values.ts';
import type {SnapshotUsage} from '../../lib/client/types/index.ts';

export default class Usage extends BaseCommand {
  static override summary = 'show how much disk the unpacked layers of an image take';
  static override args = {ref: Args.string({required: true, description: 'image'})};
  static override flags = {snapshotter: snapshotter()};

  async run(): Promise<readonly SnapshotUsage[]> {
    const {args, flags} = await this.parse(Usage);
    const {images} = await this.namespace(flags);
    const usage = await images.usage(args.ref, defined({snapshotter: flags.snapshotter}));
    this.table(['KEY', 'SIZE', 'INODES'], usage, ({key, size, inodes}) => [key, formatSize(size), String(inodes)]);
    return usage;
  }
}
