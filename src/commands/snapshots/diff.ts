import {isatty} from 'node:tty';
import {BaseCommand} from '../../cli/base-command.ts';
import {created} from '../../cli/build-flags.ts';
import {Args, Flags} from '../../cli/oclif-definitions.ts';
import {omitUndefined} from '../../cli/omit-undefined.ts';
import {snapshotter} from '../../cli/shared-flags.ts';

export default class Diff extends BaseCommand {
  static override summary = 'write what a snapshot changed as a layer, to standard output';
  static override description =
    'The layer makes the tree of A from that of B, by the rules of containerd. The same trees give the same bytes. A container that runs in A is paused meanwhile.';
  static override examples = [
    'snapshots diff r1 >layer.tar.gz',
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
    latest: created({description: 'time that later mtimes become: RFC 3339, or seconds since 1970'}),
    snapshotter: snapshotter(),
  };

  async run(): Promise<void> {
    const {args, flags} = await this.parse(Diff);
    if (isatty(1)) throw this.usage('standard output is a terminal: redirect it');
    const snapshots = (await this.namespace(flags)).snapshots(flags.snapshotter);
    const options = {...omitUndefined({against: args.b, latest: flags.latest}), mediaType: flags['media-type'], signal: this.signal};
    for await (const chunk of await snapshots.diff(args.a, options)) this.context.stdout(chunk);
  }
}
