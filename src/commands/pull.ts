import {BaseCommand} from '../cli/base-command.ts';
import {readKeyFiles} from '../cli/key-files.ts';
import {Args, Flags} from '../cli/oclif-definitions.ts';
import {omitUndefined} from '../cli/omit-undefined.ts';
import {lines} from '../cli/printable.ts';
import {openProgress} from '../cli/progress.ts';
import {registryOptions} from '../cli/registry-options.ts';
import {count, label, quiet, REGISTRY_FLAGS, repeated, snapshotter} from '../cli/shared-flags.ts';
import {parseLabels} from '../cli/value-parsers.ts';
import type {PullResult} from '../lib/client/types/index.ts';

export default class Pull extends BaseCommand {
  static override summary = 'pull an image from a registry and unpack it';
  static override examples = ['pull docker.io/library/redis:latest', 'pull --platform linux/arm64 --no-unpack redis'];
  static override args = {ref: Args.string({required: true, description: 'reference, such as redis or registry.example/app:1.2'})};
  static override flags = {
    ...REGISTRY_FLAGS,
    platform: repeated({helpValue: 'OS/ARCH', description: "platform to pull; may be repeated; by default this machine's"}),
    'all-platforms': Flags.boolean({exclusive: ['platform'], description: 'pull every platform'}),
    'no-unpack': Flags.boolean({description: 'fetch without unpacking'}),
    snapshotter: snapshotter(),
    'if-changed': Flags.boolean({description: 'exit with status 18 if the image is current'}),
    label: label('the image'),
    'verify-key': repeated({helpValue: 'FILE', description: 'public key in PEM, of which one must have signed the image; may be repeated'}),
    'max-concurrent-downloads': count({description: 'number of blobs to fetch at once'}),
    'print-chainid': Flags.boolean({description: 'print the chain IDs of the unpacked layers'}),
    quiet: quiet('the reference'),
  };

  async run(): Promise<PullResult> {
    const {args, flags} = await this.parse(Pull);
    const namespace = await this.namespace(flags);
    const progress = await openProgress(flags.quiet ? {...flags, progress: 'none'} : flags, this.context);
    try {
      const registry = await registryOptions(flags, args.ref, this.context);
      const result = await namespace.pull(args.ref, {
        ...registry,
        ...omitUndefined({
          platforms: flags.platform,
          snapshotter: flags.snapshotter,
          maxConcurrentDownloads: flags['max-concurrent-downloads'],
        }),
        allPlatforms: flags['all-platforms'],
        unpack: !flags['no-unpack'],
        ifChanged: flags['if-changed'],
        labels: parseLabels(flags.label ?? []),
        verifyKeys: readKeyFiles(flags['verify-key'] ?? []),
        onEvent: (event) => progress.update(event),
        signal: this.signal,
      });
      progress.finish(result);
      if (!flags.json) this.context.stderr(lines(result.warnings.map((warning) => `${this.context.program}: warning: ${warning}`)));
      if (flags.quiet) this.print(result.image.name);
      if (flags['print-chainid']) this.list(result.unpacked, ({chainID}) => chainID);
      return result;
    } finally {
      progress.close();
    }
  }
}
