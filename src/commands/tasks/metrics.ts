import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';
import type {TaskMetrics} from '../../lib/client/types/index.ts';

export default class Metrics extends BaseCommand {
  static override summary = 'print what the kernel has counted for a container';
  static override description = "Names and units are ctr's, which differ between the two versions of cgroups.";
  static override args = {id: Args.string({required: true, description: 'task'})};
  static override flags = {
    format: Flags.option({options: ['table', 'json'] as const, default: 'table' as const, description: 'form of the output'})(),
  };

  async run(): Promise<TaskMetrics> {
    const {args, flags} = await this.parse(Metrics);
    const {tasks} = await this.namespace(flags);
    const found = await tasks.metrics(args.id);
    if (flags.format === 'json') this.printJSON(found);
    else {
      this.table(['ID', 'TIMESTAMP'], [found], ({id, timestamp}) => [id, timestamp]);
      this.print('');
      this.table(['METRIC', 'VALUE'], Object.entries(found.metrics), ([name, value]) => [
        name,
        typeof value === 'number' ? BigInt(value).toString() : `[${value.join(' ')}]`,
      ]);
    }
    return found;
  }
}
