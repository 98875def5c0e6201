/**
 * Signatures of an image, and whether a key made them. Two forms: cosign's simple signing, and a sigstore bundle, each a layer of a manifest
 * of its own. Only key pairs are verified: certificates (Fulcio), transparency logs (Rekor) and time stamps are not looked at.
 *
 * Formats after sigstore/cosign, specs/SIGNATURE_SPEC.md and specs/BUNDLE_SPEC.md; sigstore/protobuf-specs, sigstore_bundle.proto; DSSE,
 * protocol.md; in-toto, Statement v1. What a payload may contain after containers/image, signature/internal/sigstore_payload.go.
 */
import {ErrdefsError} from '../../errdefs.ts';
import type {Descriptor, Digest} from '../../oci/descriptor.ts';
import {digestOf} from '../../oci/hash.ts';
import {parseReference} from '../../oci/reference.ts';
import type {ImageSignature} from '../types/index.ts';
import {strictBase64, type VerifyKey, verifySignature} from './keys.ts';

/** Layer with the payload of a simple signing. */
export const SIMPLE_SIGNING = 'application/vnd.dev.cosign.simplesigning.v1+json';
/** Annotation of that layer. */
export const SIGNATURE_ANNOTATION = 'dev.cosignproject.cosign/signature';
/** Layer that is a bundle, of any version. */
const BUNDLE = /^application\/vnd\.dev\.sigstore\.bundle(?:\.v|\+json;version=)0\.[0-9]+(?:\+json)?$/;
/** What cosign signs images with; other statements, such as provenance, say something else about an image. */
const SIGN_PREDICATE = 'https://sigstore.dev/cosign/sign/v1';
const IN_TOTO = 'application/vnd.in-toto+json';

/** A manifest that has signatures, with its layers. */
export interface Evidence {
  readonly descriptor: Descriptor;
  readonly bytes: Buffer;
  readonly layers: readonly {readonly descriptor: Descriptor; readonly bytes: Buffer}[];
}

/** What is to be signed. */
export interface Signed {
  readonly digest: Digest;
  /** The bytes that the digest names, which a bundle may sign themselves; absent where they are not at hand. */
  readonly bytes?: Uint8Array | undefined;
  /** Repository that the signer must have named; absent where the image's name is a local one. */
  readonly repository?: string | undefined;
}

/** Whether a layer is a signature. */
export const isSignature = ({mediaType}: Pick<Descriptor, 'mediaType'>): boolean => mediaType === SIMPLE_SIGNING || BUNDLE.test(mediaType);

/** Why a signature does not count. */
class Rejected extends Error {}

/**
 * Looks for a signature by one of the keys.
 *
 * @returns the first that counts; else why none does, one reason a signature
 */
export function verifyEvidence(
  signed: Signed,
  evidence: readonly Evidence[],
  keys: readonly VerifyKey[],
): {readonly verified?: ImageSignature & {readonly evidence: Evidence}; readonly reasons: readonly string[]} {
  const reasons: string[] = [];
  for (const one of evidence)
    for (const {descriptor, bytes} of one.layers) {
      try {
        const verified =
          descriptor.mediaType === SIMPLE_SIGNING ? verifySimple(signed, descriptor, bytes, keys) : verifyBundle(signed, bytes, keys);
        return {verified: {...verified, evidence: one}, reasons};
      } catch (err) {
        if (!(err instanceof Rejected)) throw err;
        reasons.push(`${descriptor.digest}: ${err.message}`);
      }
    }
  return {reasons};
}

type JSONObject = Readonly<Record<string, unknown>>;

function parseObject(bytes: Uint8Array, what: string): JSONObject {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', {fatal: true}).decode(bytes));
  } catch {
    throw new Rejected(`the ${what} is not JSON`);
  }
  return objectOf(value, what);
}

function objectOf(value: unknown, what: string): JSONObject {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new Rejected(`the ${what} is not an object`);
  return value as JSONObject;
}

function only(value: JSONObject, what: string, keys: readonly string[]): void {
  const other = Object.keys(value).find((key) => !keys.includes(key));
  if (other !== undefined) throw new Rejected(`the ${what} has the unknown field ${JSON.stringify(other.slice(0, 64))}`);
}

function base64(value: unknown, what: string): Buffer {
  try {
    return Buffer.from(strictBase64(value as string), 'base64');
  } catch {
    throw new Rejected(`the ${what} is not in base64`);
  }
}

