import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';
import {formatTree} from '../../cli/format-tree.ts';
import {formatJSON} from '../../cli/printable.ts';
import {formatSize} from '../../cli/value-formatters.ts';
import type {ImageTree} from '../../lib/client/types/index.ts';

export default class Inspect extends BaseCommand {
  static override summary = 'show the manifests, config and layers of an image';
  static override args = {ref: Args.string({required: true, description: 'image of the namespace'})};
  static override flags = {content: Flags.boolean({description: 'show the JSON documents too'})};

  async run(): Promise<ImageTree> {
    const {args, flags} = await this.parse(Inspect);
    const {images} = await this.namespace(flags);
    const tree = await images.inspect(args.ref, {content: flags.content});
    this.list(formatTree({text: [args.ref], children: [toNode(tree)]}), (line) => line);
    return tree;
  }
}

function toNode({descriptor, present, content, children}: ImageTree): Parameters<typeof formatTree>[0] {
  const {mediaType, digest, size, platform} = descriptor;
  const where = platform === undefined ? '' : ` ${[platform.os, platform.architecture, platform.variant].filter(Boolean).join('/')}`;
  const documents = content === undefined ? [] : formatJSON(content, 2).split('\n');
  return {
    text: [`${mediaType} @${digest} (${formatSize(size)})${where}${present ? '' : ' not present'}`, ...documents],
    children: children.map(toNode),
  };
}
