import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';
import {compressionFlags, compressionOptions, PLATFORM_FLAGS, withBuildProgress} from '../../cli/image-build-flags.ts';
import type {ConvertOptions, ImageRecord} from '../../lib/client/types/index.ts';

export default class Convert extends BaseCommand {
  static override summary = "convert an image's media types, or the compression of its layers";
  static override description =
    'Layers that have the wanted form already are shared. The contents of the others are verified. Prints the new digest.';
  static override examples = [
    'images convert --oci redis:7 redis:oci',
    'images convert --oci --compression zstd --level 19 app:1 app:zstd',
  ];
  static override args = {
    source: Args.string({required: true, description: 'image of the namespace'}),
    target: Args.string({required: true, description: 'reference of the new image; replaced if it exists'}),
  };
  static override flags = {
    ...PLATFORM_FLAGS,
    ...compressionFlags('as it is'),
    oci: Flags.boolean({description: "use OCI's media types"}),
    docker: Flags.boolean({exclusive: ['oci'], description: "use docker's media types"}),
    uncompress: Flags.boolean({exclusive: ['compression'], description: 'same as --compression none'}),
  };

  static override flagHints = {
    '--estargz': 'layers are indexed while they are pulled; use --compression gzip',
    '--zstdchunked': 'layers are indexed while they are pulled; use --compression zstd',
    '--zstd': 'use --compression zstd',
  };

  async run(): Promise<ImageRecord> {
    const {args, flags} = await this.parse(Convert);
    const {images} = await this.namespace(flags);
    const own: ConvertOptions = {
      ...compressionOptions(flags),
      ...(flags.uncompress ? {compression: 'none'} : {}),
      ...(flags.oci ? {format: 'oci'} : flags.docker ? {format: 'docker'} : {}),
    };
    const image = await withBuildProgress(flags, this.context, this.signal, (options) =>
      images.convert(args.source, args.target, {...options, ...own}),
    );
    this.print(image.target.digest);
    return image;
  }
}
