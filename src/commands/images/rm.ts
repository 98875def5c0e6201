import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import {BaseCommand} from '../../cli/base.ts';

export default class Remove extends BaseCommand {
  static override summary = 'remove one or more images, and what only they needed';
  static override args = {ref: Args.string({required: true, multiple: true, description: 'image to remove'})};
  static override flags = {sync: Flags.boolean({hidden: true, description: 'taken for the sake of scripts: removal is always complete'})};

  async run(): Promise<{removed: string[]}> {
    const {args, flags} = await this.parse(Remove);
    const {images} = await this.namespace(flags);
    return {removed: await this.each('delete', args.ref, (ref) => images.delete(ref))};
  }
}
