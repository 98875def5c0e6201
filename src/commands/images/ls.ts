import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';
import {compatible, quiet} from '../../cli/shared-flags.ts';
import {formatLabels, formatSize} from '../../cli/value-formatters.ts';
import type {ImageRecord, ImageSummary} from '../../lib/client/types/index.ts';

export default class List extends BaseCommand {
  static override summary = 'list images';
  static override description = 'SIZE is the compressed size for the platform of this machine; "images usage" shows the unpacked size.';
  static override args = {filter: Args.string({multiple: true, description: 'filter, such as name~=redis'})};
  static override flags = {
    quiet: quiet('the references'),
    all: compatible('all are listed', 'a'),
    'no-trunc': compatible('nothing is shortened'),
  };

  async run(): Promise<readonly (ImageRecord | ImageSummary)[]> {
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
