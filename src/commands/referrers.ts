import {BaseCommand} from '../cli/base-command.ts';
import {Args, Flags} from '../cli/define-flags.ts';
import {omitUndefined} from '../cli/omit-undefined.ts';
import {registryOptions} from '../cli/registry-options.ts';
import {quiet, REGISTRY_FLAGS} from '../cli/shared-flags.ts';
import {formatLabels, formatSize} from '../cli/value-formatters.ts';
import type {Descriptor} from '../lib/client/types/index.ts';

export default class Referrers extends BaseCommand {
  static override summary = 'list the artifacts that refer to an image: signatures, SBOMs and others';
  static override description =
    'Reads the registry alone. Where it has no referrers API, the artifacts are those of the tag sha256-HEX, as the specification has it.';
  static override examples = [
    'referrers registry.example/app:1.2',
    'referrers -q --artifact-type application/spdx+json registry.example/app:1.2',
  ];
  static override args = {ref: Args.string({required: true, description: 'reference, such as redis or registry.example/app:1.2'})};
  static override flags = {
    ...REGISTRY_FLAGS,
    'artifact-type': Flags.string({helpValue: 'TYPE', description: 'list artifacts of this media type only'}),
    quiet: quiet('the digests'),
  };

  async run(): Promise<readonly Descriptor[]> {
    const {args, flags} = await this.parse(Referrers);
    const {registry} = await this.client(flags);
    const found = await registry.referrers(args.ref, {
      ...(await registryOptions(flags, args.ref, this.context)),
      ...omitUndefined({artifactType: flags['artifact-type']}),
      signal: this.signal,
    });
    this.table(['DIGEST', 'ARTIFACT TYPE', 'SIZE', 'ANNOTATIONS'], found, ({digest, artifactType = '-', size, annotations = {}}) => [
      digest,
      artifactType,
      formatSize(size),
      formatLabels(annotations),
    ]);
    return found;
  }
}
