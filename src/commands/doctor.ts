import {BaseCommand} from '../cli/base-command.ts';
import {omitUndefined} from '../cli/omit-undefined.ts';
import type {DoctorCheck} from '../lib/client/types/index.ts';
import {ErrdefsError} from '../lib/errdefs.ts';

export default class Doctor extends BaseCommand {
  static override summary = 'check whether this machine meets the requirements';

  async run(): Promise<readonly DoctorCheck[]> {
    const {flags} = await this.parse(Doctor);
    const client = await this.client(flags);
    const checks = (await client.doctor()).map(({hint, ...check}) => ({...check, ...omitUndefined({hint: this.typedHere(hint)})}));
    this.table(['CHECK', 'STATUS', 'DETAIL'], checks, ({name, status, detail}) => [name, status, detail]);
    this.list(
      checks.filter(({hint}) => hint !== undefined),
      ({name, hint}) => `${name}: ${hint!}`,
    );
    const failed = checks.filter(({status}) => status === 'error').map(({name}) => name);
    if (failed.length > 0) await this.fail(new ErrdefsError('failed_precondition', `not ready: ${failed.join(', ')}`));
    return checks;
  }
}
