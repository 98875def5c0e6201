import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';
import {snapshotter} from '../../cli/shared-flags.ts';
import type {HostMount, Mount} from '../../lib/client/types/index.ts';

export default class Mounts extends BaseCommand {
  static override summary = 'print a shell script that mounts a snapshot, or mount it';
  static override examples = ['snapshots mounts /mnt work | sh', 'snapshots mounts --mount /mnt work'];
  static override args = {
    target: Args.string({required: true, description: 'directory to mount it at'}),
    key: Args.string({required: true, description: 'active snapshot or view'}),
  };
  static override flags = {
    mount: Flags.boolean({description: 'mount it, until "images unmount" or the next boot'}),
    snapshotter: snapshotter(),
  };

  async run(): Promise<HostMount | readonly Mount[]> {
    const {args, flags} = await this.parse(Mounts);
    const client = await this.namespace(flags);
    const snapshots = client.snapshots(flags.snapshotter);
    if (flags.mount) {
      const mount = await snapshots.mount(args.key, args.target);
      this.print(args.target);
      return mount;
    }
    const mounts = await snapshots.mounts(args.key);
    this.list(await snapshots.mountScript(args.key, args.target), (line) => line);
    return mounts;
  }
}
