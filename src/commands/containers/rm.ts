import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';
import {compatible} from '../../cli/shared-flags.ts';
import {hasCode} from '../../lib/errdefs.ts';

export default class Remove extends BaseCommand {
  static override summary = 'remove one or more containers';
  static override args = {id: Args.string({required: true, multiple: true, description: 'container to remove'})};
  static override flags = {
    force: Flags.boolean({char: 'f', description: 'end those that run, and pass over those that do not exist'}),
    volumes: compatible('volumes without a name go with their container', 'v'),
    'keep-snapshot': Flags.boolean({description: 'keep the snapshot'}),
  };

  async run(): Promise<{removed: string[]}> {
    const {args, flags} = await this.parse(Remove);
    const {containers} = await this.namespace(flags);
    const options = {force: flags.force, keepSnapshot: flags['keep-snapshot']};
    const remove = async (id: string): Promise<unknown> => {
      try {
        return await containers.delete(id, options);
      } catch (err) {
        // As with podman and docker, so that a script can clean up whatever it got to.
        if (flags.force && hasCode(err, 'not_found')) return null;
        throw err;
      }
    };
    return {removed: await this.each('delete', args.id, remove)};
  }
}
