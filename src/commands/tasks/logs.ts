import {StringDecoder} from 'node:string_decoder';
import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';
import {omitUndefined} from '../../cli/omit-undefined.ts';
import {parseSince} from '../../cli/value-parsers.ts';
import type {LogEntry} from '../../lib/client/types/index.ts';
import {ErrdefsError} from '../../lib/errdefs.ts';

const time = (description: string) =>
  Flags.custom<string>({
    helpValue: 'TIME',
    description,
    parse: async (input) => {
      parseSince(input);
      return input;
    },
  })();

/** @throws invalid_argument neither a number of lines nor `all`, which docker writes for all of them, or any number below 0 */
const TAIL = Flags.custom<number>({
  helpValue: 'N',
  description: 'only the last lines: a number, or all',
  parse: async (input) => {
    if (input === 'all' || /^-\d+$/.test(input)) return Number.MAX_SAFE_INTEGER;
    const lines = Number(input);
    if (!/^\d+$/.test(input) || !Number.isSafeInteger(lines))
      throw new ErrdefsError('invalid_argument', `${JSON.stringify(input)} is neither a number of lines nor all`);
    return lines;
  },
})();

/** A duration counts from when the command runs. */
const asTime = (text: string | undefined): string | undefined => (text === undefined ? undefined : parseSince(text).toISOString());

export default class Logs extends BaseCommand {
  static override summary = 'print what a detached task has written';
  static override description =
    `Its standard output goes to standard output, its standard error to standard error. With --json or --format each line is an object with time, stream
and data. A log that has reached --log-max-size begins anew: what was in it before is gone.`;
  static override examples = ['tasks logs --tail 20 r1', 'tasks logs --follow --timestamps r1'];
  static override args = {id: Args.string({required: true, description: 'task'})};
  static override flags = {
    follow: Flags.boolean({char: 'f', description: 'go on until the task ends'}),
    since: time('only from this time on: as in RFC 3339, or a duration before now, such as 10m'),
    until: time('only before this time'),
    tail: TAIL,
    timestamps: Flags.boolean({char: 't', description: 'put its time before each line'}),
  };

  async run(): Promise<void> {
    const {args, flags} = await this.parse(Logs);
    const {tasks} = await this.namespace(flags);
    const entries = await tasks.logs(args.id, {
      follow: flags.follow,
      ...omitUndefined({since: asTime(flags.since), until: asTime(flags.until), tail: flags.tail}),
      signal: this.signal,
    });
    if (this.json) {
      for await (const record of recordsOf(entries)) await this.printRecord(record);
      return;
    }
    const begun = {stdout: false, stderr: false};
    for await (const {time: at, stream, data} of entries) {
      const bytes = flags.timestamps && !begun[stream] ? Buffer.concat([Buffer.from(`${at} `), data]) : data;
      begun[stream] = data.at(-1) !== 10;
      this.context[stream](bytes);
    }
  }
}

/** With text: conmon cuts lines where its buffer ends, also within a character. */
async function* recordsOf(entries: AsyncIterable<LogEntry>): AsyncGenerator<Omit<LogEntry, 'data'> & {readonly data: string}> {
  const decoders = {stdout: new StringDecoder('utf8'), stderr: new StringDecoder('utf8')};
  let last = '';
  for await (const {time: at, stream, data} of entries) {
    last = at;
    yield {time: at, stream, data: decoders[stream].write(data)};
  }
  for (const stream of ['stdout', 'stderr'] as const) {
    const data = decoders[stream].end();
    if (data !== '') yield {time: last, stream, data};
  }
}
