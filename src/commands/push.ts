import {BaseCommand} from '../cli/base-command.ts';
import {Args, Flags} from '../cli/define-flags.ts';
import {omitUndefined} from '../cli/omit-undefined.ts';
import {lines} from '../cli/printable.ts';
import {openProgress} from '../cli/progress.ts';
import {registryOptions} from '../cli/registry-options.ts';
import {count, quiet, REGISTRY_FLAGS} from '../cli/shared-flags.ts';
import type {PushResult} from '../lib/client/types/index.ts';

export default class Push extends BaseCommand {
  static override summary = 'push an image to a registry';
  static override description =
    'Pushes the image with all of its platforms, byte for byte, or with --platform the manifest for one. Layers that the registry has in another ' +
    'repository are mounted from there. Nothing is sent when a part of the image is neither here nor at the registry.';
  static override examples = ['push registry.example/team/app:1.2', 'push registry.example/mirror/redis:7 docker.io/library/redis:7'];
  static override args = {
    remote: Args.string({required: true, description: 'reference to push to, such as registry.example/app:1.2'}),
    local: Args.string({description: 'image to push, if its name is another one'}),
  };
  static override flags = {
    ...REGISTRY_FLAGS,
    platform: Flags.string({helpValue: 'OS/ARCH', description: 'push the manifest for this platform alone'}),
    manifest: Flags.string({helpValue: 'DIGEST', description: 'push this manifest or index of the store instead of an image'}),
    'manifest-type': Flags.string({
      helpValue: 'TYPE',
      dependsOn: ['manifest'],
      description: 'its media type; by default what it says of itself',
    }),
    'max-concurrent-uploaded-layers': count({description: 'number of blobs to upload at once'}),
    'allow-non-distributable-blobs': Flags.boolean({description: 'push foreign layers, too'}),
    quiet: quiet('the digest'),
  };

  async run(): Promise<PushResult> {
    const {args, flags} = await this.parse(Push);
    if (flags.manifest !== undefined && (args.local !== undefined || flags.platform !== undefined))
      throw this.usage('--manifest names what to push: give neither an image nor --platform');
    const namespace = await this.namespace(flags);
    const progress = await openProgress(flags.quiet ? {...flags, progress: 'none'} : flags, this.context);
    try {
      const registry = await registryOptions(flags, args.remote, this.context);
      const result = await namespace.push(args.remote, {
        ...registry,
        ...omitUndefined({
          from: args.local,
          platform: flags.platform,
          manifest: flags.manifest,
          manifestType: flags['manifest-type'],
          maxConcurrentUploads: flags['max-concurrent-uploaded-layers'],
        }),
        allowNonDistributable: flags['allow-non-distributable-blobs'],
        onEvent: (event) => progress.update(event),
        signal: this.signal,
      });
      progress.finish(result);
      if (!flags.json) this.context.stderr(lines(result.warnings.map((warning) => `${this.context.program}: warning: ${warning}`)));
      if (flags.quiet) this.print(result.target.digest);
      return result;
    } finally {
      progress.close();
    }
  }
}
