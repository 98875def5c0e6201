import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/oclif-definitions.ts';
import {formatJSON, type Printable} from '../../cli/printable.ts';
import {START_FLAGS, startOptions, statusOfFailure, wasLeft} from '../../cli/task-flags.ts';
import type {RunResult} from '../../lib/client/types/index.ts';

export default class Start extends BaseCommand {
  static override summary = 'start a container that has no task';
  static override description = 'Without --detach it ends with the container, and with its exit status.';
  static override examples = ['tasks start r1', 'tasks start --detach r1'];
  static override args = {id: Args.string({required: true, description: 'container'})};
  static override flags = START_FLAGS;

  /** Standard output belongs to the container, unless it is left running. */
  protected override printResult(result: unknown): void {
    if (wasLeft(result as RunResult)) super.printResult(result);
    else this.context.stderr(`${formatJSON({result})}\n` as Printable);
  }

  protected override statusOf(err: unknown): number {
    return statusOfFailure(err);
  }

  async run(): Promise<RunResult> {
    const {args, flags} = await this.parse(Start);
    const {tasks} = await this.namespace(flags);
    const result = await tasks.start(args.id, {...startOptions(flags), signal: this.deadline});
    if (wasLeft(result)) this.print(result.id);
    this.status = result.exitStatus;
    return result;
  }
}
