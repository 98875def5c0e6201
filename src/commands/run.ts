import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import {BaseCommand} from '../cli/base.ts';
import {decimal, label, repeated, size, snapshotter} from '../cli/flags.ts';
import {formatJSON, type Printable} from '../cli/output.ts';
import {DOCKER_FLAGS, parseMount, runStatus} from '../cli/run.ts';
import {defined, parseLabels} from '../cli/values.ts';
import type {RunResult} from '../lib/client/types/index.ts';

export default class Run extends BaseCommand {
  static override summary = 'run a container in the foreground';
  static override description = "Everything after IMAGE and ID is the container's command. It replaces the image's ENTRYPOINT and CMD.";
  static override examples = ['run --rm redis r1 redis-server --version', 'run --rm -t alpine a1 sh'];
  static override positionals = 2;
  static override foreign = DOCKER_FLAGS;
  static override args = {
    image: Args.string({required: true, description: 'image'}),
    id: Args.string({required: true, description: 'name of the new container'}),
  };
  static override flags = {
    rm: Flags.boolean({description: 'remove the container when it ends'}),
    tty: Flags.boolean({char: 't', description: 'allocate a terminal'}),
    env: repeated({char: 'e', helpValue: 'KEY[=VALUE]', description: 'set a variable, or without a value remove it; may be repeated'}),
    'env-file': repeated({helpValue: 'FILE', description: 'file of variables, one a line; may be repeated'}),
    cwd: Flags.string({helpValue: 'DIR', description: 'working directory'}),
    user: Flags.string({char: 'u', helpValue: 'USER[:GROUP]', description: 'user, by name or number'}),
    mount: repeated({
      helpValue: 'KEY=VALUE,…',
      description: 'mount, such as type=bind,src=/a,dst=/b,options=rbind:ro; a relative src is in the current directory; may be repeated',
    }),
    'net-host': Flags.boolean({description: "use the host's network"}),
    'read-only': Flags.boolean({description: 'make its root read-only'}),
    privileged: Flags.boolean({description: 'give it all capabilities and devices'}),
    'cap-add': repeated({helpValue: 'CAP_NAME', description: 'add a capability; may be repeated'}),
    'cap-drop': repeated({helpValue: 'CAP_NAME', description: 'drop a capability; may be repeated'}),
    hostname: Flags.string({helpValue: 'NAME', description: 'its host name'}),
    label: label('the container'),
    annotation: repeated({helpValue: 'KEY=VALUE', description: 'annotation of its specification; may be repeated'}),
    'memory-limit': size({description: 'memory limit'}),
    cpus: decimal({description: 'CPU limit'}),
    'pid-file': Flags.string({helpValue: 'FILE', description: 'write its process ID there'}),
    entrypoint: Flags.string({helpValue: 'PROGRAM', description: "replace the image's ENTRYPOINT only, as docker does"}),
    platform: Flags.string({helpValue: 'OS/ARCH', description: "platform of the image; by default this machine's"}),
    snapshotter: snapshotter(),
  };

  /** The container has standard output. */
  protected override printResult(result: unknown): void {
    this.context.stderr(`${formatJSON({result})}\n` as Printable);
  }

  /** Its own failures must not look like the container's. */
  protected override statusOf(err: unknown): number {
    return runStatus(err);
  }

  async run(): Promise<RunResult> {
    const {args, flags} = await this.parse(Run);
    const namespace = await this.namespace(flags);
    const result = await namespace.run(args.image, args.id, {
      args: this.tail,
      ...defined({
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
    this.status = result.exitStatus;
    return result;
  }
}
