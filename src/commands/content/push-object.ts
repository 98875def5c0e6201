import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';
import {omitUndefined} from '../../cli/omit-undefined.ts';
import {registryOptions} from '../../cli/registry-options.ts';
import {REGISTRY_FLAGS} from '../../cli/shared-flags.ts';
import type {PushObjectResult} from '../../lib/client/types/index.ts';

export default class PushObject extends BaseCommand {
  static override summary = 'push one object of the store to a registry';
  static override description = 'Pushes a blob, manifest or index alone. A manifest gets the tag of the reference if that has one.';
  static override examples = [`content push-object registry.example/app sha256:${'0'.repeat(8)}…`];
  static override args = {
    remote: Args.string({required: true, description: 'repository, such as registry.example/app, or a tag of it'}),
    digest: Args.string({required: true, description: 'digest of the object'}),
    type: Args.string({description: 'its media type; by default what a manifest or index says of itself'}),
  };
  static override flags = REGISTRY_FLAGS;

  async run(): Promise<PushObjectResult> {
    const {args, flags} = await this.parse(PushObject);
    const {content} = await this.namespace(flags);
    const registry = await registryOptions(flags, args.remote, this.context);
    const pushed = await content.push(args.remote, args.digest, {
      ...registry,
      ...omitUndefined({mediaType: args.type}),
      signal: this.signal,
    });
    this.print(`Pushed ${pushed.digest} ${pushed.mediaType}`);
    return pushed;
  }
}
