import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';
import {formatLabels} from '../../cli/value-formatters.ts';
import {parseLabels} from '../../cli/value-parsers.ts';
import type {ImageRecord} from '../../lib/client/types/index.ts';

export default class Label extends BaseCommand {
  static override summary = 'set labels of an image; an empty value removes one';
  static override args = {
    ref: Args.string({required: true, description: 'image of the namespace'}),
    label: Args.string({multiple: true, description: 'label as KEY=VALUE'}),
  };
  static override flags = {'replace-all': Flags.boolean({char: 'r', description: 'remove all other labels'})};

  async run(): Promise<ImageRecord> {
    const {args, flags} = await this.parse(Label);
    const {images} = await this.namespace(flags);
    const image = await images.label(args.ref, parseLabels(args.label ?? []), {replaceAll: flags['replace-all']});
    this.print(formatLabels(image.labels));
    return image;
  }
}
