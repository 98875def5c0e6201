import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';
import {quiet} from '../../cli/shared-flags.ts';
import type {TaskProcess} from '../../lib/client/types/index.ts';

export default class Ps extends BaseCommand {
  static override summary = 'list the processes of a container';
  static override description = "PID is the host's. INFO is the identifier of the exec that started it.";
  static override args = {id: Args.string({required: true, description: 'task'})};
  static override flags = {quiet: quiet('the identifiers of processes')};

  async run(): Promise<readonly TaskProcess[]> {
    const {args, flags} = await this.parse(Ps);
    const {tasks} = await this.namespace(flags);
    const all = await tasks.ps(args.id);
    this.table(['PID', 'INFO', 'COMMAND'], all, ({pid, execId, command}) => [String(pid), execId ?? '-', command.join(' ')]);
    return all;
  }
}
