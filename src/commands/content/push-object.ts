import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';
import {omitUndefined} from '../../cli/omit-undefined.ts';
import {registryOptions} from '../../cli/registry-options.ts';
import {REGISTRY_FLAGS} from '../../cli/shared-flags.ts';
import {standardInput} from '../../cli/stdin.ts';
import type {PushObjectResult} from '../../lib/client/types/index.ts';

/** What is meant as a digest, whether it is a right one or not. */
const DIGEST = /^[a-z0-9+._-]+:[0-9a-zA-Z]+$/;

export default class PushObject extends BaseCommand {
  static override summary = 'push one object of the store, a file or standard input to a registry';
  static override description =
    'Pushes a blob, manifest or index alone. A manifest gets the tag of the reference if that has one. What is not a digest is a file, or - for standard input, and needs no store.';
  static override examples = [
    `content push-object registry.example/app sha256:${'0'.repeat(8)}…`,
    'content push-object registry.example/app:1 - <manifest.json',
  ];
  static override args = {
    remote: Args.string({required: true, description: 'repository, such as registry.example/app, or a tag of it'}),
    object: Args.string({required: true, description: 'digest of the object, a file, or - for standard input'}),
    type: Args.string({description: 'its media type; by default what a manifest or index says of itself'}),
  };
  static override flags = REGISTRY_FLAGS;

  async run(): Promise<PushObjectResult> {
    const {args, flags} = await this.parse(PushObject);
    if (args.object === '-' && process.stdin.isTTY) throw this.usage('standard input is a terminal, not an object');
    const options = {
      ...(await registryOptions(flags, args.remote, this.context)),
      ...omitUndefined({mediaType: args.type}),
      signal: this.signal,
    };
    const pushed = DIGEST.test(args.object)
      ? await (await this.namespace(flags)).content.push(args.remote, args.object, options)
      : await (await this.client(flags)).registry.pushObject(
          args.remote,
          args.object === '-' ? standardInput(this.signal) : args.object,
          options,
        );
    this.print(`Pushed ${pushed.digest} ${pushed.mediaType}`);
    return pushed;
  }
}
