import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import {BaseCommand} from '../../cli/base.ts';
import type {HostMount} from '../../lib/client/types/index.ts';

export default class Unmount extends BaseCommand {
  static override summary = 'unmount an image or snapshot';
  static override description = "An image's snapshot is kept for 24 hours, and until it is removed if it could be written to.";
  static override args = {target: Args.string({required: true, description: 'directory that it is mounted at'})};
  static override flags = {
    rm: Flags.boolean({description: "remove an image's snapshot as well"}),
    snapshotter: Flags.string({hidden: true, description: 'ctr takes it; here it is known from the mount'}),
  };

  async run(): Promise<HostMount> {
    const {args, flags} = await this.parse(Unmount);
    const {images} = await this.namespace(flags);
    const mount = await images.unmount(args.target, {rm: flags.rm});
    this.print(args.target);
    return mount;
  }
}
