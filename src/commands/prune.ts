import {BaseCommand} from '../cli/base-command.ts';
import {Args, Flags} from '../cli/define-flags.ts';
import {omitUndefined} from '../cli/omit-undefined.ts';
import {compatible, duration, size} from '../cli/shared-flags.ts';
import {formatSize} from '../cli/value-formatters.ts';
import type {PruneKind, PruneResult} from '../lib/client/types/index.ts';

const KINDS: readonly PruneKind[] = ['images', 'snapshots', 'content', 'ingests', 'leases'];

export default class Prune extends BaseCommand {
  static override summary = 'free space: remove unused images and data';
  static override description =
    'Removes images of the namespace from which no container was made, expired leases, leases of dead processes, and interrupted downloads; or only what is named. Unreferenced snapshots and content go with each kind but "ingests". Data that other namespaces use stays.';
  static override examples = ['prune --dry-run', 'prune --all-namespaces --older-than 168h', 'prune --keep-size 20G images'];
  static override args = {
    kind: Args.string({multiple: true, options: KINDS, description: `what to remove: ${KINDS.join(', ')}; by default all`}),
  };
  static override flags = {
    'all-namespaces': Flags.boolean({char: 'A', description: 'prune every namespace'}),
    'older-than': duration({helpValue: '24h', description: 'only images, leases and downloads unchanged for this long'}),
    'keep-size': size({helpValue: '20G', description: 'remove images, oldest first, only until the store takes no more than this'}),
    force: compatible('nothing is asked', 'f'),
    'dry-run': Flags.boolean({description: 'show what would be removed'}),
  };

  async run(): Promise<PruneResult> {
    const {args, flags} = await this.parse(Prune);
    const kinds = (args.kind ?? []) as readonly PruneKind[];
    if (flags['keep-size'] !== undefined && kinds.length > 0 && !kinds.includes('images'))
      throw this.usage('--keep-size removes images, but the kinds to remove do not include them');
    const client = await this.client(flags);
    const result = await client.prune({
      kinds,
      dryRun: flags['dry-run'],
      ...omitUndefined({
        namespace: flags['all-namespaces'] ? undefined : flags.namespace,
        olderThanMs: flags['older-than'],
        keepBytes: flags['keep-size'],
      }),
    });
    this.table(['NAMESPACE', 'KIND', 'KEY'], result.pruned, ({namespace, kind, key}) => [namespace, kind, key]);
    this.print(`${flags['dry-run'] ? 'would free' : 'freed'}: ${formatSize(result.freed)}`);
    return result;
  }
}
