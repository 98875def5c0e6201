import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import {BaseCommand} from '../../cli/base.ts';

export default class Tag extends BaseCommand {
  static override summary = 'add references to an image';
  static override args = {
    source: Args.string({required: true, description: 'image'}),
    target: Args.string({required: true, multiple: true, description: 'new reference'}),
  };
  static override flags = {force: Flags.boolean({description: 'replace references that exist'})};

  async run(): Promise<{tagged: string[]}> {
    const {args, flags} = await this.parse(Tag);
    const {images} = await this.namespace(flags);
    return {tagged: await this.each('tag', args.target, (target) => images.tag(args.source, target, {force: flags.force}))};
  }
}
