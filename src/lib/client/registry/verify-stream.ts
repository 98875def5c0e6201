/** Verifies bytes while they pass. */
import {ErrdefsError} from '../../errdefs.ts';
import {type Descriptor, type Digest, digestParts} from '../../oci/descriptor.ts';
import {createHash} from '../../oci/hash.ts';

/** Passes bytes on. @param onWrong called before it throws @throws failed_precondition after the last byte: they do not have the digest */
export async function* verified({digest, size}: Descriptor, source: AsyncIterable<Buffer>, onWrong?: () => void): AsyncGenerator<Buffer> {
  const hash = createHash(digestParts(digest)[0]);
  let received = 0;
  for await (const chunk of source) {
    hash.update(chunk);
    received += chunk.length;
    yield chunk;
  }
  const actual = `${digestParts(digest)[0]}:${hash.digest('hex')}` as Digest;
  if (actual !== digest || received !== size) {
    onWrong?.();
    throw new ErrdefsError('failed_precondition', `blob ${digest} (${size} B) arrived as ${actual} (${received} B)`, {
      hint: 'do not use these bytes: the registry or a proxy has changed them',
    });
  }
}
