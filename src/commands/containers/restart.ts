import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';
import {omitUndefined} from '../../cli/omit-undefined.ts';
import {STOP_TIME} from '../../cli/task-flags.ts';
import type {RunResult} from '../../lib/client/types/index.ts';

export default class Restart extends BaseCommand {
  static override summary = 'stop containers that run, and start them again';
  static override examples = ['restart r1', 'restart --time 30s r1 r2'];
  static override args = {id: Args.string({required: true, multiple: true, description: 'container'})};
  static override flags = {time: STOP_TIME};

  async run(): Promise<readonly RunResult[]> {
    const {args, flags} = await this.parse(Restart);
    const {tasks} = await this.namespace(flags);
    const started: RunResult[] = [];
    await this.each('restart', args.id, async (id) => {
      started.push(await tasks.restart(id, {...omitUndefined({timeoutMs: flags.time}), signal: this.signal}));
    });
    return started;
  }
}
