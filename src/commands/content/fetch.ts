import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';
import {omitUndefined} from '../../cli/omit-undefined.ts';
import {lines} from '../../cli/printable.ts';
import {openProgress} from '../../cli/progress.ts';
import {registryOptions} from '../../cli/registry-options.ts';
import {allowForeign, count, label, REGISTRY_FLAGS, repeated} from '../../cli/shared-flags.ts';
import {parseLabels} from '../../cli/value-parsers.ts';
import type {PullResult} from '../../lib/client/types/index.ts';

export default class Fetch extends BaseCommand {
  static override summary = 'fetch the content of an image without unpacking it';
  static override examples = [
    'content fetch redis',
    'content fetch --metadata-only redis',
    'content fetch --all-platforms registry.example/app:1.2',
  ];
  static override args = {ref: Args.string({required: true, description: 'reference, such as redis or registry.example/app:1.2'})};
  static override flags = {
    ...REGISTRY_FLAGS,
    platform: repeated({helpValue: 'OS/ARCH', description: "platform to fetch; may be repeated; by default this machine's"}),
    'all-platforms': Flags.boolean({exclusive: ['platform'], description: 'fetch every platform'}),
    'all-metadata': Flags.boolean({description: 'fetch manifests and configs of every platform, too'}),
    'metadata-only': Flags.boolean({
      exclusive: ['platform', 'all-platforms', 'all-metadata'],
      description: 'fetch manifests and configs of every platform, and no layers',
    }),
    'allow-foreign': allowForeign(),
    label: label('the image'),
    'max-concurrent-downloads': count({description: 'number of blobs to fetch at once'}),
  };

  async run(): Promise<PullResult> {
    const {args, flags} = await this.parse(Fetch);
    const {content} = await this.namespace(flags);
    const progress = await openProgress(flags, this.context);
    try {
      const result = await content.fetch(args.ref, {
        ...(await registryOptions(flags, args.ref, this.context)),
        ...omitUndefined({platforms: flags.platform, maxConcurrentDownloads: flags['max-concurrent-downloads']}),
        allPlatforms: flags['all-platforms'],
        allMetadata: flags['all-metadata'],
        metadataOnly: flags['metadata-only'],
        allowForeign: flags['allow-foreign'],
        labels: parseLabels(flags.label ?? []),
        onEvent: (event) => progress.update(event),
        signal: this.signal,
      });
      progress.finish(result);
      if (!flags.json) this.context.stderr(lines(result.warnings.map((warning) => `${this.context.program}: warning: ${warning}`)));
      return result;
    } finally {
      progress.close();
    }
  }
}
