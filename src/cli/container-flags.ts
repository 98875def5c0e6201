/** Flags of the commands that make a container. */
import type {FlagInput} from '@oclif/core/parser';
import type {CreateOptions, ProgressEvent} from '../lib/client/types/index.ts';
import type {Context} from './command-context.ts';
import {parseMount} from './mount-flag.ts';
import {Flags} from './oclif-definitions.ts';
import {omitUndefined} from './omit-undefined.ts';
import {openProgress} from './progress.ts';
import {connectionOptions} from './registry-options.ts';
import {CONNECTION_FLAGS, decimal, type GlobalFlags, label, repeated, size, snapshotter} from './shared-flags.ts';
import type {FlagHints} from './split-argv.ts';
import {parseLabels} from './value-parsers.ts';

/** Hints for flags of `docker run`. */
export const DOCKER_FLAGS: FlagHints = {
  '-i': 'standard input is always connected',
  '--interactive': 'standard input is always connected',
  '-it': 'write -t: standard input is always connected',
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

/** What the container is. */
export const CONTAINER_FLAGS = {
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

type FlagsOf<T> = T extends FlagInput<infer F> ? F : never;
type ContainerFlags = FlagsOf<typeof CONTAINER_FLAGS> & GlobalFlags;

/**
 * Calls `make` with the options of a container, and shows the progress of the pull that they may ask for.
 *
 * @param args the container's command
 */
export async function withContainerOptions<T>(
  flags: ContainerFlags,
  args: readonly string[],
  context: Context,
  make: (options: CreateOptions) => Promise<T>,
): Promise<T> {
  const {pull, progress: mode} = flags;
  // Lines, not bars: the terminal is the container's as soon as it runs.
  const lineMode = mode === 'auto' || mode === 'tty' ? (flags.json ? 'json' : 'plain') : mode;
  const progress = pull === 'never' ? undefined : await openProgress({...flags, progress: lineMode}, context);
  const pulling = progress && {
    pull,
    registry: connectionOptions(flags, context),
    onEvent: (event: ProgressEvent): void => progress.update(event),
  };
  try {
    return await make({
      args,
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
        platform: flags.platform,
        snapshotter: flags.snapshotter,
      }),
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
}
