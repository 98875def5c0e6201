import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';
import type {RunResult} from '../../lib/client/types/index.ts';

export default class Start extends BaseCommand {
  static override summary = 'start containers, and leave them running';
  static override description =
    'What a task that has ended left, its log too, makes room for the new one. A container that runs is left alone.';
  static override examples = ['start r1', 'containers start r1 r2'];
  static override args = {id: Args.string({required: true, multiple: true, description: 'container'})};

  async run(): Promise<readonly RunResult[]> {
    const {args, flags} = await this.parse(Start);
    const {tasks} = await this.namespace(flags);
    const started: RunResult[] = [];
    await this.each('start', args.id, async (id) => {
      started.push(await tasks.startDetached(id, {signal: this.signal}));
    });
    return started;
  }
}
