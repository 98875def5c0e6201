/** Flags that several commands take. */
import type {FlagInput} from '@oclif/core/parser';
import {Flags} from './define-flags.ts';
import type {Template} from './format-template.ts';
import {parseCount, parseDecimal, parseDuration, parseSize} from './value-parsers.ts';

/** A duration, in milliseconds. */
export const duration = Flags.custom<number>({helpValue: '10s', parse: async (input) => parseDuration(input)});

/** A size, in bytes. */
export const size = Flags.custom<number>({helpValue: '512M', parse: async (input) => parseSize(input)});

/** A decimal number above 0. */
export const decimal = Flags.custom<number>({helpValue: '1.5', parse: async (input) => parseDecimal(input)});

/** A whole number above 0. */
export const count = Flags.custom<number>({helpValue: 'N', parse: async (input) => parseCount(input)});

/** A flag that may be given several times, one value each. */
export const repeated = Flags.custom<string>({multiple: true, multipleNonGreedy: true});

const helpGroup = 'GLOBAL';

/** Flags of every command. They may also stand before it: `ctr -n foo images ls`. */
export const GLOBAL_FLAGS = {
  namespace: Flags.string({char: 'n', env: 'CONTAINERD_NAMESPACE', default: 'default', description: 'namespace to work in', helpGroup}),
  root: Flags.string({env: 'BERTH_ROOT', helpValue: 'DIR', description: 'directory of the persistent state', helpGroup}),
  state: Flags.string({env: 'BERTH_STATE', helpValue: 'DIR', description: 'directory of state that does not survive a reboot', helpGroup}),
  timeout: duration({default: 0, description: 'time limit for the whole command; 0 means none', helpGroup}),
  'connect-timeout': duration({
    default: 30_000,
    defaultHelp: async () => '30s',
    description: 'time limit for each connection; 0 means none',
    helpGroup,
  }),
  'lock-timeout': duration({
    default: 10_000,
    defaultHelp: async () => '10s',
    description: 'how long to wait for a lock; 0 waits forever',
    helpGroup,
  }),
  progress: Flags.option({
    options: ['auto', 'tty', 'plain', 'json', 'none'] as const,
    default: 'auto' as const,
    description: 'progress display on standard error',
    helpGroup,
  })(),
  json: Flags.boolean({description: 'print results and errors as JSON', helpGroup}),
  format: Flags.custom<Template>({
    helpValue: 'TEMPLATE',
    description: `print results by a template, such as '{{.name}}', 'table {{.name}}\\t{{.target.digest}}' or /target/digest: fields as in --json`,
    exclusive: ['json'],
    helpGroup,
    parse: async (input) => (await import('./format-template.ts')).parseTemplate(input),
  })(),
  debug: Flags.boolean({description: 'show requests to registries and the stack of an error', helpGroup}),
  help: Flags.boolean({char: 'h', description: 'show this help', helpGroup}),
};

type FlagsOf<T> = T extends FlagInput<infer F> ? F : never;
/** Values of the global flags. `--format` is the base command's alone: a few commands have another one of that name. */
export type GlobalFlags = FlagsOf<Omit<typeof GLOBAL_FLAGS, 'format'>>;

export const quiet = (what: string) => Flags.boolean({char: 'q', description: `print ${what} only`});

/** Said by those who know other tools, and so here anyway. */
export const compatible = (why: string, char?: 'a' | 'f' | 'v') =>
  Flags.boolean({hidden: true, description: `accepted for compatibility: ${why}`, ...(char === undefined ? {} : {char})});

export const snapshotter = () =>
  Flags.string({env: 'CONTAINERD_SNAPSHOTTER', helpValue: 'NAME', description: "snapshotter; by default the namespace's"});

export const label = (what: string) => repeated({helpValue: 'KEY=VALUE', description: `label of ${what}; may be repeated`});

/** Flags for access to a registry, without those for its passwords. */
export const CONNECTION_FLAGS = {
  'plain-http': Flags.boolean({description: 'use plain HTTP for the registry'}),
  'skip-verify': Flags.boolean({char: 'k', description: "do not verify the registry's TLS certificate"}),
  'hosts-dir': Flags.string({
    env: 'BERTH_HOSTS_DIR',
    helpValue: 'DIR',
    description: "directory with each registry's hosts.toml or certificates; by default containerd's and docker's certs.d",
  }),
  'stall-timeout': duration({
    default: 30_000,
    defaultHelp: async () => '30s',
    description: 'how long a registry may send nothing before the request is repeated; 0 means no limit',
  }),
  tlscacert: Flags.string({helpValue: 'FILE', description: "CAs in PEM to trust besides the system's"}),
  tlscert: Flags.string({helpValue: 'FILE', description: 'client certificate in PEM', dependsOn: ['tlskey']}),
  tlskey: Flags.string({helpValue: 'FILE', description: "the client certificate's key in PEM"}),
  'http-dump': Flags.boolean({description: 'show the heads of all requests and responses, without secrets'}),
  'http-trace': Flags.boolean({description: 'show the steps of connections and requests, with times'}),
  authfile: Flags.string({
    helpValue: 'FILE',
    description: "the only file with credentials to read; by default REGISTRY_AUTH_FILE, and podman's and docker's",
  }),
  'limit-rate': size({helpValue: '10M', description: 'bytes per second to transfer at most, over all connections together'}),
};

/** Flags of the commands that fetch from a registry. */
export const REGISTRY_FLAGS = {
  ...CONNECTION_FLAGS,
  user: Flags.string({
    char: 'u',
    aliases: ['username', 'creds'],
    helpValue: 'USER[:PASSWORD]',
    description: 'credentials; without a password, berth asks for it (other users can briefly see one that is given here)',
  }),
  'password-stdin': Flags.boolean({description: "read the user's password from standard input", dependsOn: ['user']}),
  refresh: Flags.string({helpValue: 'TOKEN', description: "the registry's refresh token"}),
};

export const allowForeign = () =>
  Flags.boolean({description: 'fetch layers that the registry does not serve from the URLs in the manifest'});

/** Flags of the commands that create a snapshot and can print its mounts. */
export const MOUNT_FLAGS = {
  target: Flags.string({char: 't', helpValue: 'DIR', description: 'print a shell script that mounts it there'}),
  mounts: Flags.boolean({description: 'print the mounts as JSON'}),
};
