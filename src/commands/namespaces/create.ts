import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';
import {parseLabels} from '../../cli/value-parsers.ts';
import type {NamespaceRecord} from '../../lib/client/types/index.ts';

export default class Create extends BaseCommand {
  static override summary = 'create a namespace';
  static override args = {
    name: Args.string({required: true, description: 'name of the namespace'}),
    label: Args.string({multiple: true, description: 'label as KEY=VALUE'}),
  };

  async run(): Promise<NamespaceRecord> {
    const {args, flags} = await this.parse(Create);
    const client = await this.client(flags);
    return client.namespaces.create(args.name, parseLabels(args.label ?? []));
  }
}
