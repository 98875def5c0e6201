import {randomBytes} from 'node:crypto';
import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';
import {label} from '../../cli/shared-flags.ts';
import {parseLabels} from '../../cli/value-parsers.ts';
import type {VolumeInfo} from '../../lib/client/types/index.ts';

export default class Create extends BaseCommand {
  static override summary = 'make a volume';
  static override description =
    'A volume that "run --volume NAME:DIR" does not find is made, too. The first container fills a volume that is empty with what its image has at DIR.';
  static override examples = ['volumes create data', 'volumes create --label team=infra data'];
  static override args = {name: Args.string({description: 'name of the new volume; without one it is made up'})};
  static override flags = {label: label('the volume')};

  async run(): Promise<VolumeInfo> {
    const {args, flags} = await this.parse(Create);
    const {volumes} = await this.namespace(flags);
    const volume = await volumes.create(args.name ?? randomBytes(32).toString('hex'), {labels: parseLabels(flags.label ?? [])});
    this.print(volume.name);
    return volume;
  }
}
