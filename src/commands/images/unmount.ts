import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';
import type {HostMount} from '../../lib/client/types/index.ts';

export default class Unmount extends BaseCommand {
  static override summary = 'unmount an image or snapshot';
  static override description = 'The snapshot of a read-only mount is kept for 24 hours, that of a writable one until it is removed.';
  static override args = {target: Args.string({required: true, description: 'directory at which it is mounted'})};
  static override flags = {
    rm: Flags.boolean({description: 'remove the snapshot too'}),
    snapshotter: Flags.string({hidden: true, description: 'accepted for compatibility: the mount determines it'}),
  };

  async run(): Promise<HostMount> {
    const {args, flags} = await this.parse(Unmount);
    const {images} = await this.namespace(flags);
    const mount = await images.unmount(args.target, {rm: flags.rm});
    this.print(args.target);
    return mount;
  }
}
