import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';
import {compressionFlags, compressionOptions, created, PLATFORM_FLAGS, withBuildProgress} from '../../cli/image-build-flags.ts';
import {omitUndefined} from '../../cli/omit-undefined.ts';
import type {ImageRecord} from '../../lib/client/types/index.ts';

export default class Flatten extends BaseCommand {
  static override summary = 'make one layer of all layers of an image';
  static override description =
    'The new layer has the tree of the image, without whiteouts. Needs no root, and no space for the tree. Prints the new digest.';
  static override examples = ['images flatten app:1 app:flat'];
  static override args = {
    source: Args.string({required: true, description: 'image of the namespace'}),
    target: Args.string({required: true, description: 'reference of the new image; replaced if it exists'}),
  };
  static override flags = {...PLATFORM_FLAGS, ...compressionFlags('gzip'), created: created()};

  async run(): Promise<ImageRecord> {
    const {args, flags} = await this.parse(Flatten);
    const {images} = await this.namespace(flags);
    const own = {...compressionOptions(flags), ...omitUndefined({created: flags.created})};
    const image = await withBuildProgress(flags, this.context, this.signal, (options) =>
      images.flatten(args.source, args.target, {...options, ...own}),
    );
    this.print(image.target.digest);
    return image;
  }
}
