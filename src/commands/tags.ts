import {BaseCommand} from '../cli/base-command.ts';
import {Args} from '../cli/define-flags.ts';
import {omitUndefined} from '../cli/omit-undefined.ts';
import {registryOptions} from '../cli/registry-options.ts';
import {count, REGISTRY_FLAGS} from '../cli/shared-flags.ts';

export default class Tags extends BaseCommand {
  static override summary = 'list the tags of a repository in its registry';
  static override examples = ['tags redis', 'tags --limit 100 registry.example/app'];
  static override args = {repository: Args.string({required: true, description: 'repository; a tag in it is ignored'})};
  static override flags = {...REGISTRY_FLAGS, limit: count({description: 'end the list after so many tags'})};

  async run(): Promise<readonly string[]> {
    const {args, flags} = await this.parse(Tags);
    const {registry} = await this.client(flags);
    const options = await registryOptions(flags, args.repository, this.context);
    return this.printEach(await registry.tags(args.repository, {...options, ...omitUndefined({limit: flags.limit}), signal: this.signal}));
  }
}
