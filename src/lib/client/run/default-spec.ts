/** The specification of a container without an image and without options. */
import {ErrdefsError} from '../../errdefs.ts';
import {hostPlatform, parsePlatform} from '../../oci/platform.ts';
import {withSeccomp} from '../../runtime/resolve-spec.ts';
import {createSpec, type Spec} from '../../runtime/spec.ts';

/**
 * Its command is `sh`, as in ctr; its system calls are filtered as those of `run`.
 *
 * @param platform of the image that the container would have; default: this machine's
 * @throws invalid_argument it is none @throws not_implemented it is not Linux
 */
export async function defaultSpec({platform}: {readonly platform?: string} = {}): Promise<Spec> {
  const {os, architecture} = platform === undefined ? hostPlatform() : parsePlatform(platform);
  if (os !== 'linux')
    throw new ErrdefsError('not_implemented', `specification for ${JSON.stringify(os)}`, {hint: 'containers here are those of Linux'});
  const user = {uid: 0, gid: 0, additionalGids: [0]};
  const host = {hostname: '', files: [], capabilities: [], devices: []};
  const plain = createSpec({cgroupsPath: '/default', image: {}, options: {args: ['sh']}, envFile: [], user, host});
  return withSeccomp(plain, {cgroupsPath: '/default', image: {}, options: {}, architecture});
}
