import {writeFileSync} from 'node:fs';
import {BaseCommand} from '../cli/base-command.ts';
import {COPY_FLAGS, endOptions, SKOPEO_HINTS} from '../cli/copy-flags.ts';
import {Args, Flags} from '../cli/define-flags.ts';
import {omitUndefined} from '../cli/omit-undefined.ts';
import {openProgress} from '../cli/progress.ts';
import {quiet} from '../cli/shared-flags.ts';
import type {CopyResult} from '../lib/client/types/index.ts';
import {fromErrno} from '../lib/errdefs.ts';

export default class Copy extends BaseCommand {
  static override summary = 'copy an image between registries, archives and directories, without a store';
  static override description =
    "A place is a reference (a registry), docker://REFERENCE, oci:DIR[:NAME], oci-archive:FILE[:NAME], docker-archive:FILE[:REFERENCE] or dir:DIR, as in skopeo. Bytes are copied as they are, so that digests stay, with two exceptions: docker-archive has inflated layers, and images with docker's media types get those of OCI in a layout, unless --preserve-digests is given. Of an image for several platforms, the one for this machine is copied, unless --platform or --all is given. What the destination has is not copied again, and nothing is visible there until it is whole.";
  static override examples = [
    'copy redis:7 registry.example/mirror/redis:7',
    'copy --all docker://registry.example/app:1.2 oci:/var/images:app',
    'copy oci-archive:app.tar registry.example/app:1.2',
  ];
  static override args = {
    source: Args.string({required: true, description: 'place to copy from: a reference, or TRANSPORT:PATH as below'}),
    destination: Args.string({required: true, description: 'place to copy to'}),
  };
  static override flags = {
    ...COPY_FLAGS,
    referrers: Flags.boolean({description: 'copy the artifacts that refer to the image, such as signatures, too'}),
    format: Flags.option({
      options: ['oci', 'docker'] as const,
      char: 'f',
      description: 'media types of the copy; by default as they are, in OCI layouts those of OCI',
    })(),
    'preserve-digests': Flags.boolean({description: 'fail if the destination would give the image another digest'}),
    digestfile: Flags.string({helpValue: 'FILE', description: 'write the digest of the copied image to this file'}),
    quiet: quiet('the digest'),
  };
  static override flagHints = SKOPEO_HINTS;

  async run(): Promise<CopyResult> {
    const {args, flags} = await this.parse(Copy);
    const {registry} = await this.client(flags);
    const progress = await openProgress(flags.quiet ? {...flags, progress: 'none'} : flags, this.context);
    try {
      const result = await registry.copy(args.source, args.destination, {
        source: await endOptions('src', flags, args.source, this.context),
        destination: await endOptions('dest', flags, args.destination, this.context),
        ...omitUndefined({format: flags.format, platform: flags.platform, maxConcurrent: flags['max-concurrent-downloads']}),
        all: flags.all,
        referrers: flags.referrers,
        preserveDigests: flags['preserve-digests'],
        onEvent: (event) => progress.update(event),
        signal: this.signal,
      });
      progress.finish(result);
      if (flags.digestfile !== undefined) writeDigest(flags.digestfile, result.target.digest);
      this.print(result.target.digest);
      return result;
    } finally {
      progress.close();
    }
  }
}

function writeDigest(file: string, digest: string): void {
  try {
    writeFileSync(file, digest);
  } catch (err) {
    throw fromErrno(err, `digest file ${JSON.stringify(file)}`);
  }
}
