import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';
import {DELETE_HINTS} from '../../cli/unsupported-flags.ts';
import type {TaskExit} from '../../lib/client/types/index.ts';
import {hasCode} from '../../lib/errdefs.ts';

export default class Remove extends BaseCommand {
  static override summary = 'remove tasks that have ended; their containers stay';
  static override flagHints = DELETE_HINTS;
  static override args = {id: Args.string({required: true, multiple: true, description: 'task'})};
  static override flags = {force: Flags.boolean({char: 'f', description: 'end those that run, and pass over those that do not exist'})};

  async run(): Promise<readonly TaskExit[]> {
    const {args, flags} = await this.parse(Remove);
    const {tasks} = await this.namespace(flags);
    const ends: TaskExit[] = [];
    await this.each('delete task', args.id, async (id) => {
      try {
        ends.push(await tasks.delete(id, {force: flags.force}));
      } catch (err) {
        // As `containers rm --force`.
        if (flags.force && hasCode(err, 'not_found')) return null;
        throw err;
      }
      return undefined;
    });
    return ends;
  }
}
