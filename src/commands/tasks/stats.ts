import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';
import {compatible} from '../../cli/shared-flags.ts';
import {formatSize} from '../../cli/value-formatters.ts';
import type {TaskStats} from '../../lib/client/types/index.ts';

const percent = (share: number): string => `${(share * 100).toFixed(2)}%`;

export default class Stats extends BaseCommand {
  static override summary = 'print what containers use of processor and memory, until interrupted';
  static override description =
    'CPU is of one processor. MEM is without the inactive part of the page cache. It prints a table twice a second, to a file or a pipe as well, until a signal ends it or all tasks that are named have ended. With --no-stream or --json it prints one reading.';
  static override args = {id: Args.string({multiple: true, description: 'task; by default all that have not ended'})};
  static override flags = {
    'no-trunc': compatible('nothing is shortened'),
    'no-stream': Flags.boolean({description: 'print one reading only'}),
  };

  async run(): Promise<readonly TaskStats[]> {
    const {args, flags} = await this.parse(Stats);
    const {tasks} = await this.namespace(flags);
    for (let reading = 1; ; reading++) {
      const all = await tasks.stats(args.id ?? [], {signal: this.signal});
      const isOver = flags['no-stream'] || this.json || (all.length === 0 && args.id !== undefined);
      // Where nothing runs, one heading is enough.
      if (all.length === 0 && reading > 1 && !isOver) continue;
      this.table(['NAME', 'CPU%', 'MEM', 'LIMIT', 'MEM%', 'PIDS'], all, ({id, cpu, memory, memoryLimit, pids}) => [
        id,
        percent(cpu),
        formatSize(memory),
        formatSize(memoryLimit),
        percent(memory / memoryLimit),
        String(pids),
      ]);
      if (isOver) return all;
    }
  }
}
