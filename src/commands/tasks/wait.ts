import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';
import type {TaskExit} from '../../lib/client/types/index.ts';

export default class Wait extends BaseCommand {
  static override summary = 'wait for tasks to end, and print their exit statuses';
  static override description = 'A status that nobody was there to record is printed as 255, and "known" is false with --json.';
  static override args = {id: Args.string({required: true, multiple: true, description: 'task'})};

  async run(): Promise<readonly TaskExit[]> {
    const {args, flags} = await this.parse(Wait);
    const {tasks} = await this.namespace(flags);
    const ends: TaskExit[] = [];
    await this.each('wait for', args.id, async (id) => {
      const end = await tasks.wait(id, {signal: this.signal});
      ends.push(end);
      return String(end.exitStatus);
    });
    return ends;
  }
}
