import * as Args from '@oclif/core/args';
import {BaseCommand} from '../../cli/base.ts';

export default class Get extends BaseCommand {
  static override summary = 'write a blob to standard output';
  static override description =
    'The bytes are hashed as they go. When they are not what the digest says, the exit status is 15 after the last of them: do not use them then.';
  static override args = {digest: Args.string({required: true, description: 'digest of the blob'})};

  async run(): Promise<void> {
    const {args, flags} = await this.parse(Get);
    const {content} = await this.namespace(flags);
    for await (const chunk of await content.open(args.digest)) this.context.stdout(chunk);
  }
}
