import {BaseCommand} from '../cli/base-command.ts';
import {Args, Flags} from '../cli/define-flags.ts';
import {omitUndefined} from '../cli/omit-undefined.ts';
import {parseSince} from '../cli/value-parsers.ts';

export default class Events extends BaseCommand {
  static override summary = 'print what commands have changed, as a line of JSON for each event';
  static override description =
    'Topics and fields are those of containerd: /images/create, /containers/delete, /snapshot/prepare, /tasks/exit and others, of all namespaces. The log holds the last one or two mebibytes since the boot.';
  static override examples = ['events', "events --follow 'topic~=|^/images/|'", 'events --since 10m namespace==default,event.id==r1'];
  static override args = {filter: Args.string({multiple: true, description: 'filter, as in containerd; an event matches when any does'})};
  static override flags = {
    follow: Flags.boolean({char: 'f', description: 'go on with what happens, until interrupted'}),
    since: Flags.custom<string>({
      helpValue: 'TIME',
      description: 'only from this time on: as in RFC 3339, or a duration before now, such as 10m',
      parse: async (input) => {
        parseSince(input);
        return input;
      },
    })(),
  };

  async run(): Promise<void> {
    const {args, flags} = await this.parse(Events);
    const client = await this.client(flags);
    const events = await client.events({
      ...omitUndefined({filters: args.filter, since: flags.since === undefined ? undefined : parseSince(flags.since)}),
      follow: flags.follow,
      signal: this.signal,
    });
    for await (const event of events) await this.printRecord(event);
  }
}
