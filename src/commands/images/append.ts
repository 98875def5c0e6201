import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';
import {compressionFlags, compressionOptions, created, PLATFORM_FLAGS, withBuildProgress} from '../../cli/image-build-flags.ts';
import {omitUndefined} from '../../cli/omit-undefined.ts';
import {standardInput} from '../../cli/stdin.ts';
import type {ImageRecord} from '../../lib/client/types/index.ts';

export default class Append extends BaseCommand {
  static override summary = 'add layers to an image';
  static override description =
    'A plain tar is compressed with gzip; a compressed one is kept as it is unless --compression or --level says otherwise. Prints the new digest.';
  static override examples = ['images append base:1 app:1 app.tar', 'images append base:1 app:1 - <app.tar'];
  static override args = {
    source: Args.string({required: true, description: 'image of the namespace'}),
    target: Args.string({required: true, description: 'reference of the new image; replaced if it exists'}),
    layer: Args.string({
      required: true,
      multiple: true,
      description: 'tar file, plain or compressed, or - for standard input; the lowest first',
    }),
  };
  static override flags = {...PLATFORM_FLAGS, ...compressionFlags('as it is, gzip for a plain tar'), created: created()};

  async run(): Promise<ImageRecord> {
    const {args, flags} = await this.parse(Append);
    if (args.layer.indexOf('-') !== args.layer.lastIndexOf('-')) throw this.usage('standard input can be one layer only');
    if (args.layer.includes('-') && process.stdin.isTTY) throw this.usage('standard input is a terminal, not a layer');
    const layers = args.layer.map((layer) => (layer === '-' ? standardInput(this.signal) : layer));
    const {images} = await this.namespace(flags);
    const own = {...compressionOptions(flags), ...omitUndefined({created: flags.created})};
    const image = await withBuildProgress(flags, this.context, this.signal, (options) =>
      images.append(args.source, args.target, layers, {...options, ...own}),
    );
    this.print(image.target.digest);
    return image;
  }
}
