import {BaseCommand} from '../cli/base-command.ts';
import {Args} from '../cli/define-flags.ts';
import {registryOptions} from '../cli/registry-options.ts';
import {REGISTRY_FLAGS} from '../cli/shared-flags.ts';
import type {Descriptor} from '../lib/client/types/index.ts';

export default class Resolve extends BaseCommand {
  static override summary = 'print the digest that a reference has in its registry';
  static override examples = ['resolve redis:7', 'resolve --json registry.example/app:1.2'];
  static override args = {ref: Args.string({required: true, description: 'reference, such as redis or registry.example/app:1.2'})};
  static override flags = REGISTRY_FLAGS;

  async run(): Promise<Descriptor> {
    const {args, flags} = await this.parse(Resolve);
    const {registry} = await this.client(flags);
    const descriptor = await registry.resolve(args.ref, {...(await registryOptions(flags, args.ref, this.context)), signal: this.signal});
    this.print(descriptor.digest);
    return descriptor;
  }
}
