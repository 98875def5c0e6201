import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';

export default class Remove extends BaseCommand {
  static override summary = 'remove one or more blobs';
  static override args = {digest: Args.string({required: true, multiple: true, description: 'blob to remove'})};

  async run(): Promise<{removed: string[]}> {
    const {args, flags} = await this.parse(Remove);
    const {content} = await this.namespace(flags);
    return {removed: await this.each('delete', args.digest, (digest) => content.delete(digest))};
  }
}
