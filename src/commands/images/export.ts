import {Writable} from 'node:stream';
import {isatty} from 'node:tty';
import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';
import {omitUndefined} from '../../cli/omit-undefined.ts';
import {lines} from '../../cli/printable.ts';
import {openProgress} from '../../cli/progress.ts';
import {repeated} from '../../cli/shared-flags.ts';
import type {ExportResult} from '../../lib/client/types/index.ts';

export default class Export extends BaseCommand {
  static override summary = 'write images to an archive';
  static override description =
    'The archive is an OCI layout that docker reads as well: a tar, or a directory where OUT is one or ends with "/"; "-" is standard output. An index is written as it is, with the content of this machine; with --platform it is written anew, and its digest changes. The same images give the same bytes.';
  static override examples = [
    'images export redis.tar redis',
    'images export layout/ redis app:1.2',
    'images export --all-platforms - redis | gzip >redis.tar.gz',
  ];
  static override args = {
    out: Args.string({required: true, description: 'file, directory, or - for standard output'}),
    ref: Args.string({required: true, multiple: true, description: 'image of the namespace'}),
  };
  static override flags = {
    platform: repeated({helpValue: 'OS/ARCH', description: 'write this platform only; may be repeated'}),
    'all-platforms': Flags.boolean({exclusive: ['platform'], description: 'write every platform'}),
    'skip-manifest-json': Flags.boolean({description: 'leave out manifest.json, by which docker reads the archive'}),
    'skip-non-distributable': Flags.boolean({description: 'leave out foreign layers, which have URLs of their own'}),
    compression: Flags.option({
      options: ['none', 'gzip', 'zstd'] as const,
      default: 'none' as const,
      description: 'compression of the archive',
    })(),
    local: Flags.boolean({hidden: true, description: 'accepted for compatibility: nothing else is meant here'}),
  };

  async run(): Promise<ExportResult | undefined> {
    const {args, flags} = await this.parse(Export);
    const isStream = args.out === '-';
    if (isStream && this.json) throw this.usage('--json or --format and an archive on standard output exclude each other');
    if (isStream && isatty(1)) throw this.usage('standard output is a terminal: redirect it, or name a file');
    const {images} = await this.namespace(flags);
    const progress = await openProgress(flags, this.context);
    let failure: {readonly err: unknown} | undefined;
    const stdout = new Writable({
      write: (chunk: Buffer, _encoding, done) => {
        try {
          this.context.stdout(chunk);
          done();
        } catch (err) {
          failure = {err};
          done(err as Error);
        }
      },
    });
    try {
      const result = await images.export(isStream ? stdout : args.out, args.ref, {
        ...omitUndefined({platforms: flags.platform}),
        allPlatforms: flags['all-platforms'],
        skipManifestJSON: flags['skip-manifest-json'],
        skipNonDistributable: flags['skip-non-distributable'],
        compression: flags.compression,
        onEvent: (event) => progress.update(event),
        signal: this.signal,
      });
      progress.finish(result);
      if (!flags.json) this.context.stderr(lines(result.warnings.map((warning) => `${this.context.program}: warning: ${warning}`)));
      return isStream ? undefined : result;
    } catch (err) {
      throw failure === undefined ? err : failure.err;
    } finally {
      progress.close();
    }
  }
}
