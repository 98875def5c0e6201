import {BaseCommand} from '../cli/base-command.ts';
import {Args} from '../cli/define-flags.ts';
import {omitUndefined} from '../cli/omit-undefined.ts';
import {registryOptions} from '../cli/registry-options.ts';
import {count, REGISTRY_FLAGS} from '../cli/shared-flags.ts';

export default class Catalog extends BaseCommand {
  static override summary = 'list the repositories of a registry';
  static override description = 'Some registries, such as Docker Hub, have no such list.';
  static override examples = ['catalog registry.example:5000'];
  static override args = {registry: Args.string({required: true, description: 'host of the registry, with its port'})};
  static override flags = {...REGISTRY_FLAGS, limit: count({description: 'end the list after so many repositories'})};

  async run(): Promise<readonly string[]> {
    const {args, flags} = await this.parse(Catalog);
    const {registry} = await this.client(flags);
    const options = await registryOptions(flags, args.registry, this.context);
    return this.printEach(await registry.catalog(args.registry, {...options, ...omitUndefined({limit: flags.limit}), signal: this.signal}));
  }
}
