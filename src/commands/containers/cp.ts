import {isatty} from 'node:tty';
import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';
import {standardInput} from '../../cli/stdin.ts';
import type {CopiedFiles, CopyPlace} from '../../lib/client/types/index.ts';

/** A word with a colon before its first slash names a container, as in docker; `./a:b` is a file of this machine. */
function placeOf(word: string): CopyPlace {
  const [, container, path] = /^([A-Za-z0-9][^:/]*):(.*)$/s.exec(word) ?? [];
  return container === undefined ? {path: word} : {container, path: path!};
}

export default class Copy extends BaseCommand {
  static override summary = 'copy files into a container, out of it, or between two';
  static override description =
    'By the rules of "docker cp": a directory SRC goes into a directory DEST, with "/." at its end what is in it; a DEST that does not exist becomes SRC, if its parent exists. The container may run or not; volumes are seen as it sees them. "-" is a tar on standard input, which is extracted into DEST, or on standard output. Files in a container come to belong to root, those on this machine to you. Extended attributes are not copied.';
  static override examples = [
    'containers cp r1:/var/log/app.log .',
    'containers cp site/. r1:/srv/www',
    'containers cp r1:/data - | gzip >data.tar.gz',
  ];
  static override args = {
    src: Args.string({required: true, description: 'CONTAINER:PATH, a path, or - for a tar on standard input'}),
    dest: Args.string({required: true, description: 'CONTAINER:PATH, a path, or - for a tar on standard output'}),
  };
  static override flags = {
    archive: Flags.boolean({char: 'a', description: 'keep owners, set-ID bits and device nodes'}),
    'follow-link': Flags.boolean({char: 'L', description: 'copy what a symbolic link SRC leads to'}),
    quiet: Flags.boolean({char: 'q', hidden: true, description: 'accepted for compatibility: nothing is printed'}),
  };

  async run(): Promise<CopiedFiles | undefined> {
    const {args, flags} = await this.parse(Copy);
    const [source, target] = [placeOf(args.src), placeOf(args.dest)];
    for (const {container, path} of [source, target])
      if (path === '') throw this.usage(container === undefined ? 'an empty path' : `"${container}:" has no path: write ${container}:/`);
    const options = {followLink: flags['follow-link'], signal: this.signal};
    if (args.dest === '-') {
      const {container} = source;
      if (container === undefined) throw this.usage('a tar on standard output is of files of a container: write CONTAINER:PATH');
      if (flags.json) throw this.usage('--json and a tar on standard output exclude each other');
      if (isatty(1)) throw this.usage('standard output is a terminal: redirect it');
      const {containers} = await this.namespace(flags);
      for await (const chunk of await containers.readFiles(container, source.path, options)) this.context.stdout(chunk);
      return undefined;
    }
    const {containers} = await this.namespace(flags);
    const from = args.src === '-' ? standardInput(this.signal) : source;
    return containers.copyFiles(from, target, {...options, archive: flags.archive});
  }
}
