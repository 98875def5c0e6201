import {BaseCommand} from '../cli/base-command.ts';
import {Args, Flags} from '../cli/define-flags.ts';
import {compressionFlags, compressionOptions, created} from '../cli/image-build-flags.ts';
import {omitUndefined} from '../cli/omit-undefined.ts';
import {openProgress} from '../cli/progress.ts';
import {repeated, snapshotter} from '../cli/shared-flags.ts';
import type {ImageRecord} from '../lib/client/types/index.ts';

export default class Repack extends BaseCommand {
  static override summary = 'make an image of what was changed in an unpacked one';
  static override description =
    'Compares the tree of the bundle with the image that it was unpacked from, which the namespace must have; the changes become a layer on top of it. Nothing may change the tree meanwhile. Without changes the image is the same one. Volumes of the image are left out. Prints the new digest.';
  static override examples = ['repack /srv/redis redis:mine', 'repack --refresh-bundle --mask-path /tmp bundle app:2'];
  static override args = {
    directory: Args.string({required: true, description: 'bundle that "unpack" or "umoci unpack" has made'}),
    ref: Args.string({required: true, description: 'reference of the new image; replaced if it exists'}),
  };
  static override flags = {
    author: Flags.string({description: 'author of the image'}),
    message: Flags.string({description: 'comment of the new entry in the history'}),
    'mask-path': repeated({
      helpValue: 'PATH',
      description: 'leave out what was changed at this path of the tree and below it; may be repeated',
    }),
    'no-mask-volumes': Flags.boolean({description: "take along what is in the image's volumes"}),
    'refresh-bundle': Flags.boolean({description: 'let the bundle be one of the new image afterwards'}),
    ...compressionFlags('gzip'),
    created: created({description: 'time of creation, and the latest mtime in the layer: RFC 3339, or seconds since 1970; by default now'}),
    snapshotter: snapshotter(),
  };

  async run(): Promise<ImageRecord> {
    const {args, flags} = await this.parse(Repack);
    const {images} = await this.namespace(flags);
    const progress = await openProgress(flags, this.context);
    try {
      const {author, message} = flags;
      const image = await images.repack(args.directory, args.ref, {
        ...omitUndefined({author, message, created: flags.created, snapshotter: flags.snapshotter, maskPaths: flags['mask-path']}),
        ...compressionOptions(flags),
        maskVolumes: !flags['no-mask-volumes'],
        refreshBundle: flags['refresh-bundle'],
        onEvent: (event) => progress.update(event),
        signal: this.signal,
      });
      this.print(image.target.digest);
      return image;
    } finally {
      progress.close();
    }
  }
}
