import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';
import {omitUndefined} from '../../cli/omit-undefined.ts';

export default class Kill extends BaseCommand {
  static override summary = 'send a signal to a task, once';
  static override description =
    'Without --signal it sends the stop signal of the image, or SIGTERM, as ctr does; docker and podman send SIGKILL, which is "--signal KILL" here. It does not wait for an end: "tasks stop" does.';
  static override args = {id: Args.string({required: true, multiple: true, description: 'task'})};
  static override flags = {
    signal: Flags.string({char: 's', helpValue: 'SIGNAL', description: "name or number; by default the image's stop signal, else SIGTERM"}),
    'exec-id': Flags.string({helpValue: 'ID', description: 'send it to the process of this exec'}),
    all: Flags.boolean({char: 'a', description: 'send it to all processes of the container'}),
  };

  async run(): Promise<{readonly signaled: readonly string[]}> {
    const {args, flags} = await this.parse(Kill);
    const {tasks} = await this.namespace(flags);
    const options = {...omitUndefined({signal: flags.signal, execId: flags['exec-id']}), all: flags.all};
    return {signaled: await this.each('signal', args.id, (id) => tasks.kill(id, options))};
  }
}
