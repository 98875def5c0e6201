import {BaseCommand} from '../cli/base-command.ts';
import {Args, Flags} from '../cli/define-flags.ts';
import {compressionFlags, compressionOptions, created} from '../cli/image-build-flags.ts';
import {omitUndefined} from '../cli/omit-undefined.ts';
import {openProgress} from '../cli/progress.ts';
import {repeated} from '../cli/shared-flags.ts';
import type {ImageRecord} from '../lib/client/types/index.ts';

export default class Commit extends BaseCommand {
  static override summary = 'make an image of what a container changed';
  static override description =
    "The changes become a layer on top of the container's image. A container that runs is paused meanwhile. Volumes and other mounts are left out. Prints the new digest.";
  static override examples = ['commit r1 app:2', `commit --author me --message 'with data' --change 'CMD ["/bin/app"]' r1 app:2`];
  static override args = {
    id: Args.string({required: true, description: 'container'}),
    ref: Args.string({required: true, description: 'reference of the new image; replaced if it exists'}),
  };
  static override flags = {
    author: Flags.string({char: 'a', description: 'author of the image'}),
    message: Flags.string({char: 'm', description: 'comment of the new entry in the history'}),
    change: repeated({
      char: 'c',
      helpValue: 'INSTRUCTION',
      description: 'CMD, ENTRYPOINT, ENV, LABEL, EXPOSE, USER or WORKDIR as in a Dockerfile; may be repeated',
    }),
    ...compressionFlags('gzip'),
    created: created({description: 'time of creation, and the latest mtime in the layer: RFC 3339, or seconds since 1970; by default now'}),
  };

  async run(): Promise<ImageRecord> {
    const {args, flags} = await this.parse(Commit);
    const {containers} = await this.namespace(flags);
    const progress = await openProgress(flags, this.context);
    try {
      const {author, message, change: changes} = flags;
      const image = await containers.commit(args.id, args.ref, {
        ...omitUndefined({author, message, changes, created: flags.created}),
        ...compressionOptions(flags),
        onEvent: (event) => progress.update(event),
        signal: this.signal,
      });
      this.print(image.target.digest);
      return image;
    } finally {
      progress.close();
    }
  }
}
