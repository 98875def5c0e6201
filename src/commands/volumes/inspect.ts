import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';
import type {VolumeInfo} from '../../lib/client/types/index.ts';

export default class Inspect extends BaseCommand {
  static override summary = 'show a volume as JSON, with the path of its directory';
  static override examples = ['volumes inspect data'];
  static override args = {name: Args.string({required: true, description: 'volume'})};

  async run(): Promise<VolumeInfo> {
    const {args, flags} = await this.parse(Inspect);
    const {volumes} = await this.namespace(flags);
    const volume = await volumes.get(args.name);
    this.printJSON(volume);
    return volume;
  }
}
