import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';

export default class Tag extends BaseCommand {
  static override summary = 'add references to an image';
  static override args = {
    source: Args.string({required: true, description: 'image of the namespace'}),
    target: Args.string({required: true, multiple: true, description: 'new reference'}),
  };
  static override flags = {force: Flags.boolean({description: 'replace existing references'})};

  async run(): Promise<{tagged: string[]}> {
    const {args, flags} = await this.parse(Tag);
    const {images} = await this.namespace(flags);
    const tag = async (target: string): Promise<string> => (await images.tag(args.source, target, {force: flags.force})).name;
    return {tagged: await this.each('tag', args.target, tag)};
  }
}
