import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';
import {omitUndefined} from '../../cli/omit-undefined.ts';
import {quiet, snapshotter} from '../../cli/shared-flags.ts';
import type {HostMount} from '../../lib/client/types/index.ts';

export default class Mount extends BaseCommand {
  static override summary = 'mount an image at a directory, or list what is mounted';
  static override description =
    'The mount stays until "images unmount" or the next boot. Without arguments, list the mounts of the namespace.';
  static override examples = ['images mount docker.io/library/redis:7 /mnt', 'images mount --rw redis /mnt', 'images mount'];
  static override args = {
    ref: Args.string({description: 'image'}),
    target: Args.string({description: 'directory to mount it at'}),
  };
  static override flags = {
    rw: Flags.boolean({description: 'make the mount writable'}),
    platform: Flags.string({helpValue: 'OS/ARCH', description: "platform of the image; by default this machine's"}),
    quiet: quiet('the directories, when mounts are listed'),
    snapshotter: snapshotter(),
  };

  async run(): Promise<HostMount | readonly HostMount[]> {
    const {args, flags} = await this.parse(Mount);
    const {images} = await this.namespace(flags);
    const {ref, target} = args;
    if (ref === undefined) {
      const mounts = await images.mounts();
      this.table(['TARGET', 'IMAGE', 'SNAPSHOT', 'ACCESS', 'STATE'], mounts, ({target: at, image = '', key, readOnly, state}) => [
        at,
        image,
        key,
        readOnly ? 'ro' : 'rw',
        state,
      ]);
      return mounts;
    }
    if (target === undefined) throw this.usage('missing argument: TARGET');
    const options = omitUndefined({platform: flags.platform, snapshotter: flags.snapshotter});
    const mount = await images.mount(ref, target, {...options, rw: flags.rw, signal: this.signal});
    this.print(target);
    return mount;
  }
}
