import {BaseCommand} from '../cli/base-command.ts';
import {Args, Flags} from '../cli/define-flags.ts';
import {omitUndefined} from '../cli/omit-undefined.ts';
import {lines} from '../cli/printable.ts';
import {registryOptions} from '../cli/registry-options.ts';
import {REGISTRY_FLAGS} from '../cli/shared-flags.ts';
import {askLine} from '../cli/stdin.ts';
import type {LoginResult} from '../lib/client/types/index.ts';
import {ErrdefsError} from '../lib/errdefs.ts';

const {refresh: _, authfile, ...connection} = REGISTRY_FLAGS;

export default class Login extends BaseCommand {
  static override summary = 'log in to a registry';
  static override description =
    "On a terminal user name and password are asked for. They are checked at the registry, and kept where podman and docker find them: in the file that has the registry's entry, else REGISTRY_AUTH_FILE, else docker's config.json; or in the credential helper that the file names.";
  static override examples = [
    'login registry.example',
    'login -u me registry.example',
    'login -u ci --password-stdin registry.example/team <token.txt',
    'login --get-login docker.io',
  ];
  static override args = {
    registry: Args.string({required: true, description: 'registry, or a repository or directory of repositories in it'}),
  };
  static override flags = {
    ...connection,
    authfile: {...authfile, description: 'the file to keep the credentials in'} as typeof authfile,
    password: Flags.string({
      char: 'p',
      helpValue: 'PASSWORD',
      description: 'password (other users can briefly see it; --password-stdin is safe)',
      dependsOn: ['user'],
      exclusive: ['password-stdin'],
    }),
    'get-login': Flags.boolean({description: 'print the user name that is kept for the registry, and do nothing else'}),
  };

  async run(): Promise<LoginResult | {username: string}> {
    const {args, flags} = await this.parse(Login);
    const {registry} = await this.client(flags);
    if (flags['get-login']) {
      const username = await registry.loggedIn(args.registry, {...omitUndefined({authFile: flags.authfile}), signal: this.signal});
      this.print(username);
      return {username};
    }
    const asked = flags.user ?? (flags['password-stdin'] ? undefined : await askLine('Username: '));
    if (asked === undefined)
      throw this.usage('a user name is required', 'give it with --user, and the password at the terminal or with --password-stdin');
    const user = flags.password === undefined ? asked : `${asked}:${flags.password}`;
    if (flags.password !== undefined && asked.includes(':'))
      throw new ErrdefsError('invalid_argument', 'two passwords: one in --user and one in --password');
    const {credentials, ...options} = await registryOptions({...flags, user, refresh: undefined}, args.registry, this.context);
    const {username, password} = credentials as {username: string; password: string};
    const result = await registry.login(args.registry, username, password, {...options, signal: this.signal});
    const {program} = this.context;
    const warnings = [
      ...(flags.password === undefined ? [] : ['a password on the command line can be seen by other users; use --password-stdin']),
      ...(result.verified ? [] : [`${result.registry} asks for no credentials, so these were not checked`]),
    ];
    if (!flags.json) this.context.stderr(lines(warnings.map((warning) => `${program}: warning: ${warning}`)));
    this.print(`logged in to ${result.registry} as ${result.username}: ${result.helper ?? result.file}`);
    return result;
  }
}
