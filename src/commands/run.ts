import {BaseCommand} from '../cli/base-command.ts';
import {parseMount} from '../cli/mount-flag.ts';
import {Args, Flags} from '../cli/oclif-definitions.ts';
import {omitUndefined} from '../cli/omit-undefined.ts';
import {formatJSON, type Printable} from '../cli/printable.ts';
import {openProgress} from '../cli/progress.ts';
import {connectionOptions} from '../cli/registry-options.ts';
import {CONNECTION_FLAGS, decimal, label, repeated, size, snapshotter} from '../cli/shared-flags.ts';
import type {FlagHints} from '../cli/split-argv.ts';
import {parseLabels} from '../cli/value-parsers.ts';
import type {ProgressEvent, RunResult} from '../lib/client/types/index.ts';
import {isErrdefs} from '../lib/errdefs.ts';

/** Exit status of an error in berth itself, as of `docker run`. */
const OWN_FAILURE = 125;

/** Hints for flags of `docker run`. */
const DOCKER_FLAGS: FlagHints = {
  '-i': 'standard input is always connected',
  '--interactive': 'standard input is always connected',
  '-it': 'write -t: standard input is always connected',
  '-d': 'containers run in the foreground only',
  '--detach': 'containers run in the foreground only',
  '-v': 'write --mount type=bind,src=DIR,dst=DIR,options=rbind:rw',
  '--volume': 'write --mount type=bind,src=DIR,dst=DIR,options=rbind:rw',
  '-p': "ports are not published; --net-host gives the container the host's network",
  '--publish': "ports are not published; --net-host gives the container the host's network",
  '--net': "write --net-host for the host's network",
  '--network': "write --net-host for the host's network",
  '--name': 'the name is the second argument: run [FLAGS] IMAGE NAME [COMMAND...]',
  '-w': 'write --cwd DIR',
  '--workdir': 'write --cwd DIR',
  '-m': 'write --memory-limit SIZE',
  '--memory': 'write --memory-limit SIZE',
};

export default class Run extends BaseCommand {
  static override summary = 'run a container in the foreground';
  static override description = "Everything after IMAGE and ID is the container's command. It replaces the image's ENTRYPOINT and CMD.";
  static override examples = ['run --rm redis r1 redis-server --version', 'run --rm -t alpine a1 sh'];
  static override positionals = 2;
  static override flagHints = DOCKER_FLAGS;
  static override args = {
    image: Args.string({required: true, description: 'image'}),
    id: Args.string({required: true, description: 'name of the new container'}),
  };
  static override flags = {
    rm: Flags.boolean({description: 'remove the container when it ends'}),
    tty: Flags.boolean({char: 't', description: 'allocate a terminal'}),
    env: repeated({
      char: 'e',
      helpValue: 'KEY[=VALUE]',
      description: 'set an environment variable, or without a value remove it; may be repeated',
    }),
    'env-file': repeated({helpValue: 'FILE', description: 'file of environment variables, one a line; may be repeated'}),
    cwd: Flags.string({helpValue: 'DIR', description: 'working directory'}),
    user: Flags.string({char: 'u', helpValue: 'USER[:GROUP]', description: 'user, by name or number'}),
    mount: repeated({
      helpValue: 'KEY=VALUE,…',
      description:
        'mount, such as type=bind,src=/a,dst=/b,options=rbind:ro; a relative src is relative to the current directory; may be repeated',
    }),
    'net-host': Flags.boolean({description: "use the host's network"}),
    'read-only': Flags.boolean({description: 'make the root filesystem read-only'}),
    privileged: Flags.boolean({description: 'give the container all capabilities and devices'}),
    'cap-add': repeated({helpValue: 'CAP_NAME', description: 'add a capability; may be repeated'}),
    'cap-drop': repeated({helpValue: 'CAP_NAME', description: 'drop a capability; may be repeated'}),
    hostname: Flags.string({helpValue: 'NAME', description: 'host name of the container'}),
    label: label('the container'),
    annotation: repeated({helpValue: 'KEY=VALUE', description: 'annotation of the runtime specification; may be repeated'}),
    'memory-limit': size({description: 'memory limit'}),
    cpus: decimal({description: 'CPU limit'}),
    'pid-file': Flags.string({helpValue: 'FILE', description: 'write the process ID to this file'}),
    entrypoint: Flags.string({helpValue: 'PROGRAM', description: "replace the image's ENTRYPOINT only, as docker does"}),
    platform: Flags.string({helpValue: 'OS/ARCH', description: "platform of the image; by default this machine's"}),
    snapshotter: snapshotter(),
    pull: Flags.option({
      options: ['always', 'missing', 'never', 'newer'] as const,
      default: 'never' as const,
      description: 'pull the image first: always, if it is missing, or if the registry has a newer one',
    })(),
    ...CONNECTION_FLAGS,
  };

  /** Standard output belongs to the container. */
  protected override printResult(result: unknown): void {
    this.context.stderr(`${formatJSON({result})}\n` as Printable);
  }

  /** 126 or 127 if the library says so in the detail `runExit`: the command cannot be executed, or is not found. */
  protected override statusOf(err: unknown): number {
    const status = isErrdefs(err) ? err.details?.runExit : undefined;
    return typeof status === 'number' ? status : OWN_FAILURE;
  }

  async run(): Promise<RunResult> {
    const {args, flags} = await this.parse(Run);
    const namespace = await this.namespace(flags);
    const {pull, progress: mode} = flags;
    // Lines, not bars: the terminal is the container's as soon as it runs.
    const lineMode = mode === 'auto' || mode === 'tty' ? (flags.json ? 'json' : 'plain') : mode;
    const progress = pull === 'never' ? undefined : await openProgress({...flags, progress: lineMode}, this.context);
    const pulling = progress && {
      pull,
      registry: connectionOptions(flags, this.context),
      onEvent: (event: ProgressEvent): void => progress.update(event),
    };
    let result: RunResult;
    try {
      result = await namespace.run(args.image, args.id, {
        args: this.tail,
        ...pulling,
        ...omitUndefined({
          entrypoint: flags.entrypoint,
          env: flags.env,
          envFiles: flags['env-file'],
          cwd: flags.cwd,
          user: flags.user,
          mounts: flags.mount?.map(parseMount),
          capAdd: flags['cap-add'],
          capDrop: flags['cap-drop'],
          hostname: flags.hostname,
          memoryLimit: flags['memory-limit'],
          cpus: flags.cpus,
          pidFile: flags['pid-file'],
          platform: flags.platform,
          snapshotter: flags.snapshotter,
        }),
        signal: this.deadline,
        rm: flags.rm,
        tty: flags.tty,
        netHost: flags['net-host'],
        readOnly: flags['read-only'],
        privileged: flags.privileged,
        labels: parseLabels(flags.label ?? []),
        annotations: parseLabels(flags.annotation ?? []),
      });
    } finally {
      progress?.close();
    }
    this.status = result.exitStatus;
    return result;
  }
}
