import {BaseCommand} from '../cli/base-command.ts';
import type {ForeignDocument} from '../cli/command-types.ts';
import {Args, Flags} from '../cli/define-flags.ts';
import {omitUndefined} from '../cli/omit-undefined.ts';
import {registryOptions} from '../cli/registry-options.ts';
import {type GlobalFlags, REGISTRY_FLAGS} from '../cli/shared-flags.ts';
import {parseJSON} from '../cli/value-parsers.ts';
import type {ContainerRecord, RemoteImage, RemoteObject} from '../lib/client/types/index.ts';
import {isErrdefs} from '../lib/errdefs.ts';

export default class Inspect extends BaseCommand {
  static override summary = 'show an image in its registry, without fetching it; or a container';
  static override description =
    "The output has the members of skopeo's inspect, but no RepoTags: the list of all tags can be long, see tags. For images of the namespace see images inspect. A name that is one word, without a tag, is that of a container if the namespace has one, and neither --platform, --raw, --config nor --user asks for an image: containers info shows the same.";
  static override examples = ['inspect redis:7', 'inspect --platform linux/arm64 --config redis', 'inspect --raw redis'];
  static override args = {ref: Args.string({required: true, description: 'reference, such as redis or registry.example/app:1.2'})};
  static override flags = {
    ...REGISTRY_FLAGS,
    platform: Flags.string({helpValue: 'OS/ARCH', description: "platform of an index to show; by default this machine's"}),
    raw: Flags.boolean({description: 'print the manifest or index as it is; with --config the config'}),
    config: Flags.boolean({description: 'print the config of the image'}),
  };

  async run(): Promise<ContainerRecord | RemoteImage | ForeignDocument | undefined> {
    const {args, flags} = await this.parse(Inspect);
    // Containers have none of these.
    const isImage = flags.config || flags.raw || flags.platform !== undefined || flags.user !== undefined;
    const container = isImage ? undefined : await this.#container(args.ref, flags);
    if (container !== undefined) {
      this.printJSON(container);
      return container;
    }
    const {registry} = await this.client(flags);
    const options = {...(await registryOptions(flags, args.ref, this.context)), signal: this.signal};
    const chosen = {...options, ...omitUndefined({platform: flags.platform})};
    if (flags.config || flags.raw) {
      const {bytes}: RemoteObject = flags.config ? await registry.config(args.ref, chosen) : await registry.fetchObject(args.ref, options);
      if (flags.raw && !this.json) {
        this.context.stdout(bytes);
        return undefined;
      }
      const document = parseJSON(bytes, `${flags.config ? 'the config' : 'the manifest'} of ${args.ref}`) as ForeignDocument;
      this.printJSON(document);
      return document;
    }
    const image = await registry.inspect(args.ref, chosen);
    this.printJSON(image);
    return image;
  }

  /** The container that docker's users mean. A store that cannot be read is no reason not to ask a registry. */
  async #container(name: string, flags: GlobalFlags): Promise<ContainerRecord | undefined> {
    if (/[/:@]/.test(name)) return undefined;
    try {
      return await (await this.namespace(flags)).containers.get(name);
    } catch (err) {
      if (isErrdefs(err)) return undefined;
      throw err;
    }
  }
}
