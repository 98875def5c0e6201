/** Flags of the commands that start tasks. */
import {fileURLToPath} from 'node:url';
import {ErrdefsError} from '../lib/errdefs.ts';
import {Flags} from './define-flags.ts';
import {size} from './shared-flags.ts';
import {parseDuration} from './value-parsers.ts';

/** Of a number without a unit, as docker has it. */
const parseSeconds = async (input: string): Promise<number> => parseDuration(/^\d+$/.test(input) ? `${input}s` : input);

/** How long a task has to end by itself. */
export const STOP_TIME = Flags.custom<number>({
  char: 't',
  helpValue: '10s',
  description:
    "time to end by itself; by default the container's --stop-timeout, else 10s; a number without a unit is seconds, as in docker",
  parse: parseSeconds,
})();

/** The same, of a container. */
export const STOP_TIMEOUT = Flags.custom<number>({
  helpValue: '10s',
  description: 'how long a stop waits before it kills; a number without a unit is seconds, as in docker',
  parse: parseSeconds,
})();

/** How a task is started. */
export const START_FLAGS = {
  detach: Flags.boolean({char: 'd', description: 'leave it running, and print its identifier'}),
  'pid-file': Flags.string({helpValue: 'FILE', description: 'write the process ID to this file'}),
  'no-pivot': Flags.boolean({description: "move the root instead of pivoting to it, where the host's is a ramdisk"}),
  'null-io': Flags.boolean({description: 'keep no output; with --detach'}),
  'log-max-size': size({description: 'size after which the log begins anew, 64M by default; with --detach'}),
  'log-driver': Flags.custom<'none' | 'json-file'>({
    helpValue: 'none|json-file',
    description: 'none keeps no output, as --null-io; json-file, which is so anyway, keeps it for "tasks logs", in conmon\'s format',
    exclusive: ['log-uri'],
    parse: async (input) => {
      if (input === 'none' || input === 'json-file') return input;
      throw new ErrdefsError('invalid_argument', `${JSON.stringify(input)} is neither none nor json-file`, {
        hint: 'no process of berth stays to send a log elsewhere: give a program the output of "berth tasks logs --follow"',
      });
    },
  })(),
  'log-uri': Flags.string({
    helpValue: 'URI',
    description: 'where the output goes: none, or file://PATH, with time and stream before each line; with --detach',
  }),
};

interface StartFlags {
  readonly interactive: boolean;
  readonly detach: boolean;
  readonly 'pid-file'?: string | undefined;
  readonly 'no-pivot': boolean;
  readonly 'null-io': boolean;
  readonly 'log-max-size'?: number | undefined;
  readonly 'log-driver'?: 'none' | 'json-file' | undefined;
  readonly 'log-uri'?: string | undefined;
}

/** @throws not_implemented another kind of log, such as binary:// */
function logFileOf(uri: string): string {
  if (!/^file:/i.test(uri))
    throw new ErrdefsError('not_implemented', `--log-uri ${JSON.stringify(uri)}`, {
      hint: 'conmon writes the log, and "berth tasks logs" reads it: none, or file:///PATH; a program can read "berth tasks logs --follow"',
    });
  try {
    return fileURLToPath(uri);
  } catch (err) {
    throw new ErrdefsError('invalid_argument', `--log-uri ${JSON.stringify(uri)}`, {cause: err, hint: 'such as file:///var/log/r1.log'});
  }
}

/** @throws invalid_argument, not_implemented a log that berth cannot write */
export function startOptions(flags: StartFlags): {
  detach: boolean;
  stdin?: boolean;
  noPivot?: boolean;
  nullIO?: boolean;
  logFile?: string;
  pidFile?: string;
  maxLogSize?: number;
} {
  const {detach, interactive, 'null-io': nullIO, 'log-uri': uri, 'pid-file': pidFile, 'log-max-size': maxLogSize} = flags;
  const logFile = uri === undefined || uri === 'none' ? undefined : logFileOf(uri);
  return {
    detach,
    ...(detach && interactive ? {stdin: true} : {}),
    ...(flags['no-pivot'] ? {noPivot: true} : {}),
    ...(nullIO || uri === 'none' || (detach && flags['log-driver'] === 'none') ? {nullIO: true} : {}),
    ...(logFile === undefined ? {} : {logFile}),
    ...(pidFile === undefined ? {} : {pidFile}),
    ...(maxLogSize === undefined ? {} : {maxLogSize}),
  };
}
