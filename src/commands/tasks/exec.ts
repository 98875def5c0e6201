import {Args, Flags} from '../../cli/define-flags.ts';
import {omitUndefined} from '../../cli/omit-undefined.ts';
import {ProcessCommand} from '../../cli/process-base-command.ts';
import {repeated} from '../../cli/shared-flags.ts';
import {EXEC_HINTS} from '../../cli/unsupported-flags.ts';
import type {ExecResult} from '../../lib/client/types/index.ts';

export default class Exec extends ProcessCommand {
  static override summary = 'run one more process in a running container';
  static override description =
    `Everything after ID is the command. It has the container's capabilities, limits and filter of system calls, and ends with the exit status
of the process; 125 if it could not be started, 126 if the command cannot be executed, 127 if there is none.`;
  static override examples = ['tasks exec r1 redis-cli ping', 'tasks exec -t --user nobody a1 sh'];
  static override positionals = 1;
  static override flagHints = EXEC_HINTS;
  static override args = {id: Args.string({required: true, description: 'container'})};
  static override flags = {
    'exec-id': Flags.string({helpValue: 'ID', description: 'identifier of the process; by default one is made up'}),
    tty: Flags.boolean({char: 't', description: 'allocate a terminal'}),
    interactive: Flags.boolean({char: 'i', description: 'as in docker; standard input is connected with or without it'}),
    detach: Flags.boolean({char: 'd', description: 'leave it running, without input and output, and print its identifier'}),
    cwd: Flags.string({aliases: ['workdir'], char: 'w', helpValue: 'DIR', description: "working directory; by default the container's"}),
    env: repeated({
      char: 'e',
      helpValue: 'KEY[=VALUE]',
      description: 'set an environment variable, or without a value remove it; may be repeated',
    }),
    user: Flags.string({char: 'u', helpValue: 'USER[:GROUP]', description: 'user, by name or number'}),
    'pid-file': Flags.string({helpValue: 'FILE', description: 'write the process ID to this file; with --detach'}),
  };

  async run(): Promise<ExecResult> {
    const {args, flags} = await this.parse(Exec);
    if (this.tail.length === 0) throw this.usage('tasks exec needs a command');
    const {tasks} = await this.namespace(flags);
    const {tty, detach, cwd, env, user} = flags;
    const result = await tasks.exec(args.id, this.tail, {
      tty,
      detach,
      ...omitUndefined({execId: flags['exec-id'], cwd, env, user, pidFile: flags['pid-file']}),
      signal: this.deadline,
    });
    return this.conclude(result, result.execId);
  }
}
