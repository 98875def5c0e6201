import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';
import {registryOptions} from '../../cli/registry-options.ts';
import {REGISTRY_FLAGS} from '../../cli/shared-flags.ts';
import {parseJSON} from '../../cli/value-parsers.ts';
import type {Descriptor} from '../../lib/client/types/index.ts';

export default class FetchObject extends BaseCommand {
  static override summary = 'write the manifest or index of a reference to standard output';
  static override description = 'It comes from the registry; the store is neither needed nor changed.';
  static override examples = ['content fetch-object redis:7', 'content fetch-object registry.example/app:1.2 >manifest.json'];
  static override args = {ref: Args.string({required: true, description: 'reference, such as redis or registry.example/app:1.2'})};
  static override flags = REGISTRY_FLAGS;

  async run(): Promise<{readonly descriptor: Descriptor; readonly content: unknown} | undefined> {
    const {args, flags} = await this.parse(FetchObject);
    const {registry} = await this.client(flags);
    const options = {...(await registryOptions(flags, args.ref, this.context)), signal: this.signal};
    const {descriptor, bytes} = await registry.fetchObject(args.ref, options);
    if (this.json) return {descriptor, content: parseJSON(bytes, `the manifest of ${args.ref}`)};
    this.context.stdout(bytes);
    return undefined;
  }
}
