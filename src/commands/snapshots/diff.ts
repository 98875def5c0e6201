import {isatty} from 'node:tty';
import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';
import {created} from '../../cli/image-build-flags.ts';
import {omitUndefined} from '../../cli/omit-undefined.ts';
import {label, snapshotter} from '../../cli/shared-flags.ts';
import {parseLabels} from '../../cli/value-parsers.ts';
import type {ContentRecord} from '../../lib/client/types/index.ts';

export default class Diff extends BaseCommand {
  static override summary = 'write what a snapshot changed as a layer, to standard output';
  static override description =
    'The layer makes the tree of A from that of B, by the rules of containerd. The same trees give the same bytes. A container that runs in A is paused meanwhile.';
  static override examples = [
    'snapshots diff r1 >layer.tar.gz',
    'snapshots diff --keep --label why=backup --json r1',
    'snapshots diff --media-type application/vnd.oci.image.layer.v1.tar work base >layer.tar',
  ];
  static override args = {
    a: Args.string({required: true, description: 'snapshot'}),
    b: Args.string({description: "snapshot to compare with; by default A's parent"}),
  };
  static override flags = {
    'media-type': Flags.string({
      helpValue: 'TYPE',
      default: 'application/vnd.oci.image.layer.v1.tar+gzip',
      description: 'type of the layer, which decides its compression',
    }),
    keep: Flags.boolean({
      description: 'keep the layer as content of the namespace as well; with --json, print its record instead of the bytes',
    }),
    ref: Flags.string({dependsOn: ['keep'], description: 'name of the transfer into the content; by default made of the snapshots'}),
    label: label('the content that is kept'),
    latest: created({description: 'time that later mtimes become: RFC 3339, or seconds since 1970'}),
    snapshotter: snapshotter(),
  };

  async run(): Promise<ContentRecord | undefined> {
    const {args, flags} = await this.parse(Diff);
    if (flags.label !== undefined && !flags.keep) throw this.usage('--label is of content that is kept: add --keep');
    const isPrinted = !(flags.keep && flags.json);
    if (isPrinted && isatty(1)) throw this.usage('standard output is a terminal: redirect it');
    const namespace = await this.namespace(flags);
    const options = {...omitUndefined({against: args.b, latest: flags.latest}), mediaType: flags['media-type'], signal: this.signal};
    const layer = await namespace.snapshots(flags.snapshotter).diff(args.a, options);
    if (!flags.keep) {
      for await (const chunk of layer) this.context.stdout(chunk);
      return undefined;
    }
    const {ref = `diff ${args.a} ${args.b ?? ''}`.trim(), label: labels = []} = flags;
    const record = await namespace.content.ingest(ref, layer, {labels: parseLabels(labels)});
    if (isPrinted) for await (const chunk of await namespace.content.open(record.digest)) this.context.stdout(chunk);
    return record;
  }
}
