import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';
import {created, PLATFORM_FLAGS, withBuildProgress} from '../../cli/image-build-flags.ts';
import {omitUndefined} from '../../cli/omit-undefined.ts';
import {repeated} from '../../cli/shared-flags.ts';
import {parseWords} from '../../cli/value-parsers.ts';
import type {ImageRecord} from '../../lib/client/types/index.ts';

const WORDS = 'one word, or all as a JSON list; may be repeated; empty removes';

export default class Mutate extends BaseCommand {
  static override summary = "change an image's config and annotations";
  static override description =
    'KEY=VALUE sets, KEY alone removes. --entrypoint removes the command, as in a Dockerfile, unless --cmd gives one. Prints the new digest.';
  static override examples = [
    'images mutate --env A=b --label team=x app:1 app:2',
    'images mutate --entrypoint \'["/bin/app", "-v"]\' app:1 app:2',
  ];
  static override args = {
    source: Args.string({required: true, description: 'image of the namespace'}),
    target: Args.string({required: true, description: 'reference of the new image; replaced if it exists'}),
  };
  static override flags = {
    ...PLATFORM_FLAGS,
    env: repeated({char: 'e', helpValue: 'KEY[=VALUE]', description: 'environment variable; may be repeated'}),
    label: repeated({char: 'l', helpValue: 'KEY[=VALUE]', description: 'label of the config; may be repeated'}),
    annotation: repeated({char: 'a', helpValue: 'KEY[=VALUE]', description: 'annotation of the manifest; may be repeated'}),
    entrypoint: repeated({helpValue: 'WORD', description: `entrypoint: ${WORDS}`}),
    cmd: repeated({helpValue: 'WORD', description: `command: ${WORDS}`}),
    user: Flags.string({char: 'u', helpValue: 'USER[:GROUP]', description: 'user; empty removes'}),
    workdir: Flags.string({char: 'w', helpValue: 'DIR', description: 'working directory; empty removes'}),
    expose: repeated({helpValue: 'PORT[/PROTOCOL]', description: 'port to add, such as 8080 or 53/udp; may be repeated'}),
    comment: Flags.string({description: 'comment of the new entry in the history'}),
    created: created(),
  };

  async run(): Promise<ImageRecord> {
    const {args, flags} = await this.parse(Mutate);
    const {images} = await this.namespace(flags);
    const {env, label: labels, annotation: annotations, user, workdir, expose, comment} = flags;
    const own = omitUndefined({
      env,
      labels,
      annotations,
      user,
      workdir,
      expose,
      comment,
      created: flags.created,
      entrypoint: flags.entrypoint && parseWords(flags.entrypoint),
      cmd: flags.cmd && parseWords(flags.cmd),
    });
    const image = await withBuildProgress(flags, this.context, this.signal, (options) =>
      images.mutate(args.source, args.target, {...options, ...own}),
    );
    this.print(image.target.digest);
    return image;
  }
}
