import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';
import {MOUNT_FLAGS, snapshotter} from '../../cli/shared-flags.ts';
import type {Mount} from '../../lib/client/types/index.ts';

export default class View extends BaseCommand {
  static override summary = 'create a read-only snapshot from a committed one';
  static override args = {
    key: Args.string({required: true, description: 'key of the new snapshot'}),
    parent: Args.string({description: 'committed snapshot to start from'}),
  };
  static override flags = {...MOUNT_FLAGS, snapshotter: snapshotter()};

  async run(): Promise<readonly Mount[]> {
    const {args, flags} = await this.parse(View);
    const client = await this.namespace(flags);
    const snapshots = client.snapshots(flags.snapshotter);
    const mounts = await snapshots.view(args.key, args.parent);
    if (flags.target !== undefined) this.list(await snapshots.mountScript(args.key, flags.target), (line) => line);
    if (flags.mounts) this.printJSON(mounts);
    return mounts;
  }
}
