import {BaseCommand} from '../../cli/base-command.ts';
import {quiet} from '../../cli/shared-flags.ts';
import {berth} from '../../lib/berth-command.ts';
import type {Task} from '../../lib/client/types/index.ts';

export default class List extends BaseCommand {
  static override summary = 'list tasks: the processes of containers';
  static override description =
    'EXIT is the status of a task that has ended; "?" if nobody was there to record it. CHECKPOINTED is one that a checkpoint ended.';
  static override flags = {quiet: quiet('the identifiers')};

  async run(): Promise<readonly Task[]> {
    const {flags} = await this.parse(List);
    const {tasks, name} = await this.namespace(flags);
    const all = await tasks.list();
    this.table(
      ['TASK', 'PID', 'STATUS', 'EXIT', 'STARTED', 'ENDED'],
      all,
      ({id, pid, status, checkpointed, exitStatus, startedAt, exitedAt}) => [
        id,
        String(pid),
        checkpointed ? 'CHECKPOINTED' : status.toUpperCase(),
        status === 'stopped' ? String(exitStatus ?? '?') : '-',
        startedAt ?? '-',
        exitedAt ?? '-',
      ],
    );
    for (const {id, network} of all)
      if (network?.down === true)
        this.warn(
          `container ${JSON.stringify(id)} runs without its network, whose process has ended`,
          `start it anew: ${berth`-n ${name} restart ${id}`}`,
        );
    return all;
  }
}
