import {BaseCommand} from '../../cli/base-command.ts';
import {Flags} from '../../cli/define-flags.ts';
import {lines} from '../../cli/printable.ts';
import {compatible} from '../../cli/shared-flags.ts';
import type {PruneResult} from '../../lib/client/types/index.ts';

export default class Prune extends BaseCommand {
  static override summary = 'remove images from which no container was made';
  static override description = 'As "prune images". Without --all nothing is removed, as in ctr.';
  static override examples = ['images prune --all'];
  static override flags = {
    force: compatible('nothing is asked', 'f'),
    all: Flags.boolean({char: 'a', description: 'remove all unused images of the namespace'}),
  };

  async run(): Promise<PruneResult> {
    const {flags} = await this.parse(Prune);
    if (!flags.all) {
      if (!flags.json) this.context.stderr(lines([`${this.context.program}: warning: nothing is removed without --all`]));
      return {pruned: [], freed: 0};
    }
    const client = await this.client(flags);
    const result = await client.prune({namespace: flags.namespace, kinds: ['images']});
    this.list(
      result.pruned.filter(({kind}) => kind === 'image'),
      ({key}) => key,
    );
    return result;
  }
}
