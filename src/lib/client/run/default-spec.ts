/** The specification of a container without an image and without options. */
import {withSeccomp} from '../../runtime/resolve-spec.ts';
import {createSpec, type Spec} from '../../runtime/spec.ts';

/** Its command is `sh`, as in ctr; its system calls are filtered as those of `run`. */
export async function defaultSpec(): Promise<Spec> {
  const user = {uid: 0, gid: 0, additionalGids: [0]};
  const host = {hostname: '', files: [], capabilities: [], devices: []};
  const plain = createSpec({cgroupsPath: '/default', image: {}, options: {args: ['sh']}, envFile: [], user, host});
  return withSeccomp(plain, {cgroupsPath: '/default', image: {}, options: {}});
}
