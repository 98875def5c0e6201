import {Args} from '../cli/define-flags.ts';
import {ProcessCommand} from '../cli/process-base-command.ts';
import type {ProgramCall} from '../lib/client/types/index.ts';

export default class Unshare extends ProcessCommand {
  static override summary = 'start a program as root of your user namespace';
  static override description =
    'For users without root. There files of containers have their owners, and mounts can be made, which last as long as the program. It ends with the status of the program; 127 if there is none.';
  static override examples = [
    'unshare',
    'unshare ls -l ~/.local/share/berth/layers',
    "unshare sh -c 'berth images mount redis ~/mnt && ls ~/mnt'",
  ];
  static override args = {program: Args.string({description: 'program, and its arguments; by default your shell'})};
  static override positionals = 1;

  async run(): Promise<ProgramCall> {
    const {args, flags} = await this.parse(Unshare);
    const client = await this.client(flags);
    const call = await client.unshare([args.program ?? (process.env.SHELL || '/bin/sh'), ...this.tail]);
    this.context.become?.(call);
    return call;
  }
}
