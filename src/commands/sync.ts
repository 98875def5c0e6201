import {readFileSync} from 'node:fs';
import {BaseCommand} from '../cli/base-command.ts';
import {COPY_FLAGS, endOptions, SKOPEO_HINTS} from '../cli/copy-flags.ts';
import {Args, Flags} from '../cli/define-flags.ts';
import {omitUndefined} from '../cli/omit-undefined.ts';
import {openProgress} from '../cli/progress.ts';
import {count} from '../cli/shared-flags.ts';
import {standardInput} from '../cli/stdin.ts';
import type {SyncResult, SyncSource} from '../lib/client/types/index.ts';
import {fromErrno, fromJSON} from '../lib/errdefs.ts';

export default class Sync extends BaseCommand {
  static override summary = 'copy the images of a list or a directory to a registry or a directory';
  static override description =
    'The list is YAML in the format of skopeo sync: registries, and in each the images by their tags, by a regular expression or by a range of versions. Images that the destination has are skipped, so that a sync can be repeated or resumed. After a failure no other image begins, unless --keep-going is given; the report shows those as pending. With --json it is in JSON. Instead of a list, dir:DIR names a directory that a sync has filled, as for a machine without a network; its images have the names of their paths.';
  static override examples = [
    'sync images.yaml registry.example/mirror',
    'sync --dry-run --scoped images.yaml dir:/srv/images',
    'sync dir:/media/usb registry.example/mirror',
  ];
  static override args = {
    file: Args.string({required: true, description: 'list of images; - reads it from standard input; or dir:DIR'}),
    destination: Args.string({required: true, description: 'registry with an optional path, or dir:DIR'}),
  };
  static override flags = {
    ...COPY_FLAGS,
    scoped: Flags.boolean({description: 'put registry and whole repository below the destination, not only its last component'}),
    'append-suffix': Flags.string({helpValue: 'TEXT', description: 'append this to the tags of the destination'}),
    'dry-run': Flags.boolean({description: 'print what would be copied'}),
    'keep-going': Flags.boolean({description: 'copy the rest after a failure'}),
    'max-concurrent-images': count({description: 'number of images to copy at once; 3 by default'}),
  };
  static override flagHints = SKOPEO_HINTS;

  async run(): Promise<SyncResult> {
    const {args, flags} = await this.parse(Sync);
    const {registry} = await this.client(flags);
    const list = await this.#read(args.file);
    const progress = await openProgress(flags, this.context);
    let report: SyncResult | undefined;
    try {
      const result = await registry.sync(list, args.destination, {
        source: await endOptions('src', flags, 'the sources', this.context),
        destination: await endOptions('dest', flags, args.destination, this.context),
        ...omitUndefined({
          platform: flags.platform,
          maxConcurrent: flags['max-concurrent-downloads'],
          maxConcurrentImages: flags['max-concurrent-images'],
          appendSuffix: flags['append-suffix'],
        }),
        all: flags.all,
        scoped: flags.scoped,
        dryRun: flags['dry-run'],
        keepGoing: flags['keep-going'],
        onEvent: (event) => progress.update(event),
        onReport: (partial) => {
          report = partial;
        },
        signal: this.signal,
      });
      progress.finish(result);
      return await this.#show(result);
    } catch (err) {
      if (report === undefined) throw err;
      progress.close();
      if (!this.signal.aborted) return await this.#show(report);
      this.#print(report);
      throw err;
    } finally {
      progress.close();
    }
  }

  #print({images}: SyncResult): void {
    this.list(images, ({source, destination, status}) => `${status} ${source} ${destination}`);
  }

  async #show(report: SyncResult): Promise<SyncResult> {
    this.#print(report);
    for (const {error} of report.images) if (error !== undefined) await this.fail(fromJSON(error));
    return report;
  }

  async #read(file: string): Promise<SyncSource> {
    if (file.startsWith('dir:')) return {directory: file.slice('dir:'.length)};
    if (file !== '-') {
      try {
        return readFileSync(file, 'utf8');
      } catch (err) {
        throw fromErrno(err, `list ${JSON.stringify(file)}`);
      }
    }
    const chunks: Uint8Array[] = [];
    for await (const chunk of standardInput(this.signal)) chunks.push(chunk);
    return Buffer.concat(chunks).toString();
  }
}