/** @throws Rejected none of the keys made the signature */
function keyOf(keys: readonly VerifyKey[], bytes: Uint8Array, signature: Uint8Array): VerifyKey {
  const key = keys.find((one) => verifySignature(one, bytes, signature));
  if (key === undefined) throw new Rejected('not made with a trusted key');
  return key;
}

function verifySimple(signed: Signed, {annotations}: Descriptor, payload: Buffer, keys: readonly VerifyKey[]): ImageSignature {
  const key = keyOf(keys, payload, base64(annotations?.[SIGNATURE_ANNOTATION], 'signature'));
  const root = parseObject(payload, 'payload');
  only(root, 'payload', ['critical', 'optional']);
  const critical = objectOf(root.critical, 'critical part');
  only(critical, 'critical part', ['type', 'image', 'identity']);
  if (critical.type !== 'cosign container image signature') throw new Rejected('the payload is of another type');
  const image = objectOf(critical.image, 'image');
  only(image, 'image', ['docker-manifest-digest']);
  if (image['docker-manifest-digest'] !== signed.digest) throw new Rejected('it is of another digest');
  const identity = objectOf(critical.identity, 'identity');
  only(identity, 'identity', ['docker-reference']);
  const reference = identity['docker-reference'];
  if (typeof reference !== 'string') throw new Rejected('the identity has no reference');
  if (signed.repository !== undefined && repositoryOf(reference) !== signed.repository)
    throw new Rejected(`it is of ${JSON.stringify(reference.slice(0, 256))}, not of ${signed.repository}`);
  return {form: 'simple-signing', key: key.fingerprint, identity: reference};
}

/** The repository that a reference names, whole; `undefined` when it is none. */
export function repositoryOf(reference: string): string | undefined {
  try {
    const {domain, path} = parseReference(reference);
    return `${domain}/${path}`;
  } catch (err) {
    if (err instanceof ErrdefsError) return undefined;
    throw err;
  }
}

function verifyBundle(signed: Signed, bytes: Buffer, keys: readonly VerifyKey[]): ImageSignature {
  const bundle = parseObject(bytes, 'bundle');
  if (typeof bundle.mediaType !== 'string' || !BUNDLE.test(bundle.mediaType)) throw new Rejected('the bundle is of another type');
  const key =
    bundle.dsseEnvelope === undefined
      ? verifyMessage(signed, objectOf(bundle.messageSignature, 'message signature'), keys)
      : verifyEnvelope(signed, objectOf(bundle.dsseEnvelope, 'envelope'), keys);
  return {form: 'bundle', key: key.fingerprint};
}

/** A signature of the bytes themselves; the digest in it is only a hint, and must be right. */
function verifyMessage({digest, bytes}: Signed, message: JSONObject, keys: readonly VerifyKey[]): VerifyKey {
  const named = objectOf(message.messageDigest, 'message digest');
  if (named.algorithm !== 'SHA2_256') throw new Rejected(`the digest's algorithm is not SHA2_256`);
  if (`sha256:${base64(named.digest, 'digest').toString('hex')}` !== digest) throw new Rejected('it is of another digest');
  if (bytes === undefined || digestOf(bytes) !== digest) throw new Rejected('the signed bytes are not at hand');
  return keyOf(keys, bytes, base64(message.signature, 'signature'));
}

function verifyEnvelope({digest}: Signed, envelope: JSONObject, keys: readonly VerifyKey[]): VerifyKey {
  if (envelope.payloadType !== IN_TOTO) throw new Rejected('the envelope has another type of payload');
  const payload = base64(envelope.payload, 'payload');
  const {signatures} = envelope;
  if (!Array.isArray(signatures) || signatures.length !== 1) throw new Rejected('the envelope has not one signature');
  const signature = base64(objectOf(signatures[0], 'signature').sig, 'signature');
  // Pre-authentication encoding of DSSE.
  const type = Buffer.from(IN_TOTO);
  const signed = Buffer.concat([Buffer.from(`DSSEv1 ${type.length} ${IN_TOTO} ${payload.length} `), payload]);
  const key = keyOf(keys, signed, signature);
  const statement = parseObject(payload, 'statement');
  if (statement._type !== 'https://in-toto.io/Statement/v1') throw new Rejected('the statement is of another type');
  if (statement.predicateType !== SIGN_PREDICATE) throw new Rejected('the statement is no signature of an image');
  const subjects = statement.subject;
  const isOfImage =
    Array.isArray(subjects) &&
    subjects.some((subject) => `sha256:${String(objectOf(objectOf(subject, 'subject').digest, 'digest').sha256)}` === digest);
  if (!isOfImage) throw new Rejected('it is of another digest');
  return key;
}
