import * as Args from '@oclif/core/args';
import {BaseCommand} from '../../cli/base.ts';
import {quiet} from '../../cli/flags.ts';
import {formatLabels} from '../../cli/values.ts';
import type {LeaseRecord} from '../../lib/client/types/index.ts';

export default class List extends BaseCommand {
  static override summary = 'list leases';
  static override args = {filter: Args.string({multiple: true, description: 'filter, such as id==name'})};
  static override flags = {quiet: quiet('the identifiers')};

  async run(): Promise<readonly LeaseRecord[]> {
    const {args, flags} = await this.parse(List);
    const client = await this.namespace(flags);
    const leases = await client.leases.list({filters: args.filter ?? []});
    if (flags.quiet) this.list(leases, ({id}) => id);
    else
      this.table(['ID', 'CREATED AT', 'EXPIRES AT', 'LABELS'], leases, ({id, createdAt, expiresAt, labels}) => [
        id,
        createdAt,
        expiresAt ?? '',
        formatLabels(labels),
      ]);
    return leases;
  }
}
