import * as Args from '@oclif/core/args';
import {BaseCommand} from '../../cli/base.ts';
import {quiet} from '../../cli/flags.ts';
import {formatLabels, formatSize} from '../../cli/values.ts';
import type {ImageRecord} from '../../lib/client/types/index.ts';

export default class List extends BaseCommand {
  static override summary = 'list images';
  static override description = 'SIZE is what the image of this machine takes as compressed; "images usage" tells the unpacked size.';
  static override args = {filter: Args.string({multiple: true, description: 'filter, such as name~=redis'})};
  static override flags = {quiet: quiet('the references')};

  async run(): Promise<readonly ImageRecord[]> {
    const {args, flags} = await this.parse(List);
    const {images} = await this.namespace(flags);
    const filters = args.filter ?? [];
    if (flags.quiet) {
      const records = await images.records({filters});
      this.list(records, ({name}) => name);
      return records;
    }
    const summaries = await images.list({filters});
    this.table(['REF', 'TYPE', 'DIGEST', 'SIZE', 'PLATFORMS', 'LABELS'], summaries, ({name, target, size, platforms, labels}) => [
      name,
      target.mediaType,
      target.digest,
      size === undefined ? '' : formatSize(size),
      platforms.join(','),
      formatLabels(labels),
    ]);
    return summaries;
  }
}
