import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';
import {quiet} from '../../cli/shared-flags.ts';
import {formatLabels} from '../../cli/value-formatters.ts';
import type {VolumeInfo} from '../../lib/client/types/index.ts';

export default class List extends BaseCommand {
  static override summary = 'list named volumes';
  static override description = 'Volumes that end with their container have no name, and are not among them.';
  static override args = {filter: Args.string({multiple: true, description: 'filter, such as labels.team==infra'})};
  static override flags = {quiet: quiet('the names')};

  async run(): Promise<readonly VolumeInfo[]> {
    const {args, flags} = await this.parse(List);
    const client = await this.namespace(flags);
    const volumes = await client.volumes.list({filters: args.filter ?? []});
    this.table(['NAME', 'CREATED AT', 'USED BY', 'LABELS'], volumes, ({name, createdAt, usedBy, labels}) => [
      name,
      createdAt,
      usedBy.join(','),
      formatLabels(labels),
    ]);
    return volumes;
  }
}
