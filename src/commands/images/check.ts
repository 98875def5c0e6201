import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';
import {omitUndefined} from '../../cli/omit-undefined.ts';
import {quiet, snapshotter} from '../../cli/shared-flags.ts';
import {formatSize} from '../../cli/value-formatters.ts';
import type {ImageCheck} from '../../lib/client/types/index.ts';

export default class Check extends BaseCommand {
  static override summary = 'check whether images are complete and unpacked';
  static override args = {filter: Args.string({multiple: true, description: 'filter, such as name~=redis'})};
  static override flags = {quiet: quiet('the references of complete images'), snapshotter: snapshotter()};

  async run(): Promise<readonly ImageCheck[]> {
    const {args, flags} = await this.parse(Check);
    const {images} = await this.namespace(flags);
    const checks = await images.check({filters: args.filter ?? [], ...omitUndefined({snapshotter: flags.snapshotter})});
    if (flags.quiet) {
      this.list(
        checks.filter(({status}) => status === 'complete'),
        ({name}) => name,
      );
      return checks;
    }
    this.table(
      ['REF', 'TYPE', 'DIGEST', 'STATUS', 'SIZE', 'UNPACKED'],
      checks,
      ({name, target, status, have, need, haveBytes, needBytes, unpacked}) => [
        name,
        target.mediaType,
        target.digest,
        status === 'error' ? status : `${status} (${have}/${need ?? '?'})`,
        status === 'error' ? '' : `${formatSize(haveBytes)}/${needBytes === undefined ? '?' : formatSize(needBytes)}`,
        String(unpacked),
      ],
    );
    return checks;
  }
}
