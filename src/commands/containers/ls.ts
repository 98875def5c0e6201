import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';
import {omitUndefined} from '../../cli/omit-undefined.ts';
import {quiet} from '../../cli/shared-flags.ts';
import type {ContainerRecord, Task} from '../../lib/client/types/index.ts';

export default class List extends BaseCommand {
  static override summary = 'list containers';
  static override args = {filter: Args.string({multiple: true, description: 'filter, such as image~=redis'})};
  static override flags = {
    quiet: quiet('the identifiers'),
    all: Flags.boolean({char: 'a', hidden: true, description: 'accepted for compatibility: all are listed'}),
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
    this.table(['CONTAINER', 'IMAGE', 'RUNTIME', 'STATUS'], containers, ({id, image, runtime}) => [
      id,
      image === '' ? '-' : image,
      runtime.name,
      tasks.get(id)?.status.toUpperCase() ?? '-',
    ]);
    return containers.map((container) => ({...container, ...omitUndefined({task: tasks.get(container.id)})}));
  }
}
