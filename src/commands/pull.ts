import {BaseCommand} from '../cli/base-command.ts';
import {Args, Flags} from '../cli/define-flags.ts';
import {readKeyFiles} from '../cli/key-files.ts';
import {omitUndefined} from '../cli/omit-undefined.ts';
import {lines} from '../cli/printable.ts';
import {openProgress} from '../cli/progress.ts';
import {type PulledJSON, pulledJSON, sumUp} from '../cli/pull-summary.ts';
import {registryOptions} from '../cli/registry-options.ts';
import {allowForeign, count, label, quiet, REGISTRY_FLAGS, repeated, snapshotter} from '../cli/shared-flags.ts';
import {parseLabels} from '../cli/value-parsers.ts';
import type {PullResult} from '../lib/client/types/index.ts';

export default class Pull extends BaseCommand {
  static override summary = 'pull images from registries and unpack them';
  static override description =
    'Several references share connections and threads. One that fails does not stop the others; the first failure decides the exit status. With --json one reference gives its result, several give a list of results and errors, each with its "ref".';
  static override examples = [
    'pull docker.io/library/redis:latest',
    'pull --platform linux/arm64 --no-unpack redis',
    'pull --limit-rate 10M redis postgres:17',
  ];
  static override args = {
    ref: Args.string({required: true, multiple: true, description: 'reference, such as redis or registry.example/app:1.2'}),
  };
  static override flags = {
    ...REGISTRY_FLAGS,
    platform: repeated({helpValue: 'OS/ARCH', description: "platform to pull; may be repeated; by default this machine's"}),
    'all-platforms': Flags.boolean({exclusive: ['platform'], description: 'pull every platform'}),
    'all-metadata': Flags.boolean({description: 'fetch manifests and configs of every platform, too'}),
    'no-unpack': Flags.boolean({description: 'fetch without unpacking'}),
    snapshotter: snapshotter(),
    'if-changed': Flags.boolean({description: 'exit with status 18 if the image is current'}),
    'allow-foreign': allowForeign(),
    label: label('the image'),
    'verify-key': repeated({helpValue: 'FILE', description: 'public key in PEM, of which one must have signed the image; may be repeated'}),
    'max-concurrent-downloads': count({description: 'number of blobs to fetch at once'}),
    'print-chainid': Flags.boolean({description: 'print the chain IDs of the unpacked layers'}),
    quiet: quiet('the references'),
  };

  async run(): Promise<PullResult | readonly PulledJSON[]> {
    const {args, flags} = await this.parse(Pull);
    const namespace = await this.namespace(flags);
    const progress = await openProgress(flags.quiet ? {...flags, progress: 'none'} : flags, this.context);
    const show = ({image, unpacked, warnings}: PullResult): void => {
      if (!flags.json) this.context.stderr(lines(warnings.map((warning) => `${this.context.program}: warning: ${warning}`)));
      if (flags.quiet) this.print(image.name);
      if (flags['print-chainid']) this.list(unpacked, ({chainID}) => chainID);
    };
    try {
      const options = {
        ...(await registryOptions(flags, args.ref.join(', '), this.context)),
        ...omitUndefined({
          platforms: flags.platform,
          snapshotter: flags.snapshotter,
          maxConcurrentDownloads: flags['max-concurrent-downloads'],
        }),
        allPlatforms: flags['all-platforms'],
        allMetadata: flags['all-metadata'],
        unpack: !flags['no-unpack'],
        ifChanged: flags['if-changed'],
        allowForeign: flags['allow-foreign'],
        labels: parseLabels(flags.label ?? []),
        verifyKeys: readKeyFiles(flags['verify-key'] ?? []),
        onEvent: progress.update.bind(progress),
        signal: this.signal,
      };
      const [only, ...more] = args.ref;
      if (more.length === 0) {
        const result = await namespace.pull(only!, options);
        progress.finish(result);
        show(result);
        return result;
      }
      const started = performance.now();
      const outcomes = await namespace.pullAll(args.ref, options);
      const results = outcomes.flatMap(({result}) => result ?? []);
      if (results.length > 0) progress.finish(sumUp(results, performance.now() - started));
      progress.close();
      for (const result of results) show(result);
      for (const {error} of outcomes) if (error !== undefined) await this.fail(error);
      if (!flags.quiet && !flags.json) this.context.stderr(lines([`pulled ${results.length} of ${outcomes.length} images`]));
      return outcomes.map(pulledJSON);
    } finally {
      progress.close();
    }
  }
}
