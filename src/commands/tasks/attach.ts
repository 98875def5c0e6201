import {Args, Flags} from '../../cli/define-flags.ts';
import {ProcessCommand} from '../../cli/process-base-command.ts';
import type {TaskAttachResult} from '../../lib/client/types/index.ts';

export default class Attach extends ProcessCommand {
  static override summary = 'connect to the streams of a detached task';
  static override description =
    `It ends with the task, and with its exit status. What the task wrote before is in "tasks logs". From a terminal, the detach keys leave a
task with a terminal running; signals go to one without. The task reads what is typed if it was started with --interactive or --tty; its
input stays open when this command ends. Several can be attached at once. A reader that stalls holds the task back, as a pipe does.`;
  static override examples = ['tasks attach r1', 'tasks attach --no-stdin --sig-proxy=false r1'];
  static override args = {id: Args.string({required: true, description: 'task'})};
  static override flags = {
    'detach-keys': Flags.string({helpValue: 'KEYS', description: 'keys that detach, by default ctrl-p,ctrl-q; empty: none'}),
    'no-stdin': Flags.boolean({description: 'pass nothing on of what is typed'}),
    'sig-proxy': Flags.boolean({default: true, description: 'pass signals on; =false: they end this command, and the task runs on'}),
  };

  async run(): Promise<TaskAttachResult> {
    const {args, flags} = await this.parse(Attach);
    const {tasks} = await this.namespace(flags);
    const result = await tasks.attach(args.id, {
      stdin: !flags['no-stdin'],
      sigProxy: flags['sig-proxy'],
      ...(flags['detach-keys'] === undefined ? {} : {detachKeys: flags['detach-keys']}),
      signal: this.deadline,
    });
    return this.conclude(result, result.id);
  }
}
