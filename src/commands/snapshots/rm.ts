import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';
import {snapshotter} from '../../cli/shared-flags.ts';

export default class Remove extends BaseCommand {
  static override summary = 'remove one or more snapshots';
  static override args = {key: Args.string({required: true, multiple: true, description: 'snapshot to remove'})};
  static override flags = {snapshotter: snapshotter()};

  async run(): Promise<{removed: string[]}> {
    const {args, flags} = await this.parse(Remove);
    const snapshots = (await this.namespace(flags)).snapshots(flags.snapshotter);
    return {removed: await this.each('remove', args.key, (key) => snapshots.delete(key))};
  }
}
