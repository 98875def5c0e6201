/** Signatures in cosign's formats, made with key pairs of Node. */
import {createHash, generateKeyPairSync, type KeyObject, sign} from 'node:crypto';
import type {Descriptor} from '../../src/lib/oci/descriptor.ts';
import {OCI_MANIFEST} from '../../src/lib/oci/mediatypes.ts';
import type {FakeRegistry} from '../fakes/registry.ts';

export const SIMPLE_SIGNING = 'application/vnd.dev.cosign.simplesigning.v1+json';
export const BUNDLE = 'application/vnd.dev.sigstore.bundle.v0.3+json';
const EMPTY = Buffer.from('{}');
const EMPTY_TYPE = 'application/vnd.oci.empty.v1+json';

export interface Signer {
  readonly name: string;
  readonly publicPEM: string;
  /** As labels have it. */
  readonly label: string;
  readonly privateKey: KeyObject;
  sign(bytes: Uint8Array): Buffer;
}

const KINDS: Readonly<Record<string, readonly [make: () => {publicKey: KeyObject; privateKey: KeyObject}, hash: string | null]>> = {
  'P-256': [() => generateKeyPairSync('ec', {namedCurve: 'P-256'}), 'sha256'],
  'P-384': [() => generateKeyPairSync('ec', {namedCurve: 'P-384'}), 'sha384'],
  'P-384 with SHA-256': [() => generateKeyPairSync('ec', {namedCurve: 'P-384'}), 'sha256'],
  'P-521': [() => generateKeyPairSync('ec', {namedCurve: 'P-521'}), 'sha512'],
  RSA: [() => generateKeyPairSync('rsa', {modulusLength: 2048}), 'sha256'],
  Ed25519: [() => generateKeyPairSync('ed25519'), null],
};
export type KeyKind = keyof typeof KINDS;
export const KEY_KINDS: readonly string[] = Object.keys(KINDS);

/** A new key pair. */
export function newSigner(kind = 'P-256'): Signer {
  const [make, hash] = KINDS[kind]!;
  const {publicKey, privateKey} = make();
  return {
    name: kind,
    publicPEM: publicKey.export({format: 'pem', type: 'spki'}) as string,
    label: publicKey.export({format: 'der', type: 'spki'}).toString('base64'),
    privateKey,
    sign: (bytes) => sign(hash, bytes, privateKey),
  };
}

/** Payload of a simple signing. */
export const payloadFor = (digest: string, reference: string): Record<string, unknown> => ({
  critical: {
    identity: {'docker-reference': reference},
    image: {'docker-manifest-digest': digest},
    type: 'cosign container image signature',
  },
  optional: null,
});

/** A sigstore bundle with an in-toto statement. */
export function envelopeFor(signer: Signer, digest: string, over: {readonly statement?: object; readonly envelope?: object} = {}): object {
  const statement = {
    _type: 'https://in-toto.io/Statement/v1',
    subject: [{name: '', digest: {sha256: digest.slice('sha256:'.length)}}],
    predicateType: 'https://sigstore.dev/cosign/sign/v1',
    predicate: {},
    ...over.statement,
  };
  const payload = Buffer.from(JSON.stringify(statement));
  const type = 'application/vnd.in-toto+json';
  const encoded = Buffer.concat([Buffer.from(`DSSEv1 ${type.length} ${type} ${payload.length} `), payload]);
  return {
    mediaType: BUNDLE,
    verificationMaterial: {publicKey: {hint: ''}, tlogEntries: []},
    dsseEnvelope: {
      payload: payload.toString('base64'),
      payloadType: type,
      signatures: [{sig: signer.sign(encoded).toString('base64'), keyid: ''}],
      ...over.envelope,
    },
  };
}

/** A sigstore bundle that signs the bytes themselves. */
export const messageFor = (signer: Signer, bytes: Uint8Array, over: object = {}): object => ({
  mediaType: BUNDLE,
  verificationMaterial: {publicKey: {hint: ''}},
  messageSignature: {
    messageDigest: {algorithm: 'SHA2_256', digest: createHash('sha256').update(bytes).digest('base64')},
    signature: signer.sign(bytes).toString('base64'),
    ...over,
  },
});

/** Puts a simple signing of an image into its repository, as `cosign sign --key` does. */
export function publishSimple(
  registry: FakeRegistry,
  repository: string,
  image: Descriptor,
  signer: Signer,
  payload: object = payloadFor(image.digest, `${registry.host}/${repository}`),
): Descriptor {
  const bytes = Buffer.from(JSON.stringify(payload));
  const layer = {
    ...registry.addBlob(bytes, SIMPLE_SIGNING),
    annotations: {'dev.cosignproject.cosign/signature': signer.sign(bytes).toString('base64')},
  };
  const config = registry.addBlob(EMPTY, 'application/vnd.oci.image.config.v1+json');
  const manifest = {schemaVersion: 2, mediaType: OCI_MANIFEST, config, layers: [layer]};
  return registry.addManifest(repository, manifest, OCI_MANIFEST, `${image.digest.replace(':', '-')}.sig`);
}

/** Puts a bundle into the repository as a referrer of an image, listed under the fallback tag. */
export function publishBundle(registry: FakeRegistry, repository: string, image: Descriptor, bundle: object): void {
  const layer = registry.addBlob(Buffer.from(JSON.stringify(bundle)), BUNDLE);
  const {mediaType, digest, size} = image;
  const manifest = {
    schemaVersion: 2,
    mediaType: OCI_MANIFEST,
    artifactType: BUNDLE,
    config: registry.addBlob(EMPTY, EMPTY_TYPE),
    layers: [layer],
    subject: {mediaType, digest, size},
  };
  const referrer = {...registry.addManifest(repository, manifest, OCI_MANIFEST), artifactType: BUNDLE};
  registry.addIndex(repository, image.digest.replace(':', '-'), [referrer]);
}
