import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';
import {formatLabels} from '../../cli/value-formatters.ts';
import {parseLabels} from '../../cli/value-parsers.ts';
import type {ContentRecord} from '../../lib/client/types/index.ts';

export default class Label extends BaseCommand {
  static override summary = 'show or set labels of a blob; an empty value removes one';
  static override args = {
    digest: Args.string({required: true, description: 'digest of the blob'}),
    label: Args.string({multiple: true, description: 'label as KEY=VALUE'}),
  };

  async run(): Promise<ContentRecord> {
    const {args, flags} = await this.parse(Label);
    const {content} = await this.namespace(flags);
    const blob = args.label === undefined ? await content.get(args.digest) : await content.label(args.digest, parseLabels(args.label));
    this.print(formatLabels(blob.labels));
    return blob;
  }
}
