import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';
import {quiet} from '../../cli/shared-flags.ts';
import {formatAge, formatSize} from '../../cli/value-formatters.ts';
import type {IngestStatus} from '../../lib/client/types/index.ts';

export default class Active extends BaseCommand {
  static override summary = 'show transfers that are in progress or interrupted';
  static override args = {match: Args.string({description: 'regular expression for names of transfers'})};
  static override flags = {quiet: quiet('the names')};

  async run(): Promise<readonly IngestStatus[]> {
    const {args, flags} = await this.parse(Active);
    const {content} = await this.namespace(flags);
    const active = await content.active(args.match === undefined ? {} : {filters: [`ref~=${JSON.stringify(args.match)}`]});
    const now = Date.now();
    this.table(['REF', 'SIZE', 'AGE'], active, ({ref, offset, startedAt}) => [
      ref,
      formatSize(offset),
      formatAge(now - Date.parse(startedAt)),
    ]);
    return active;
  }
}
