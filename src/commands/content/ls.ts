import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';
import {quiet} from '../../cli/shared-flags.ts';
import {formatAge, formatLabels, formatSize} from '../../cli/value-formatters.ts';
import type {ContentRecord} from '../../lib/client/types/index.ts';

export default class List extends BaseCommand {
  static override summary = 'list blobs';
  static override args = {filter: Args.string({multiple: true, description: 'filter, such as labels.key==value'})};
  static override flags = {quiet: quiet('the digests')};

  async run(): Promise<readonly ContentRecord[]> {
    const {args, flags} = await this.parse(List);
    const {content} = await this.namespace(flags);
    const blobs = await content.list({filters: args.filter ?? []});
    const now = Date.now();
    this.table(['DIGEST', 'SIZE', 'AGE', 'LABELS'], blobs, ({digest, size, createdAt, labels}) => [
      digest,
      formatSize(size),
      formatAge(now - Date.parse(createdAt)),
      formatLabels(labels),
    ]);
    return blobs;
  }
}
