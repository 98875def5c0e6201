/** Public keys that signatures are verified with. Loaded when there is a key: node:crypto takes milliseconds to load. */
import {createHash, createPublicKey, type KeyObject, verify} from 'node:crypto';
import {ErrdefsError} from '../../errdefs.ts';

/** A public key, and what is said of it. */
export interface VerifyKey {
  readonly key: KeyObject;
  /** SHA-256 of its DER form (SubjectPublicKeyInfo), such as `sha256:…`: names it in messages. */
  readonly fingerprint: string;
}

/** Hashes with which a signature by an elliptic curve's key may have been made; cosign takes SHA-256 for all of them, newer versions the curve's own. */
const CURVES: Readonly<Record<string, readonly string[]>> = {
  prime256v1: ['sha256'],
  secp384r1: ['sha384', 'sha256'],
  secp521r1: ['sha512', 'sha256'],
};
const MIN_RSA_BITS = 2048;

/**
 * Reads a public key.
 *
 * @param text PEM (`BEGIN PUBLIC KEY`), or the same in DER and base64, as labels have it
 * @throws invalid_argument not a public key, or one of a kind that cosign does not sign with
 */
export function parseKey(text: string): VerifyKey {
  let key: KeyObject;
  try {
    // A private key would be taken as well, and its public part used: refuse it, since it has no business here.
    if (/PRIVATE KEY/.test(text)) throw new Error('it is a private key');
    key = text.includes('-----BEGIN')
      ? createPublicKey(text)
      : createPublicKey({key: Buffer.from(strictBase64(text.trim()), 'base64'), format: 'der', type: 'spki'});
  } catch (cause) {
    throw new ErrdefsError(
      'invalid_argument',
      `not a public key${cause instanceof Error && /private/.test(cause.message) ? `: ${cause.message}` : ''}`,
      {
        cause,
        hint: 'give the PEM file that cosign generate-key-pair writes as cosign.pub, in a label its base64 lines alone',
      },
    );
  }
  const refused = (reason: string): ErrdefsError => new ErrdefsError('invalid_argument', `public key: ${reason}`);
  const {asymmetricKeyType: type, asymmetricKeyDetails: details} = key;
  if (type === 'rsa') {
    if ((details?.modulusLength ?? 0) < MIN_RSA_BITS)
      throw refused(`an RSA key of ${details?.modulusLength} bits, at least ${MIN_RSA_BITS} are needed`);
  } else if (type === 'ec') {
    if (!Object.hasOwn(CURVES, details?.namedCurve ?? ''))
      throw refused(`the curve ${details?.namedCurve}; P-256, P-384 and P-521 are known`);
  } else if (type !== 'ed25519') throw refused(`a key of type ${type}; ECDSA, RSA and Ed25519 are known`);
  const der = key.export({format: 'der', type: 'spki'});
  return {key, fingerprint: `sha256:${createHash('sha256').update(der).digest('hex')}`};
}

/** @throws not in base64: Buffer would pass over what is not */
export function strictBase64(text: string): string {
  if (text === '' || text.length % 4 !== 0 || !/^[A-Za-z0-9+/]+={0,2}$/.test(text)) throw new Error('not in base64');
  return text;
}

/** Whether a signature of the bytes was made with the key: ECDSA in DER, RSA PKCS #1 v1.5 with SHA-256, or Ed25519. */
export function verifySignature({key}: VerifyKey, bytes: Uint8Array, signature: Uint8Array): boolean {
  const hashes =
    key.asymmetricKeyType === 'ec' ? CURVES[key.asymmetricKeyDetails!.namedCurve!]! : key.asymmetricKeyType === 'rsa' ? ['sha256'] : [null];
  return hashes.some((hash) => {
    try {
      return verify(hash, bytes, key, signature);
    } catch {
      return false; // not in the form that signatures of this kind have
    }
  });
}
