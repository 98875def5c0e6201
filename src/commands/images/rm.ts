import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';

export default class Remove extends BaseCommand {
  static override summary = 'remove images, and the data that only they needed';
  static override args = {ref: Args.string({required: true, multiple: true, description: 'image to remove'})};
  static override flags = {sync: Flags.boolean({hidden: true, description: 'accepted for compatibility: removal is always synchronous'})};

  async run(): Promise<{removed: string[]}> {
    const {args, flags} = await this.parse(Remove);
    const {images} = await this.namespace(flags);
    return {removed: await this.each('delete', args.ref, (ref) => images.delete(ref))};
  }
}
