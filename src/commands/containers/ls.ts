import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';
import {omitUndefined} from '../../cli/omit-undefined.ts';
import {compatible, quiet} from '../../cli/shared-flags.ts';
import type {ContainerRecord, Labels, Task} from '../../lib/client/types/index.ts';

const CHECKPOINTED = 'CHECKPOINTED';

function statusOf(task: Task | undefined, labels: Labels): string {
  if (task === undefined) return labels['berth/checkpoint'] === undefined ? '-' : CHECKPOINTED;
  return task.checkpointed ? CHECKPOINTED : task.status.toUpperCase();
}

export default class List extends BaseCommand {
  static override summary = 'list containers';
  static override description = 'CHECKPOINTED is one that "containers restore" lets go on.';
  static override args = {filter: Args.string({multiple: true, description: 'filter, such as image~=redis'})};
  static override flags = {
    quiet: quiet('the identifiers'),
    all: compatible('all are listed', 'a'),
    'no-trunc': compatible('nothing is shortened'),
  };

  async run(): Promise<readonly (ContainerRecord & {readonly task?: Task})[]> {
    const {args, flags} = await this.parse(List);
    const client = await this.namespace(flags);
    const containers = await client.containers.list({filters: args.filter ?? []});
    if (flags.quiet) {
      this.list(containers, ({id}) => id);
      return containers;
    }
    const tasks = new Map(containers.length === 0 ? [] : (await client.tasks.list()).map((task) => [task.id, task]));
    this.table(['CONTAINER', 'IMAGE', 'RUNTIME', 'STATUS'], containers, ({id, image, runtime, labels}) => [
      id,
      image === '' ? '-' : image,
      runtime.name,
      statusOf(tasks.get(id), labels),
    ]);
    return containers.map((container) => ({...container, ...omitUndefined({task: tasks.get(container.id)})}));
  }
}
