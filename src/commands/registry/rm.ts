import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';
import {registryOptions} from '../../cli/registry-options.ts';
import {REGISTRY_FLAGS} from '../../cli/shared-flags.ts';

export default class Remove extends BaseCommand {
  static override summary = 'delete manifests or tags in their registry';
  static override description =
    'A reference with a digest deletes the manifest and all its tags. A reference with a tag deletes only the tag, where the registry supports that. The registry frees the space when it next collects its garbage.';
  static override examples = ['registry rm registry.example/app@sha256:…', 'registry delete --manifest registry.example/app:1.2'];
  static override args = {
    ref: Args.string({required: true, multiple: true, description: 'reference, such as redis or registry.example/app:1.2'}),
  };
  static override flags = {
    ...REGISTRY_FLAGS,
    manifest: Flags.boolean({description: 'delete the manifest that a tag names, with all its tags'}),
  };

  async run(): Promise<{removed: string[]}> {
    const {args, flags} = await this.parse(Remove);
    const {registry} = await this.client(flags);
    const options = {...(await registryOptions(flags, args.ref[0]!, this.context)), manifest: flags.manifest, signal: this.signal};
    return {removed: await this.each('delete', args.ref, (ref) => registry.delete(ref, options))};
  }
}
