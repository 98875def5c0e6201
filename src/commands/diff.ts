import {BaseCommand} from '../cli/base-command.ts';
import {Args} from '../cli/oclif-definitions.ts';
import {quiet} from '../cli/shared-flags.ts';
import type {ContainerChange} from '../lib/client/types/index.ts';

const LETTERS: Readonly<Record<ContainerChange['kind'], string>> = {added: 'A', modified: 'C', deleted: 'D'};

export default class Diff extends BaseCommand {
  static override summary = 'list what a container changed in its filesystem';
  static override description = 'A is added, C changed, D deleted, as in docker. Volumes and other mounts are left out.';
  static override args = {id: Args.string({required: true, description: 'container'})};
  static override flags = {quiet: quiet('the paths')};

  async run(): Promise<readonly ContainerChange[]> {
    const {args, flags} = await this.parse(Diff);
    const {containers} = await this.namespace(flags);
    const changes = await containers.changes(args.id, {signal: this.signal});
    this.list(changes, ({kind, path}) => (flags.quiet ? path : `${LETTERS[kind]} ${path}`));
    return changes;
  }
}
