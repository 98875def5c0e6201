import {BaseCommand} from '../../cli/base-command.ts';
import {Flags} from '../../cli/define-flags.ts';
import {compatible} from '../../cli/shared-flags.ts';

export default class Prune extends BaseCommand {
  static override summary = 'remove the volumes that no container has, with what is in them';
  static override description = '"prune" leaves them alone: a container that is made anew finds its volume again.';
  static override examples = ['volumes prune --dry-run'];
  static override flags = {
    all: compatible('volumes with a name are removed, too', 'a'),
    force: compatible('nothing is asked', 'f'),
    'dry-run': Flags.boolean({description: 'show what would be removed'}),
  };

  async run(): Promise<{removed: readonly string[]}> {
    const {flags} = await this.parse(Prune);
    const {volumes} = await this.namespace(flags);
    const removed = await volumes.prune({dryRun: flags['dry-run']});
    this.list(removed, (name) => name);
    return {removed};
  }
}
