import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';
import {quiet} from '../../cli/shared-flags.ts';
import {formatLabels} from '../../cli/value-formatters.ts';
import type {LeaseRecord} from '../../lib/client/types/index.ts';

export default class List extends BaseCommand {
  static override summary = 'list leases';
  static override args = {filter: Args.string({multiple: true, description: 'filter, such as id==name'})};
  static override flags = {quiet: quiet('the identifiers')};

  async run(): Promise<readonly LeaseRecord[]> {
    const {args, flags} = await this.parse(List);
    const client = await this.namespace(flags);
    const leases = await client.leases.list({filters: args.filter ?? []});
    this.table(['ID', 'CREATED AT', 'EXPIRES AT', 'LABELS'], leases, ({id, createdAt, expiresAt, labels}) => [
      id,
      createdAt,
      expiresAt ?? '',
      formatLabels(labels),
    ]);
    return leases;
  }
}
