import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';
import {registryOptions} from '../../cli/registry-options.ts';
import {REGISTRY_FLAGS} from '../../cli/shared-flags.ts';

export default class FetchBlob extends BaseCommand {
  static override summary = 'write blobs of a repository to standard output';
  static override description =
    'They come from the registry; the store is neither needed nor changed. The bytes are hashed while they are written. If they do not match the digest, the command exits with status 9 after the last byte: do not use them then.';
  static override args = {
    ref: Args.string({required: true, description: 'repository; a tag in it is ignored'}),
    digest: Args.string({required: true, multiple: true, description: 'digest of a blob or manifest'}),
  };
  static override flags = REGISTRY_FLAGS;

  async run(): Promise<void> {
    const {args, flags} = await this.parse(FetchBlob);
    const {registry} = await this.client(flags);
    const options = {...(await registryOptions(flags, args.ref, this.context)), signal: this.signal};
    for (const digest of args.digest)
      for await (const chunk of await registry.fetchBlob(args.ref, digest, options)) this.context.stdout(chunk);
  }
}
