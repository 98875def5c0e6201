import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';
import {omitUndefined} from '../../cli/omit-undefined.ts';
import {label, size} from '../../cli/shared-flags.ts';
import {standardInput} from '../../cli/stdin.ts';
import {parseLabels} from '../../cli/value-parsers.ts';
import type {ContentRecord} from '../../lib/client/types/index.ts';

export default class Ingest extends BaseCommand {
  static override summary = 'read a blob from standard input';
  static override args = {key: Args.string({required: true, description: 'name of the transfer; reuse it to resume an interrupted one'})};
  static override flags = {
    'expected-size': size({description: 'refuse any other size, in bytes'}),
    'expected-digest': Flags.string({helpValue: 'DIGEST', description: 'refuse any other digest'}),
    label: label('the blob'),
  };

  async run(): Promise<ContentRecord> {
    const {args, flags} = await this.parse(Ingest);
    const {content} = await this.namespace(flags);
    const blob = await content.ingest(args.key, standardInput(this.signal), {
      ...omitUndefined({expectedSize: flags['expected-size'], expectedDigest: flags['expected-digest']}),
      labels: parseLabels(flags.label ?? []),
      signal: this.signal,
    });
    this.print(blob.digest);
    return blob;
  }
}
