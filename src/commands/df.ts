import {BaseCommand} from '../cli/base-command.ts';
import {Flags} from '../cli/define-flags.ts';
import {formatSize} from '../cli/value-formatters.ts';
import type {DiskUsage, ShareOfDisk, SpaceUsed} from '../lib/client/types/index.ts';

/** Kinds that are counted over all namespaces, in the order of the last rows. */
const PARTS = ['content', 'snapshots', 'writable', 'ingests', 'unnamed', 'leftovers', 'damaged', 'records'] as const;

interface Row extends Partial<ShareOfDisk> {
  readonly namespace: string;
  readonly kind: string;
}

export default class DiskFree extends BaseCommand {
  static override summary = 'show disk usage';
  static override description =
    'SIZE is the length of files, DISK the blocks they take; UNIQUE is the part that one namespace uses, SHARED the part that several use. Rows without a namespace count everything once. Their sum is the total, as du(1) reports it.';
  static override flags = {bytes: Flags.boolean({char: 'b', description: 'print sizes in bytes'})};

  async run(): Promise<DiskUsage> {
    const {flags} = await this.parse(DiskFree);
    const client = await this.client(flags);
    const usage = await client.df();
    const text = (bytes: number | undefined): string => (bytes === undefined ? '' : flags.bytes ? String(bytes) : formatSize(bytes));
    this.table(['NAMESPACE', 'KIND', 'COUNT', 'SIZE', 'DISK', 'UNIQUE', 'SHARED'], rows(usage), (row) => [
      row.namespace,
      row.kind,
      row.count === undefined ? '' : String(row.count),
      ...[row.size, row.disk, row.unique, row.shared].map(text),
    ]);
    return usage;
  }
}

function rows(usage: DiskUsage): readonly Row[] {
  const own = usage.namespaces.flatMap(({name: namespace, images, containers, content, snapshots, writable}): Row[] => [
    {namespace, kind: 'images', count: images},
    {namespace, kind: 'containers', count: containers},
    {namespace, kind: 'content', ...content},
    {namespace, kind: 'snapshots', ...snapshots},
    {namespace, kind: 'writable', ...writable},
  ]);
  const all = PARTS.map((kind): Row => ({namespace: '', kind, ...(usage[kind] satisfies SpaceUsed)}));
  return [...own, ...all, {namespace: '', kind: 'total', disk: usage.disk}];
}
