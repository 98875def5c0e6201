import {BaseCommand} from '../cli/base-command.ts';
import {Args} from '../cli/define-flags.ts';
import {registryOptions} from '../cli/registry-options.ts';
import {REGISTRY_FLAGS} from '../cli/shared-flags.ts';
import type {HostAnswer} from '../lib/client/types/index.ts';
import {ErrdefsError} from '../lib/errdefs.ts';

export default class Ping extends BaseCommand {
  static override summary = 'ask the hosts of a registry whether they answer';
  static override description =
    "A line for each mirror and the registry, in the order of use: CLASS is ok, or that of the failure. Credentials are checked where a host wants some; for a reference they are those of its repository. The exit status is 0 if a host answered, else that of the registry's failure.";
  static override examples = ['ping docker.io', 'ping registry.example/team/app'];
  static override args = {target: Args.string({required: true, description: 'registry, such as registry.example:5000, or reference'})};
  static override flags = REGISTRY_FLAGS;

  async run(): Promise<readonly HostAnswer[]> {
    const {args, flags} = await this.parse(Ping);
    const {registry} = await this.client(flags);
    const options = await registryOptions(flags, args.target, this.context);
    const answers = await registry.ping(args.target, {...options, signal: this.signal});
    this.table(['HOST', 'CLASS', 'TIME', 'ANSWER'], answers, ({url, code, ms, status, credentials, message}) => [
      url,
      code,
      `${ms} ms`,
      message ?? `${status}, ${credentials ? 'with credentials' : 'anonymous'}`,
    ]);
    const last = answers.at(-1);
    if (last !== undefined && last.code !== 'ok' && answers.every(({code}) => code !== 'ok'))
      await this.fail(
        new ErrdefsError(last.code, `no host of ${args.target} can be used`, last.hint === undefined ? {} : {hint: last.hint}),
      );
    return answers;
  }
}
