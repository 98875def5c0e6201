import {BaseCommand} from '../../cli/base-command.ts';
import {snapshotter} from '../../cli/shared-flags.ts';
import type {SnapshotRecord} from '../../lib/client/types/index.ts';

export default class Tree extends BaseCommand {
  static override summary = 'show snapshots as a tree';
  static override flags = {snapshotter: snapshotter()};

  async run(): Promise<readonly SnapshotRecord[]> {
    const {flags} = await this.parse(Tree);
    const client = await this.namespace(flags);
    const snapshots = await client.snapshots(flags.snapshotter).list();
    const children = Map.groupBy(snapshots, ({parent}) => parent);
    const draw = (parent: string | undefined, depth: number): string[] =>
      (children.get(parent) ?? []).flatMap(({key}) => [
        `${depth === 0 ? ' ' : `${'  '.repeat(depth)}\\_ `}${key}`,
        ...draw(key, depth + 1),
      ]);
    this.list(draw(undefined, 0), (line) => line);
    return snapshots;
  }
}
