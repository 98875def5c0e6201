import {BaseCommand} from '../cli/base-command.ts';
import {Args, Flags} from '../cli/define-flags.ts';
import {omitUndefined} from '../cli/omit-undefined.ts';
import type {LogoutResult} from '../lib/client/types/index.ts';

export default class Logout extends BaseCommand {
  static override summary = "remove a registry's credentials";
  static override description = 'They are removed from all files that are read, and from the credential helpers that these name.';
  static override examples = ['logout registry.example', 'logout --all'];
  static override args = {registry: Args.string({description: 'registry, or a repository or directory of repositories in it'})};
  static override flags = {
    all: Flags.boolean({char: 'a', description: 'remove the credentials of all registries'}),
    authfile: Flags.string({helpValue: 'FILE', description: 'the only file to remove them from'}),
  };

  async run(): Promise<LogoutResult> {
    const {args, flags} = await this.parse(Logout);
    if ((args.registry === undefined) !== flags.all)
      throw this.usage(flags.all ? '--all and a registry exclude each other' : 'a registry is required', 'name a registry, or give --all');
    const {registry} = await this.client(flags);
    const result = await registry.logout(args.registry, {
      all: flags.all,
      ...omitUndefined({authFile: flags.authfile}),
      signal: this.signal,
    });
    this.list(result.registries, (name) => name);
    return result;
  }
}
