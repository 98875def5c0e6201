import {BaseCommand} from '../cli/base-command.ts';
import {Args, Flags} from '../cli/define-flags.ts';
import {omitUndefined} from '../cli/omit-undefined.ts';
import {quiet, snapshotter} from '../cli/shared-flags.ts';
import type {ContainerChange, NamespaceClient} from '../lib/client/types/index.ts';
import {hasCode} from '../lib/errdefs.ts';

const LETTERS: Readonly<Record<ContainerChange['kind'], string>> = {added: 'A', modified: 'C', deleted: 'D'};

export default class Diff extends BaseCommand {
  static override summary = 'list what a container changed in its filesystem, or the top layer of an image';
  static override description =
    'A is added, C changed, D deleted, as in docker. What is in volumes and other mounts is left out, and so are the empty directories and files that every start makes to mount on. A name is that of a container, if there is one, else that of an image.';
  static override examples = ['diff r1', 'diff docker.io/library/redis:7'];
  static override args = {id: Args.string({required: true, description: 'container, or image'})};
  static override flags = {
    quiet: quiet('the paths'),
    platform: Flags.string({helpValue: 'OS/ARCH', description: "platform of an image; by default this machine's"}),
    snapshotter: snapshotter(),
  };

  async run(): Promise<readonly ContainerChange[]> {
    const {args, flags} = await this.parse(Diff);
    const namespace = await this.namespace(flags);
    const changes = (await isImage(namespace, args.id))
      ? await namespace.images.changes(args.id, {
          ...omitUndefined({platform: flags.platform, snapshotter: flags.snapshotter}),
          signal: this.signal,
        })
      : await namespace.containers.changes(args.id, {signal: this.signal});
    this.list(changes, ({kind, path}) => (flags.quiet ? path : `${LETTERS[kind]} ${path}`));
    return changes;
  }
}

/** Whether an image has the name, and no container. */
async function isImage({containers, images}: NamespaceClient, name: string): Promise<boolean> {
  const has = async (object: Promise<unknown>): Promise<boolean> => {
    try {
      await object;
      return true;
    } catch (err) {
      // What cannot be the name of one is none.
      if (hasCode(err, 'not_found') || hasCode(err, 'invalid_argument')) return false;
      throw err;
    }
  };
  return !(await has(containers.get(name))) && has(images.get(name));
}
