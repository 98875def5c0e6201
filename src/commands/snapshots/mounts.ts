import * as Args from '@oclif/core/args';
import {BaseCommand} from '../../cli/base.ts';
import {snapshotter} from '../../cli/flags.ts';
import type {Mount} from '../../lib/client/types.ts';

export default class Mounts extends BaseCommand {
  static override summary = 'print the commands that mount a snapshot';
  static override args = {
    target: Args.string({required: true, description: 'directory to mount it at'}),
    key: Args.string({required: true, description: 'active snapshot or view'}),
  };
  static override flags = {snapshotter: snapshotter()};

  async run(): Promise<readonly Mount[]> {
    const {args, flags} = await this.parse(Mounts);
    const client = await this.namespace(flags);
    const snapshots = client.snapshots(flags.snapshotter);
    const mounts = await snapshots.mounts(args.key);
    this.list(await snapshots.mountScript(args.key, args.target), (line) => line);
    return mounts;
  }
}
