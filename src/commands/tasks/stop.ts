import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';
import {omitUndefined} from '../../cli/omit-undefined.ts';
import {STOP_TIME} from '../../cli/task-flags.ts';
import type {TaskExit} from '../../lib/client/types/index.ts';

export default class Stop extends BaseCommand {
  static override summary = "end tasks: by the image's stop signal or SIGTERM, and SIGKILL if that does not help";
  static override args = {id: Args.string({required: true, multiple: true, description: 'task'})};
  static override flags = {
    time: STOP_TIME,
  };

  async run(): Promise<readonly TaskExit[]> {
    const {args, flags} = await this.parse(Stop);
    const {tasks} = await this.namespace(flags);
    const ends: TaskExit[] = [];
    await this.each('stop', args.id, async (id) => {
      ends.push(await tasks.stop(id, {...omitUndefined({timeoutMs: flags.time}), signal: this.signal}));
    });
    return ends;
  }
}
