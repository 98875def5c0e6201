import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';
import {formatLabels} from '../../cli/value-formatters.ts';
import {parseLabels} from '../../cli/value-parsers.ts';
import type {ContainerRecord} from '../../lib/client/types/index.ts';

export default class Label extends BaseCommand {
  static override summary = 'set labels of a container; an empty value removes one';
  static override args = {
    id: Args.string({required: true, description: 'container'}),
    label: Args.string({multiple: true, description: 'label as KEY=VALUE'}),
  };

  async run(): Promise<ContainerRecord> {
    const {args, flags} = await this.parse(Label);
    const {containers} = await this.namespace(flags);
    const container = await containers.label(args.id, parseLabels(args.label ?? []));
    this.print(formatLabels(container.labels));
    return container;
  }
}
