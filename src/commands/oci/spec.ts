import {BaseCommand} from '../../cli/base-command.ts';
import type {ForeignDocument} from '../../cli/command-types.ts';
import {Flags} from '../../cli/define-flags.ts';
import {omitUndefined} from '../../cli/omit-undefined.ts';

export default class Spec extends BaseCommand {
  static override summary = 'show the default specification of a container, as JSON';
  static override description = 'The one of a container is shown by "containers info --spec".';
  static override examples = ['oci spec', 'oci spec --platform linux/386'];
  static override flags = {
    platform: Flags.string({helpValue: 'OS/ARCH', description: "platform of the image; by default this machine's"}),
  };

  async run(): Promise<ForeignDocument> {
    const {flags} = await this.parse(Spec);
    const spec = await (await this.client(flags)).defaultSpec(omitUndefined({platform: flags.platform}));
    this.printJSON(spec);
    return spec;
  }
}
