import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';
import {parseLabels} from '../../cli/value-parsers.ts';
import type {NamespaceRecord} from '../../lib/client/types/index.ts';

export default class Label extends BaseCommand {
  static override summary = 'set labels of a namespace; an empty value removes one';
  static override args = {
    name: Args.string({required: true, description: 'name of the namespace'}),
    label: Args.string({multiple: true, description: 'label as KEY=VALUE'}),
  };

  async run(): Promise<NamespaceRecord> {
    const {args, flags} = await this.parse(Label);
    const client = await this.client(flags);
    return client.namespaces.label(args.name, parseLabels(args.label ?? []));
  }
}
