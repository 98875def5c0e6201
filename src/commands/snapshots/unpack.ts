import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';
import {snapshotter} from '../../cli/shared-flags.ts';

export default class Unpack extends BaseCommand {
  static override summary = 'unpack the image of a manifest or index, and print its chain ID';
  static override args = {digest: Args.string({required: true, description: 'digest of an image, as "images ls" shows it'})};
  static override flags = {
    snapshotter: snapshotter(),
    'sync-fs': Flags.boolean({hidden: true, description: 'accepted for compatibility: an unpacked layer is made again after a power loss'}),
  };

  async run(): Promise<{image: string; chainID?: string}> {
    const {args, flags} = await this.parse(Unpack);
    const client = await this.namespace(flags);
    const result = await client.snapshots(flags.snapshotter).unpack(args.digest, {signal: this.signal});
    if (result.chainID !== undefined) this.print(result.chainID);
    return result;
  }
}
