/** `images verify`: whether an image is signed as the namespace, or the caller, demands it. */
import {berth} from '../../berth-command.ts';
import {ErrdefsError} from '../../errdefs.ts';
import {parseReference} from '../../oci/reference.ts';
import type {Remote} from '../../remotes/types.ts';
import type {Context} from '../context.ts';
import {assertAllowed} from '../signatures/assert-allowed.ts';
import {remoteEvidence} from '../signatures/signature-sources.ts';
import type {ImageVerification, VerifyOptions} from '../types/index.ts';
import {findImage} from './find-image.ts';

export async function verifyImage(context: Context, namespace: string, text: string, options: VerifyOptions): Promise<ImageVerification> {
  const {name, target} = findImage(context, namespace, text);
  const {domain, path} = parseReference(name);
  const {keys = [], signal} = options;
  let remote: Remote | undefined;
  try {
    const {signatures} = await assertAllowed(
      context,
      namespace,
      {name, target},
      {
        keys,
        more: async function* (digest) {
          remote = await context.openRemote(options);
          yield* remoteEvidence(remote, {domain, path}, digest, signal);
        },
      },
    );
    if (signatures.length === 0)
      throw new ErrdefsError('invalid_argument', `no key to verify image ${JSON.stringify(name)} with`, {
        hint: `give one: --key cosign.pub, or label the namespace: ${berth`namespaces label ${namespace} berth/verify-key=BASE64`}`,
      });
    return {name, target, signatures};
  } finally {
    await remote?.close();
  }
}
