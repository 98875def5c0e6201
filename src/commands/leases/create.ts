import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';
import {omitUndefined} from '../../cli/omit-undefined.ts';
import {duration} from '../../cli/shared-flags.ts';
import {parseLabels} from '../../cli/value-parsers.ts';
import type {LeaseRecord} from '../../lib/client/types/index.ts';

const DAY_MS = 24 * 60 * 60 * 1000;

export default class Create extends BaseCommand {
  static override summary = 'create a lease';
  static override args = {label: Args.string({multiple: true, description: 'label as KEY=VALUE'})};
  static override flags = {
    id: Flags.string({description: 'identifier; by default a generated one'}),
    expires: duration({char: 'x', default: DAY_MS, defaultHelp: async () => '24h', description: 'lifetime; 0 means forever'}),
  };

  async run(): Promise<LeaseRecord> {
    const {args, flags} = await this.parse(Create);
    const {leases} = await this.namespace(flags);
    const lease = await leases.create({
      ...omitUndefined({id: flags.id}),
      expiresMs: flags.expires,
      labels: parseLabels(args.label ?? []),
    });
    this.print(lease.id);
    return lease;
  }
}
