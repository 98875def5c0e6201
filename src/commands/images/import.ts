import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';
import {omitUndefined} from '../../cli/omit-undefined.ts';
import {lines} from '../../cli/printable.ts';
import {openProgress} from '../../cli/progress.ts';
import {label, quiet, repeated, snapshotter} from '../../cli/shared-flags.ts';
import {standardInput} from '../../cli/stdin.ts';
import {parseLabels} from '../../cli/value-parsers.ts';
import type {ImportResult} from '../../lib/client/types/index.ts';
import {ErrdefsError} from '../../lib/errdefs.ts';

export default class Import extends BaseCommand {
  static override summary = 'import images from archives, and unpack them';
  static override description =
    'An archive is an OCI layout, as a directory or a tar, or what "docker save" writes; plain, gzip or zstd; "-" is standard input. An image of another platform is taken with a warning unless --platform is given. Nothing is kept of an archive that is damaged. One without its foreign layers needs --no-unpack.';
  static override examples = [
    'images import redis.tar',
    'images import --no-unpack --base-name registry.example/app layout/',
    'images import - <images.tar.gz',
  ];
  static override args = {in: Args.string({required: true, multiple: true, description: 'archive, directory, or - for standard input'})};
  static override flags = {
    'base-name': Flags.string({
      helpValue: 'REPOSITORY',
      description: 'repository of images that the archive names by a tag only; by default import-DATE',
    }),
    digests: Flags.boolean({description: 'name each image by its digest, too'}),
    'skip-digest-for-named': Flags.boolean({dependsOn: ['digests'], description: 'name only images without another name by their digests'}),
    'index-name': Flags.string({helpValue: 'REF', description: "name of the archive's whole index"}),
    platform: repeated({helpValue: 'OS/ARCH', description: "platform to import; may be repeated; by default this machine's"}),
    'all-platforms': Flags.boolean({exclusive: ['platform'], description: 'import every platform'}),
    'no-unpack': Flags.boolean({description: 'import without unpacking'}),
    snapshotter: snapshotter(),
    label: label('the images'),
    quiet: quiet('the references'),
    'compress-blobs': Flags.boolean({hidden: true, description: 'not supported: blobs stay as they are in the archive'}),
    'discard-unpacked-layers': Flags.boolean({hidden: true, description: 'not supported: see content prune references'}),
    local: Flags.boolean({hidden: true, description: 'accepted for compatibility: nothing else is meant here'}),
    'sync-fs': Flags.boolean({hidden: true, description: 'accepted for compatibility: what a command has stored is on the disk'}),
  };

  async run(): Promise<readonly ImportResult[]> {
    const {args, flags} = await this.parse(Import);
    if (flags['compress-blobs'])
      throw new ErrdefsError('not_implemented', '--compress-blobs', {hint: 'blobs are imported as they are, so that digests stay'});
    if (flags['discard-unpacked-layers'])
      throw new ErrdefsError('not_implemented', '--discard-unpacked-layers', {hint: 'import, then run: berth content prune references'});
    if (args.in.includes('-') && process.stdin.isTTY) throw this.usage('standard input is a terminal, not an archive');
    const {images} = await this.namespace(flags);
    const progress = await openProgress(flags.quiet ? {...flags, progress: 'none'} : flags, this.context);
    const results: ImportResult[] = [];
    try {
      for (const source of args.in) {
        const result = await images.import(source === '-' ? standardInput(this.signal) : source, {
          ...omitUndefined({
            baseName: flags['base-name'],
            indexName: flags['index-name'],
            platforms: flags.platform,
            snapshotter: flags.snapshotter,
          }),
          digests: flags.digests,
          skipDigestForNamed: flags['skip-digest-for-named'],
          allPlatforms: flags['all-platforms'],
          unpack: !flags['no-unpack'],
          labels: parseLabels(flags.label ?? []),
          onEvent: (event) => progress.update(event),
          signal: this.signal,
        });
        if (results.push(result) === args.in.length) progress.finish(result);
        if (!flags.json) this.context.stderr(lines(result.warnings.map((warning) => `${this.context.program}: warning: ${warning}`)));
        this.list(result.images, ({name}) => name);
      }
      return results;
    } finally {
      progress.close();
    }
  }
}
