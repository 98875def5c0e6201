import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';
import {created, PLATFORM_FLAGS, withBuildProgress} from '../../cli/image-build-flags.ts';
import {omitUndefined} from '../../cli/omit-undefined.ts';
import type {ImageRecord} from '../../lib/client/types/index.ts';

export default class Rebase extends BaseCommand {
  static override summary = 'put an image on another base image';
  static override description =
    "The layers of the new base take the place of those of the old one; the config stays. A base that is not named is the one of the source's annotations: the old one org.opencontainers.image.base.digest, the new one org.opencontainers.image.base.name as it is now. All three images must have been pulled. Prints the new digest.";
  static override examples = ['images rebase --old-base debian:13.1 --new-base debian:13.2 app:1 app:2', 'images rebase app:1 app:2'];
  static override args = {
    source: Args.string({required: true, description: 'image of the namespace'}),
    target: Args.string({required: true, description: 'reference of the new image; replaced if it exists'}),
  };
  static override flags = {
    ...PLATFORM_FLAGS,
    'old-base': Flags.string({helpValue: 'REF', description: 'image whose layers the source begins with'}),
    'new-base': Flags.string({helpValue: 'REF', description: 'image whose layers take their place'}),
    created: created(),
  };

  async run(): Promise<ImageRecord> {
    const {args, flags} = await this.parse(Rebase);
    const own = omitUndefined({oldBase: flags['old-base'], newBase: flags['new-base'], created: flags.created});
    const {images} = await this.namespace(flags);
    const image = await withBuildProgress(flags, this.context, this.signal, (options) =>
      images.rebase(args.source, args.target, {...options, ...own}),
    );
    this.print(image.target.digest);
    return image;
  }
}
