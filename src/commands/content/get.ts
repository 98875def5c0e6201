import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';

export default class Get extends BaseCommand {
  static override summary = 'write a blob to standard output';
  static override description =
    'The bytes are hashed while they are written. If they do not match the digest, the command exits with status 15 after the last byte: do not use them then.';
  static override args = {digest: Args.string({required: true, description: 'digest of the blob'})};

  async run(): Promise<void> {
    const {args, flags} = await this.parse(Get);
    const {content} = await this.namespace(flags);
    for await (const chunk of await content.open(args.digest)) this.context.stdout(chunk);
  }
}
