import {BaseCommand} from '../cli/base-command.ts';
import {Args, Flags} from '../cli/define-flags.ts';
import {omitUndefined} from '../cli/omit-undefined.ts';
import type {Bundle} from '../lib/client/types/index.ts';

export default class Unpack extends BaseCommand {
  static override summary = 'unpack an image into a directory, as a bundle that a runtime runs';
  static override description =
    'The directory gets the tree in rootfs, a specification in config.json, and what "repack" needs to make an image of the changes. The layout is that of "umoci unpack"; either program repacks what the other has unpacked. The layers are extracted straight into it: nothing is mounted, and the store keeps no unpacked copy.';
  static override examples = ['unpack docker.io/library/redis:7 /srv/redis', 'unpack --platform linux/arm64 app:1 bundle'];
  static override args = {
    ref: Args.string({required: true, description: 'image'}),
    directory: Args.string({required: true, description: 'new or empty directory'}),
  };
  static override flags = {
    platform: Flags.string({helpValue: 'OS/ARCH', description: "platform of the image; by default this machine's"}),
  };

  async run(): Promise<Bundle> {
    const {args, flags} = await this.parse(Unpack);
    const {images} = await this.namespace(flags);
    const options = omitUndefined({platform: flags.platform});
    const bundle = await images.unpack(args.ref, args.directory, {...options, signal: this.signal});
    this.print(bundle.directory);
    return bundle;
  }
}
