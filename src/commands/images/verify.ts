import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';
import {readKeyFiles} from '../../cli/key-files.ts';
import {registryOptions} from '../../cli/registry-options.ts';
import {REGISTRY_FLAGS, repeated} from '../../cli/shared-flags.ts';
import type {ImageVerification} from '../../lib/client/types/index.ts';

export default class Verify extends BaseCommand {
  static override summary = 'verify that an image is signed';
  static override description =
    "Verifies cosign's key-pair signatures: those that a pull has kept, else those in the image's registry. The keys are the namespace's and those of --key.";
  static override examples = ['images verify --key cosign.pub registry.example/app:1'];
  static override args = {ref: Args.string({required: true, description: 'image of the namespace'})};
  static override flags = {
    ...REGISTRY_FLAGS,
    key: repeated({helpValue: 'FILE', description: 'public key in PEM, of which one must have signed the image; may be repeated'}),
  };

  async run(): Promise<ImageVerification> {
    const {args, flags} = await this.parse(Verify);
    const {images} = await this.namespace(flags);
    const registry = await registryOptions(flags, args.ref, this.context);
    const verification = await images.verify(args.ref, {...registry, keys: readKeyFiles(flags.key ?? []), signal: this.signal});
    this.table(['DIGEST', 'FORM', 'KEY', 'IDENTITY'], verification.signatures, ({form, key, identity = '-'}) => [
      verification.target.digest,
      form,
      key,
      identity,
    ]);
    return verification;
  }
}
