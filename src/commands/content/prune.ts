import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';
import type {ContentPruneResult} from '../../lib/client/types/index.ts';

export default class Prune extends BaseCommand {
  static override summary = 'free the blobs of layers that are unpacked';
  static override description =
    '"content prune references" removes the references of manifests to layers that are unpacked, and prints these layers; blobs that nothing else refers to are deleted. Containers run as before. An export or a push of such an image needs another pull.';
  static override examples = ['content prune references --dry'];
  static override args = {what: Args.string({required: true, description: '"references"'})};
  static override flags = {
    dry: Flags.boolean({description: 'show the layers only'}),
    async: Flags.boolean({hidden: true, description: 'accepted for compatibility: removal is always synchronous'}),
  };

  async run(): Promise<ContentPruneResult> {
    const {args, flags} = await this.parse(Prune);
    if (args.what !== 'references') throw this.usage(`WHAT: ${JSON.stringify(args.what)} is not references`);
    const {content} = await this.namespace(flags);
    const result = await content.prune({dryRun: flags.dry});
    this.list(result.layers, ({digest}) => digest);
    return result;
  }
}
