import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';
import type {SystemdUnit} from '../../lib/client/types/index.ts';

export default class Systemd extends BaseCommand {
  static override summary = 'print a unit of systemd that runs a container';
  static override description =
    'systemd then restarts the container, starts it at boot, and keeps its output in the journal. Install the unit, and start it instead of a task.';
  static override examples = ['containers systemd web > /etc/systemd/system/web.service', 'containers systemd --restart always web'];
  static override args = {id: Args.string({required: true, description: 'container'})};
  static override flags = {
    restart: Flags.option({
      options: ['no', 'on-failure', 'always'] as const,
      default: 'on-failure' as const,
      description: 'when systemd starts it again',
    })(),
  };

  async run(): Promise<SystemdUnit> {
    const {args, flags} = await this.parse(Systemd);
    const {containers} = await this.namespace(flags);
    const unit = await containers.systemdUnit(args.id, {restart: flags.restart});
    this.list(unit.text.trimEnd().split('\n'), (line) => line);
    return unit;
  }
}
