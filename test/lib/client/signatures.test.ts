/** Signatures: what counts as one, and that a namespace which demands them has no image without. */
import assert from 'node:assert/strict';
import {execFile, spawnSync} from 'node:child_process';
import {generateKeyPairSync, type KeyObject} from 'node:crypto';
import {copyFileSync, createReadStream, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {after, describe, it, type TestContext} from 'node:test';
import {openClient} from '../../../src/lib/client/index.ts';
import {parseKey} from '../../../src/lib/client/signatures/keys.ts';
import {localEvidence} from '../../../src/lib/client/signatures/signature-sources.ts';
import {type Evidence, verifyEvidence} from '../../../src/lib/client/signatures/verify-evidence.ts';
import type {Client, NamespaceClient} from '../../../src/lib/client/types/index.ts';
import {hasCode} from '../../../src/lib/errdefs.ts';
import {type Descriptor, type Digest, digestParts} from '../../../src/lib/oci/descriptor.ts';
import {OCI_MANIFEST} from '../../../src/lib/oci/mediatypes.ts';
import type {Store} from '../../../src/lib/store/store.ts';
import {digestOf, type FakeRegistry, startFakeRegistry} from '../../fakes/registry.ts';
import {
  BUNDLE,
  envelopeFor,
  KEY_KINDS,
  messageFor,
  newSigner,
  payloadFor,
  publishBundle,
  publishSimple,
  SIMPLE_SIGNING,
  type Signer,
} from '../../support/cosign.ts';
import {
  findProgram,
  is,
  newClient,
  requiresProgram,
  requiresRoot,
  SAMPLE,
  TORTURE,
  temporaryDirectory,
  temporaryInMemory,
} from '../../support/helpers.ts';
import {checkStore} from '../../support/invariants.ts';
import {ARCHITECTURE, addImage, setTarget} from '../../support/layouts.ts';
import {publishImage, writeLayout} from '../../support/published-images.ts';
import {pushImage, sharedRegistry} from '../../support/registry.ts';
import {sample} from '../../support/sample-cases.ts';
import {dir, file, tar} from '../../support/tartest.ts';

temporaryInMemory({after});

const LAYER = tar(dir('etc'), file('etc/a', 'hello'));
const IMAGE = Buffer.from('{"schemaVersion":2}');
const DIGEST = digestOf(IMAGE);
const REPOSITORY = 'registry.example/app';
const SIGNED = {digest: DIGEST, bytes: IMAGE, repository: REPOSITORY};

const SIGNER = newSigner();

/** A signature as it comes from a registry, without one. */
function evidenceOf(mediaType: string, payload: Uint8Array, signature?: string): Evidence {
  const bytes = Buffer.from(payload);
  const descriptor: Descriptor = {
    mediaType,
    digest: digestOf(bytes),
    size: bytes.length,
    ...(signature === undefined ? {} : {annotations: {'dev.cosignproject.cosign/signature': signature}}),
  };
  return {descriptor: {mediaType: OCI_MANIFEST, digest: DIGEST, size: 1}, bytes: IMAGE, layers: [{descriptor, bytes}]};
}

const simple = (payload: object, signer: Signer = SIGNER): Evidence => {
  const bytes = Buffer.from(JSON.stringify(payload));
  return evidenceOf(SIMPLE_SIGNING, bytes, signer.sign(bytes).toString('base64'));
};
const bundle = (value: object): Evidence => evidenceOf(BUNDLE, Buffer.from(JSON.stringify(value)));

const accepts = (evidence: Evidence, signer: Signer = SIGNER, signed: Parameters<typeof verifyEvidence>[0] = SIGNED): boolean =>
  verifyEvidence(signed, [evidence], [parseKey(signer.publicPEM)]).verified !== undefined;

/** Every way to leave out a member, or to add one, at any depth. */
function* variants(value: object): Generator<object> {
  for (const key of Object.keys(value)) {
    const {[key]: inner, ...rest} = value as Record<string, unknown>;
    yield rest;
    yield {...value, [key]: typeof inner === 'string' ? `${inner} ` : 'changed'};
    if (typeof inner === 'object' && inner !== null && !Array.isArray(inner))
      for (const other of variants(inner)) yield {...value, [key]: other};
  }
  yield {...value, added: true};
}

describe('signatures that a namespace keeps', () => {
  it('count though their manifest leaves out its media type, and though something else has such a label', () => {
    const [layer] = simple(payloadFor(DIGEST, REPOSITORY)).layers;
    const config = {mediaType: 'application/vnd.oci.empty.v1+json', digest: digestOf(Buffer.from('{}')), size: 2};
    const manifest = Buffer.from(JSON.stringify({schemaVersion: 2, config, layers: [layer!.descriptor]}));
    const others = ['not JSON', 'null', '[]', '{"mediaType":1}', '{"mediaType":"text/plain"}'].map((text) => Buffer.from(text));
    const blobs = new Map([layer!.bytes, manifest, ...others].map((bytes) => [digestOf(bytes), bytes]));
    const labelsOf = (...kept: readonly Buffer[]): Record<string, string> =>
      Object.fromEntries(kept.map((bytes, i) => [`containerd.io/gc.ref.content.signature.${i}`, digestOf(bytes)]));
    const labels = new Map([
      [DIGEST, labelsOf(...others, manifest)],
      [digestOf(manifest), labelsOf(layer!.bytes)],
    ]);
    const content = {
      find: (digest: Digest) => (digest === DIGEST || blobs.has(digest) ? {labels: labels.get(digest) ?? {}} : undefined),
    };
    const store = {
      view: <T>(look: (tx: unknown) => T): T => look({namespace: () => ({content})}),
      blobs: {readSmall: (digest: Digest) => blobs.get(digest)},
    } as unknown as Store;
    const found = [...localEvidence(store, 'default', DIGEST)];
    assert.deepEqual(
      found.map(({layers}) => layers.length),
      [1],
    );
    assert.ok(accepts(found[0]!));
  });
});

describe('a signature', () => {
  for (const kind of KEY_KINDS)
    it(`by a key of the kind ${kind} counts in each form, with that key only`, () => {
      const [signer, other] = [newSigner(kind), newSigner(kind)];
      const forms = [
        simple(payloadFor(DIGEST, REPOSITORY), signer),
        bundle(envelopeFor(signer, DIGEST)),
        bundle(messageFor(signer, IMAGE)),
      ];
      for (const form of forms) {
        assert.ok(accepts(form, signer));
        assert.ok(!accepts(form, other));
        assert.ok(!accepts(form, signer, {...SIGNED, digest: digestOf(Buffer.from('other')), bytes: Buffer.from('other')}));
      }
      const label = parseKey(signer.label);
      assert.equal(label.fingerprint, parseKey(signer.publicPEM).fingerprint);
    });

  it('does not count when a byte of it, or of what it signs, is another', () => {
    const payload = Buffer.from(JSON.stringify(payloadFor(DIGEST, REPOSITORY)));
    const signature = SIGNER.sign(payload);
    const flipped = (bytes: Buffer, i: number): Buffer => Buffer.from(bytes.map((byte, at) => (at === i ? byte ^ 1 : byte)));
    assert.ok(accepts(evidenceOf(SIMPLE_SIGNING, payload, signature.toString('base64'))));
    for (let i = 0; i < payload.length; i++)
      assert.ok(!accepts(evidenceOf(SIMPLE_SIGNING, flipped(payload, i), signature.toString('base64'))), `payload ${i}`);
    for (let i = 0; i < signature.length; i++)
      assert.ok(!accepts(evidenceOf(SIMPLE_SIGNING, payload, flipped(signature, i).toString('base64'))), `signature ${i}`);
    for (const wrong of [
      undefined,
      '',
      'x',
      `${signature.toString('base64')}\n`,
      ` ${signature.toString('base64')}`,
      signature.toString('hex'),
    ])
      assert.ok(!accepts(evidenceOf(SIMPLE_SIGNING, payload, wrong)), String(wrong));
  });

  it('of a simple signing counts with exactly the fields that there are, however well it is signed', () => {
    const good = payloadFor(DIGEST, REPOSITORY);
    assert.ok(accepts(simple(good)));
    assert.ok(accepts(simple({...good, optional: {creator: 'someone', timestamp: 1}})));
    for (const other of variants(good)) {
      const harmless = !('added' in other) && JSON.stringify((other as {critical: unknown}).critical) === JSON.stringify(good.critical);
      // A space after the reference is no reference.
      assert.equal(accepts(simple(other)), harmless, JSON.stringify(other));
    }
    for (const text of ['', '[]', 'null', '"x"', '{', '\u0000']) {
      const bytes = Buffer.from(text);
      assert.ok(!accepts(evidenceOf(SIMPLE_SIGNING, bytes, SIGNER.sign(bytes).toString('base64'))), text);
    }
  });

  it('of a simple signing names the repository, with or without a tag', () => {
    for (const [reference, counts] of [
      [REPOSITORY, true],
      [`${REPOSITORY}:1.2`, true],
      [`${REPOSITORY}@${DIGEST}`, true],
      ['registry.example/other', false],
      ['evil.example/app', false],
      ['app', false],
      ['', false],
    ] as const) {
      assert.equal(accepts(simple(payloadFor(DIGEST, reference))), counts, reference);
      assert.ok(accepts(simple(payloadFor(DIGEST, reference)), SIGNER, {digest: DIGEST}), 'a local name has no repository');
    }
  });

  it('of a bundle counts for the image only, and not what else is said of it', () => {
    const good = envelopeFor(SIGNER, DIGEST) as {dsseEnvelope: {payload: string; signatures: object[]}};
    const envelope = good.dsseEnvelope;
    for (const wrong of [
      envelopeFor(SIGNER, DIGEST, {statement: {predicateType: 'https://slsa.dev/provenance/v1'}}),
      envelopeFor(SIGNER, DIGEST, {statement: {_type: 'https://in-toto.io/Statement/v0.1'}}),
      envelopeFor(SIGNER, DIGEST, {statement: {subject: []}}),
      envelopeFor(SIGNER, DIGEST, {statement: {subject: {}}}),
      envelopeFor(SIGNER, DIGEST, {statement: {subject: [{digest: {sha512: DIGEST.slice(7)}}]}}),
      envelopeFor(SIGNER, DIGEST, {statement: {subject: [null]}}),
      envelopeFor(SIGNER, DIGEST, {envelope: {payloadType: 'text/plain'}}),
      envelopeFor(SIGNER, DIGEST, {envelope: {signatures: []}}),
      envelopeFor(SIGNER, DIGEST, {envelope: {signatures: [...envelope.signatures, ...envelope.signatures]}}),
      envelopeFor(SIGNER, DIGEST, {envelope: {payload: Buffer.from('{}').toString('base64')}}),
      {...good, mediaType: 'application/json'},
      {...good, dsseEnvelope: null},
      {mediaType: BUNDLE},
      messageFor(SIGNER, IMAGE, {messageDigest: {algorithm: 'SHA2_512', digest: ''}}),
      messageFor(SIGNER, IMAGE, {messageDigest: {algorithm: 'SHA2_256', digest: Buffer.alloc(32).toString('base64')}}),
      messageFor(SIGNER, Buffer.from('other')),
    ])
      assert.ok(!accepts(bundle(wrong)), JSON.stringify(wrong));
    assert.ok(accepts(bundle(good)));
    assert.ok(accepts(bundle({...good, mediaType: 'application/vnd.dev.sigstore.bundle+json;version=0.2'})));
    assert.ok(!accepts(bundle(messageFor(SIGNER, IMAGE)), SIGNER, {digest: DIGEST}), 'the signed bytes are not at hand');
  });

  it('needs a public key of a kind that is known', () => {
    const {privateKey} = SIGNER;
    for (const text of [
      '',
      'x',
      SIGNER.label.slice(4),
      `${SIGNER.label}!`,
      privateKey.export({format: 'pem', type: 'pkcs8'}) as string,
      privateKey.export({format: 'der', type: 'pkcs8'}).toString('base64'),
    ])
      assert.throws(() => parseKey(text), is('invalid_argument'), text.slice(0, 20));
  });
});

const REFUSED_KEYS: readonly (readonly [name: RegExp, make: () => KeyObject])[] = [
  [/the curve secp224r1/, () => generateKeyPairSync('ec', {namedCurve: 'secp224r1'}).publicKey],
  [/the curve secp256k1/, () => generateKeyPairSync('ec', {namedCurve: 'secp256k1'}).publicKey],
  [/the curve brainpoolP256r1/, () => generateKeyPairSync('ec', {namedCurve: 'brainpoolP256r1'}).publicKey],
  [/an RSA key of 1024 bits/, () => generateKeyPairSync('rsa', {modulusLength: 1024}).publicKey],
  [/a key of type rsa-pss/, () => generateKeyPairSync('rsa-pss', {modulusLength: 2048}).publicKey],
  [/a key of type ed448/, () => generateKeyPairSync('ed448').publicKey],
  [/a key of type x25519/, () => generateKeyPairSync('x25519').publicKey],
  [/a key of type dsa/, () => generateKeyPairSync('dsa', {modulusLength: 1024, divisorLength: 160}).publicKey],
];

describe('a key of a kind that cosign does not sign with', () => {
  for (const [name, make] of REFUSED_KEYS)
    it(`is refused by name: ${name.source}`, () => {
      const text = make().export({format: 'pem', type: 'spki'}) as string;
      assert.throws(
        () => parseKey(text),
        (err: Error) => is('invalid_argument')(err) && name.test(err.message),
      );
    });
});

/** Every text in base64 below a value, with one byte of what it encodes changed. */
function* damagedBytes(value: object): Generator<readonly [string, object]> {
  for (const [key, inner] of Object.entries(value)) {
    if (typeof inner === 'object' && inner !== null) {
      const put = (other: object): object =>
        Array.isArray(value) ? value.map((item, i) => (String(i) === key ? other : (item as unknown))) : {...value, [key]: other};
      for (const [path, other] of damagedBytes(inner as object)) yield [`${key}.${path}`, put(other)];
    } else if (typeof inner === 'string' && inner.length >= 16 && /^[A-Za-z0-9+/]+={0,2}$/.test(inner)) {
      const bytes = Buffer.from(inner, 'base64');
      for (let i = 0; i < bytes.length; i++)
        yield [
          `${key} byte ${i}`,
          {...value, [key]: Buffer.from(bytes.map((byte, at) => (at === i ? byte ^ 1 : byte))).toString('base64')},
        ];
    }
  }
}

/** Parts of a bundle that only help to find a key or a log, which nobody needs who has the key. */
const HINTS = ['verificationMaterial', 'keyid', 'hint'];
const withoutHints = (value: unknown): string => JSON.stringify(value, (key, inner: unknown) => (HINTS.includes(key) ? undefined : inner));

describe('a damaged bundle', () => {
  for (const [form, make] of [
    ['a statement', (signer: Signer) => envelopeFor(signer, DIGEST)],
    ['the bytes', (signer: Signer) => messageFor(signer, IMAGE)],
  ] as const)
    for (const kind of ['P-256', 'P-384', 'Ed25519', 'RSA'])
      it(`that signs ${form} with ${kind} does not count, whatever the damage`, () => {
        const signer = newSigner(kind);
        const good = make(signer);
        const counts = (value: object): boolean => accepts(bundle(value), signer);
        assert.ok(counts(good));
        const seen = {accepted: 0, refused: 0};
        for (const other of variants(good)) {
          // Unknown fields are those of newer versions: what is signed has none.
          const isHarmless = withoutHints({...other, added: undefined}) === withoutHints(good) || isOnlyMore(good, other);
          const counted = counts(other);
          seen[counted ? 'accepted' : 'refused']++;
          if (!isHarmless) assert.ok(!counted, JSON.stringify(other));
        }
        assert.ok(seen.refused >= 8, JSON.stringify(seen));
        for (const [what, other] of damagedBytes(good)) assert.equal(counts(other), withoutHints(other) === withoutHints(good), what);
        // As bytes: cut, or with a byte changed, and mostly no JSON any more.
        const text = Buffer.from(JSON.stringify(good));
        for (let cut = 0; cut < text.length; cut += TORTURE ? 1 : 37)
          assert.ok(!accepts(evidenceOf(BUNDLE, text.subarray(0, cut)), signer), `${cut} bytes of it`);
      });
});

/** Whether a value has all that another has, and more besides. */
function isOnlyMore(value: unknown, other: unknown): boolean {
  if (typeof value !== 'object' || value === null) return value === other;
  if (typeof other !== 'object' || other === null || Array.isArray(value) !== Array.isArray(other)) return false;
  if (Array.isArray(value) && value.length !== (other as unknown[]).length) return false;
  return Object.entries(value).every(([key, inner]) => HINTS.includes(key) || isOnlyMore(inner, (other as Record<string, unknown>)[key]));
}

interface World {
  readonly registry: FakeRegistry;
  readonly client: Client;
  readonly namespace: NamespaceClient;
  readonly ref: string;
  readonly image: Descriptor;
}

async function world(t: TestContext): Promise<World> {
  const registry = await startFakeRegistry(t);
  const client = await newClient(t);
  const image = publishImage(registry, 'app', [LAYER]);
  return {registry, client, namespace: client.namespace('default'), ref: `${registry.host}/app:latest`, image};
}

const demand = ({client}: World, ...signers: readonly Signer[]): Promise<unknown> =>
  client.namespaces
    .create('default')
    .catch(() => {})
    .then(() => client.namespaces.label('default', Object.fromEntries(signers.map(({label}, i) => [`berth/verify-key.k${i}`, label]))));

const PULL = {unpack: false} as const;
const refused = (err: unknown): true => is('failed_precondition')(err);

describe('pull', () => {
  it('with a key takes what is signed with it, in either form, and asks for no layer of anything else', async (t) => {
    for (const form of ['simple', 'bundle', 'message'] as const) {
      const w = await world(t);
      const {registry, namespace, ref, image} = w;
      const manifest = registry.manifestIn('app', 'latest')!;
      const keys = {...PULL, verifyKeys: [SIGNER.publicPEM]};
      await assert.rejects(namespace.pull(ref, keys), refused);
      if (form === 'simple') publishSimple(registry, 'app', image, SIGNER);
      else publishBundle(registry, 'app', image, form === 'bundle' ? envelopeFor(SIGNER, image.digest) : messageFor(SIGNER, manifest));
      await assert.rejects(namespace.pull(ref, {...keys, verifyKeys: [newSigner().publicPEM]}), refused);
      assert.equal(registry.count('GET', new RegExp(`blobs/${digestOf(LAYER).slice(0, 10)}`)), 0);
      assert.equal((await namespace.images.records()).length, 0);
      assert.deepEqual(await namespace.content.list(), [], 'nothing is stored of what is refused');
      await namespace.pull(ref, keys);
      assert.deepEqual(checkStore(w.client.root), []);
    }
  });

  it('of an index needs a signature of the index, and a child one of its own', async (t) => {
    const w = await world(t);
    const {registry, namespace, image} = w;
    const index = registry.addIndex('app', 'multi', [{...image, platform: {os: 'linux', architecture: ARCHITECTURE}}]);
    const keys = {...PULL, verifyKeys: [SIGNER.publicPEM]};
    const multi = `${registry.host}/app:multi`;
    publishSimple(registry, 'app', image, SIGNER);
    await assert.rejects(namespace.pull(multi, keys), refused);
    await namespace.pull(w.ref, keys);
    publishSimple(registry, 'app', index, SIGNER);
    await namespace.pull(multi, keys);
  });

  it('of a signature that is there and cannot be had is refused, as one that is missing', async (t) => {
    const w = await world(t);
    publishSimple(w.registry, 'app', w.image, SIGNER);
    for (const fault of [{status: 500}, {status: 403}, {status: 404, code: 'x'}] as const) {
      w.registry.fault({path: /\.sig|referrers|manifests\/sha256-/, ...fault});
      await assert.rejects(w.namespace.pull(w.ref, {...PULL, verifyKeys: [SIGNER.publicPEM], connectTimeoutMs: 5000}), refused);
      w.registry.clear();
    }
    w.registry.fault({path: /blobs/, body: (right) => Buffer.from(right.map((byte) => byte ^ 1))});
    await assert.rejects(w.namespace.pull(w.ref, {...PULL, verifyKeys: [SIGNER.publicPEM]}), refused);
    w.registry.clear();
    await w.namespace.pull(w.ref, {...PULL, verifyKeys: [SIGNER.publicPEM]});
  });

  it('finds the one signature that counts among others', async (t) => {
    const w = await world(t);
    publishBundle(w.registry, 'app', w.image, envelopeFor(newSigner(), w.image.digest));
    publishSimple(w.registry, 'app', w.image, SIGNER, payloadFor(w.image.digest, 'elsewhere.example/app'));
    const keys = {...PULL, verifyKeys: [newSigner().publicPEM, SIGNER.publicPEM]};
    await assert.rejects(w.namespace.pull(w.ref, keys), (err: Error) => refused(err) && /elsewhere.*and 1 more/.test(err.message));
    publishBundle(w.registry, 'app', w.image, envelopeFor(SIGNER, w.image.digest));
    await w.namespace.pull(w.ref, keys);
  });
});

describe('a valid signature', () => {
  const other = newSigner();
  for (const form of ['simple', 'bundle'] as const)
    it(`of the form ${form} counts whatever else in the repository is broken`, async (t) => {
      const w = await world(t);
      const {registry, image} = w;
      const keys = {...PULL, verifyKeys: [SIGNER.publicPEM]};
      const hex = (bytes: Uint8Array): RegExp => new RegExp(digestOf(Buffer.from(bytes)).slice(7));
      const wrong = Buffer.from(JSON.stringify(payloadFor(image.digest, 'elsewhere.example/app')));
      const envelope = Buffer.from(JSON.stringify(envelopeFor(other, image.digest)));
      if (form === 'simple') {
        publishSimple(registry, 'app', image, SIGNER);
        publishBundle(registry, 'app', image, envelopeFor(other, image.digest));
      } else {
        publishSimple(registry, 'app', image, other, payloadFor(image.digest, 'elsewhere.example/app'));
        publishBundle(registry, 'app', image, envelopeFor(SIGNER, image.digest));
      }
      const broken =
        form === 'simple' ? [hex(envelope), new RegExp(`manifests/${image.digest.replace(':', '-')}$`)] : [hex(wrong), /\.sig$/];
      for (const path of broken)
        for (const fault of [{status: 404}, {status: 403}, {body: (right: Buffer) => Buffer.from(right.map((byte) => byte ^ 1))}]) {
          registry.fault({path, ...fault});
          await w.namespace.pull(w.ref, {...keys, connectTimeoutMs: 5000});
          await assert.rejects(w.namespace.pull(w.ref, {...keys, verifyKeys: [newSigner().publicPEM]}), refused);
          registry.clear();
          await w.namespace.images.delete(w.ref);
        }
    });
});

/** Everything that gives an image a name, or makes a container of one. */
const CREATORS: Readonly<Record<string, (w: World, name: string) => Promise<unknown>>> = {
  pull: ({namespace, ref}) => namespace.pull(ref, PULL),
  import: async ({namespace, client}, name) => {
    await writeLayout(namespace, name, join(client.state, 'layout'));
    await namespace.images.import(join(client.state, 'layout'), {unpack: false});
  },
  'import from a pipe': async ({namespace, client}, name) => {
    const archive = join(client.state, 'archive.tar');
    await client.namespace('other').images.export(archive, [name]);
    await namespace.images.import(createReadStream(archive), {unpack: false});
  },
  tag: ({namespace}, name) => namespace.images.tag(name, 'made'),
  convert: ({namespace}, name) => namespace.images.convert(name, 'made'),
  flatten: ({namespace}, name) => namespace.images.flatten(name, 'made'),
  append: ({namespace, client}, name) => {
    writeFileSync(join(client.state, 'layer.tar'), LAYER);
    return namespace.images.append(name, 'made', [join(client.state, 'layer.tar')]);
  },
  mutate: ({namespace}, name) => namespace.images.mutate(name, 'made', {user: 'me'}),
  rebase: ({namespace}, name) => namespace.images.rebase(name, 'made', {oldBase: name, newBase: name}),
  unpack: ({namespace, client}, name) => namespace.images.unpack(name, mkdtempSync(join(client.state, 'bundle-'))),
  repack: async ({namespace, client}, name) => {
    const directory = mkdtempSync(join(client.state, 'bundle-'));
    await client.namespace('other').images.unpack(name, directory);
    await namespace.images.repack(directory, 'made', {snapshotter: 'native'});
  },
  create: ({namespace}, name) => namespace.containers.create(name, 'c1', {args: ['/none'], snapshotter: 'native'}),
  run: ({namespace}, name) =>
    namespace.run(name, 'c1', {rm: true, args: ['/none'], snapshotter: 'native', stdio: ['ignore', 'ignore', 'ignore']}),
};

describe('a namespace that demands signatures', () => {
  for (const [creator, create] of Object.entries(CREATORS))
    it(`has no unsigned image by ${creator}, and others are not concerned`, async (t) => {
      if (creator === 'run' && !requiresProgram(t, 'runc')) return;
      if (['create', 'run', 'unpack', 'repack'].includes(creator) && !requiresRoot(t)) return;
      // Its command is no program.
      const makesImages = creator !== 'create' && creator !== 'run';
      const w = await world(t);
      const {image} = await w.namespace.pull(w.ref, PULL);
      const other = {...w, namespace: w.client.namespace('other')};
      await other.namespace.pull(w.ref, PULL);
      await demand(w, SIGNER);
      const [records, content] = [await w.namespace.images.records(), await w.namespace.content.list()];
      const err = await create(w, image.name).then(
        () => assert.fail('it was allowed'),
        (reason: Error & {hint?: string}) => reason,
      );
      assert.ok(hasCode(err, 'failed_precondition') && err.hint !== undefined, String(err.stack));
      assert.match(err.message, /has no signature by a key of namespace "default"/);
      assert.deepEqual(await w.namespace.images.records(), records);
      assert.deepEqual(await w.namespace.content.list(), content);
      assert.deepEqual(await w.namespace.containers.list(), []);
      assert.deepEqual(await w.namespace.leases.list(), []);
      assert.deepEqual(checkStore(w.client.root), []);
      if (makesImages) await create(other, image.name);
      await w.client.namespaces.label('default', {'berth/require-signature': 'false'});
      if (makesImages) await create(w, image.name);
    });

  it('has what is signed, and verifies it again without the registry', async (t) => {
    for (const form of ['simple', 'bundle'] as const) {
      const w = await world(t);
      if (form === 'simple') publishSimple(w.registry, 'app', w.image, SIGNER);
      else publishBundle(w.registry, 'app', w.image, envelopeFor(SIGNER, w.image.digest));
      await demand(w, newSigner(), SIGNER);
      const {image} = await w.namespace.pull(w.ref, PULL);
      await w.registry.close();
      await w.namespace.images.tag(image.name, 'mine');
      await w.client.gc();
      const {signatures, target} = await w.namespace.images.verify('mine');
      assert.equal(target.digest, w.image.digest);
      assert.deepEqual(signatures, [
        {
          form: form === 'simple' ? 'simple-signing' : 'bundle',
          key: parseKey(SIGNER.publicPEM).fingerprint,
          ...(form === 'simple' ? {identity: `${w.registry.host}/app`} : {}),
        },
      ]);
      await assert.rejects(w.namespace.images.verify('mine', {keys: [newSigner().publicPEM]}), refused);
      await assert.rejects(w.namespace.images.mutate('mine', 'changed', {user: 'me'}), refused);
      // What keeps the signature goes with the image.
      for (const name of [image.name, 'mine']) await w.namespace.images.delete(name);
      assert.deepEqual(await w.namespace.content.list(), []);
      assert.deepEqual(checkStore(w.client.root), []);
    }
  });

  it('does not trust what it keeps: a signature that was damaged or taken away is none', async (t) => {
    const w = await world(t);
    publishSimple(w.registry, 'app', w.image, SIGNER);
    await demand(w, SIGNER);
    const {image} = await w.namespace.pull(w.ref, PULL);
    // It stays on the disk, because another namespace has it.
    await w.client.namespace('other').pull(w.ref, {...PULL, verifyKeys: [SIGNER.publicPEM]});
    const payload = Buffer.from(JSON.stringify(payloadFor(w.image.digest, `${w.registry.host}/app`)));
    await w.namespace.content.delete(digestOf(payload));
    await assert.rejects(w.namespace.images.tag(image.name, 'made'), refused);
    await w.namespace.pull(w.ref, PULL);
    await w.namespace.images.tag(image.name, 'made');
  });

  it('has damaged signatures fetched again by check --repair', async (t) => {
    const w = await world(t);
    const manifest = publishSimple(w.registry, 'app', w.image, SIGNER);
    await demand(w, SIGNER);
    const {image} = await w.namespace.pull(w.ref, PULL);
    const payload = Buffer.from(JSON.stringify(payloadFor(w.image.digest, `${w.registry.host}/app`)));
    for (const digest of [manifest.digest, digestOf(payload)]) {
      const path = join(w.client.root, 'content/blobs', ...digestParts(digest));
      rmSync(path);
      writeFileSync(path, 'damaged');
      await assert.rejects(w.namespace.images.tag(image.name, 'made', {force: true}), refused);
      const {damage} = await w.client.check({deep: true, repair: true});
      assert.equal(damage, 0);
      await w.namespace.images.tag(image.name, 'made', {force: true});
    }
  });

  it('refuses everything when it has no key', async (t) => {
    const w = await world(t);
    publishSimple(w.registry, 'app', w.image, SIGNER);
    await w.client.namespaces.create('default', {'berth/require-signature': 'true'});
    await assert.rejects(w.namespace.pull(w.ref, PULL), (err: Error) => refused(err) && /no key/.test(err.message));
    await demand(w, SIGNER);
    await w.namespace.pull(w.ref, PULL);
  });

  it('takes only labels that are a policy', async (t) => {
    const {client} = await world(t);
    await client.namespaces.create('x', {mine: '1'});
    const bad: readonly Readonly<Record<string, string>>[] = [
      {'berth/verify-key': 'no key'},
      {'berth/verify-key.a': SIGNER.label.slice(8)},
      {'berth/verify-keys': SIGNER.label},
      {'berth/require-signatures': 'true'},
      {'berth/require-signature': 'yes'},
    ];
    for (const labels of bad) {
      await assert.rejects(client.namespaces.label('x', labels), is('invalid_argument'));
      await assert.rejects(client.namespaces.create('y', labels), is('invalid_argument'));
    }
    await client.namespaces.label('x', {'berth/verify-key': SIGNER.label, 'berth/require-signature': 'true'});
    assert.deepEqual(Object.keys((await client.namespaces.label('x', {'berth/verify-key': '', 'berth/require-signature': ''})).labels), [
      'mine',
    ]);
  });

  it('runs what was signed, and not what somebody has put under the names of its layers', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'runc')) return;
    const w = await world(t);
    const image = publishImage(w.registry, 'app', [LAYER, tar(file('b', 'more')), tar(file('c', 'most'))]);
    publishSimple(w.registry, 'app', image, SIGNER);
    await demand(w, SIGNER);
    const {namespace, ref} = w;
    const snapshots = namespace.snapshots('native');
    await namespace.pull(ref, {snapshotter: 'native'});
    const start = () => namespace.run(ref, 'c1', {rm: true, args: ['/none'], snapshotter: 'native', stdio: ['ignore', 'ignore', 'ignore']});
    const chain: string[] = [];
    const all = await snapshots.list();
    for (let parent: string | undefined; chain.length < all.length; ) {
      parent = all.find((one) => one.parent === parent)!.key;
      chain.push(parent);
    }
    assert.equal(chain.length, 3);
    const remove = async (from: number): Promise<void> => {
      for (const key of chain.slice(0, from)) await snapshots.label(key, {'containerd.io/gc.root': 'mine'});
      await snapshots.delete(chain[2]!);
      // What only that has kept is collected with it.
      for (const key of chain.slice(from, 2).reverse())
        await snapshots.delete(key).catch((err: unknown) => assert.ok(hasCode(err, 'not_found')));
    };
    for (const from of chain.keys())
      for (const kind of ['committed', 'active', 'view'] as const) {
        if (kind !== 'committed' && from < chain.length - 1) continue;
        await remove(from);
        for (const [i, key] of chain.entries()) {
          if (i < from) continue;
          const parent = i === 0 ? [] : [chain[i - 1]!];
          if (kind === 'view') await snapshots.view(key, ...parent);
          else await snapshots.prepare(kind === 'active' ? key : 'mine', ...parent);
          if (kind === 'committed') await snapshots.commit(key, 'mine');
        }
        const before = await snapshots.list();
        for (const action of [start, () => snapshots.unpack(image.digest), () => namespace.pull(ref, {snapshotter: 'native'})])
          await assert.rejects(action, (err: Error) => refused(err) && /has the name of a layer/.test(err.message), `${kind} from ${from}`);
        assert.deepEqual(await snapshots.list(), before, 'nothing of the user is removed');
        await remove(from);
        await snapshots.unpack(image.digest);
        await assert.rejects(start, (err: Error) => /\/none/.test(err.message), 'the image itself');
        assert.deepEqual(checkStore(w.client.root), []);
      }
  });

  it('starts a container by the signature of what it was made of, whatever has the name of its image now', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'runc', 'busybox')) return;
    const w = await world(t);
    const program = tar(file('busybox', readFileSync(findProgram('busybox')!), 0o755));
    publishImage(w.registry, 'app', [program]);
    const {namespace, ref} = w;
    const create = (id: string) => namespace.containers.create(ref, id, {args: ['/busybox', 'true'], snapshotter: 'native'});
    const start = (id: string) => namespace.tasks.start(id, {stdio: ['ignore', 'ignore', 'ignore']});
    await namespace.pull(ref, {snapshotter: 'native'});
    await create('unsigned');
    const second = publishImage(w.registry, 'app', [program, LAYER]);
    publishSimple(w.registry, 'app', second, SIGNER);
    await demand(w, SIGNER);
    await namespace.pull(ref, {snapshotter: 'native'});
    await create('signed');
    await assert.rejects(start('unsigned'), (err: Error) => refused(err) && /has no signature/.test(err.message));
    assert.equal((await start('signed')).exitStatus, 0);
    await namespace.images.tag(ref, 'other');
    await namespace.images.delete(ref);
    assert.equal((await start('signed')).exitStatus, 0);
    await namespace.images.delete('other');
    await assert.rejects(start('signed'), refused);
  });

  it('has no unsigned image by a commit of a container that was there before', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'busybox')) return;
    const w = await world(t);
    const image = publishImage(w.registry, 'app', [tar(file('busybox', readFileSync(findProgram('busybox')!), 0o755))]);
    await w.namespace.pull(w.ref, {snapshotter: 'native'});
    await w.namespace.containers.create(w.ref, 'c1', {args: ['/busybox'], snapshotter: 'native'});
    publishSimple(w.registry, 'app', image, SIGNER);
    await demand(w, SIGNER);
    await w.namespace.pull(w.ref, PULL);
    const [records, content] = [await w.namespace.images.records(), await w.namespace.content.list()];
    await assert.rejects(w.namespace.containers.commit('c1', 'made'), refused);
    assert.deepEqual([await w.namespace.images.records(), await w.namespace.content.list()], [records, content]);
    assert.deepEqual(checkStore(w.client.root), []);
    await w.client.namespaces.label('default', {'berth/require-signature': 'false'});
    await w.namespace.containers.commit('c1', 'made');
  });

  it('makes and starts no container of a directory', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'runc', 'busybox')) return;
    const w = await world(t);
    const root = temporaryDirectory(t);
    copyFileSync(findProgram('busybox')!, join(root, 'busybox'));
    const create = (id: string) => w.namespace.containers.create(root, id, {rootfs: true, args: ['/busybox', 'true']});
    await create('before');
    await demand(w, SIGNER);
    await assert.rejects(create('after'), refused);
    await assert.rejects(w.namespace.tasks.start('before', {stdio: ['ignore', 'ignore', 'ignore']}), refused);
    assert.deepEqual(
      (await w.namespace.containers.list()).map(({id}) => id),
      ['before'],
    );
  });

  it('refuses what was being made when it began to demand them', async (t) => {
    const w = await world(t);
    // While the layers arrive, the policy comes.
    w.registry.fault({path: /blobs\//, delayMs: 300, times: 1});
    const pulling = w.namespace.pull(w.ref, PULL);
    const ended = assert.rejects(pulling, (err) => hasCode(err, 'aborted'));
    while (w.registry.count('GET', /blobs/) === 0) await new Promise((resolve) => setTimeout(resolve, 2));
    await demand(w, SIGNER);
    await ended;
    assert.deepEqual(await w.namespace.images.records(), []);
  });
});

describe('images verify', () => {
  it('asks the registry where the store has no signature, and says when it cannot', async (t) => {
    const w = await world(t);
    publishSimple(w.registry, 'app', w.image, SIGNER);
    await w.namespace.pull(w.ref, PULL);
    const keys = [SIGNER.publicPEM];
    assert.equal((await w.namespace.images.verify(w.ref, {keys})).signatures.length, 1);
    await assert.rejects(w.namespace.images.verify(w.ref), is('invalid_argument'));
    await w.registry.close();
    await assert.rejects(w.namespace.images.verify(w.ref, {keys}), (err: Error) => refused(err) && /cannot be verified/.test(err.message));
  });
});

describe('attach of a signature', () => {
  it('keeps all that are attached at once, and refuses what does not sign the image', async (t) => {
    const w = await world(t);
    const dir = temporaryDirectory(t);
    const path = join(dir, 'payload');
    const payload = Buffer.from(JSON.stringify(payloadFor(w.image.digest, `${w.registry.host}/app`)));
    writeFileSync(path, payload);
    const signers = [newSigner(), newSigner('Ed25519'), newSigner('P-384')];
    const attach = (signature: string, type = SIMPLE_SIGNING, files = [{path}]): Promise<unknown> =>
      w.client.registry.attach(w.ref, type, files, {signature});
    const other = openClient({root: temporaryDirectory(t), state: temporaryDirectory(t)});
    await Promise.all([
      ...signers.slice(1).map((signer) => attach(signer.sign(payload).toString('base64'))),
      other.registry.attach(w.ref, SIMPLE_SIGNING, [{path}], {signature: signers[0]!.sign(payload).toString('base64')}),
    ]);
    await other.close();
    for (const [i, {publicPEM}] of signers.entries()) await w.client.namespace(`n${i}`).pull(w.ref, {...PULL, verifyKeys: [publicPEM]});
    const right = SIGNER.sign(payload).toString('base64');
    for (const wrong of ['', 'x', `${right}\n`, right.slice(1)]) await assert.rejects(attach(wrong), is('invalid_argument'), wrong);
    await assert.rejects(attach(right, 'application/json'), is('invalid_argument'));
    await assert.rejects(attach(right, SIMPLE_SIGNING, []), is('invalid_argument'));
    for (const text of ['', '{', 'null', '[]', JSON.stringify(payloadFor(digestOf(IMAGE), 'app'))]) {
      writeFileSync(path, text);
      await assert.rejects(attach(right), is('invalid_argument'), text);
    }
    rmSync(path);
    await assert.rejects(attach(right), is('not_found'));
    w.registry.addIndex('app', `${w.image.digest.replace(':', '-')}.sig`, []);
    writeFileSync(path, payload);
    await assert.rejects(attach(right), is('failed_precondition'));
  });
});

const registry = sharedRegistry();

describe('skopeo', () => {
  it('signs what we verify, and verifies what we sign in tests', async (t) => {
    if (!requiresProgram(t, 'skopeo')) return;
    const real = await registry(t);
    if (real === undefined) return;
    const work = temporaryDirectory(t);
    const layout = join(work, 'layout');
    const image = setTarget(layout, addImage(layout, {layers: [LAYER]}));
    await pushImage(real, 'app:latest', layout);
    const skopeo = (...args: readonly string[]): {status: number | null; stderr: string} =>
      spawnSync('skopeo', ['--registries.d', join(work, 'registries.d'), '--tmpdir', work, ...args], {
        encoding: 'utf8',
        env: {PATH: process.env.PATH, HOME: work},
      });
    const done = (result: {status: number | null; stderr: string}): void => assert.equal(result.status, 0, result.stderr);
    mkdirSync(join(work, 'registries.d'));
    writeFileSync(join(work, 'registries.d/default.yaml'), 'default-docker:\n  use-sigstore-attachments: true\n');
    writeFileSync(join(work, 'passphrase'), 'secret\n');
    done(skopeo('generate-sigstore-key', '--output-prefix', join(work, 'key'), '--passphrase-file', join(work, 'passphrase')));
    const source = `oci:${layout}:latest`;
    const sign = ['--sign-by-sigstore-private-key', join(work, 'key.private'), '--sign-passphrase-file', join(work, 'passphrase')];
    done(skopeo('--insecure-policy', 'copy', '--dest-tls-verify=false', ...sign, source, `docker://${real.host}/signed:1`));
    const client = await newClient(t);
    const namespace = client.namespace('default');
    const key = readFileSync(join(work, 'key.pub'), 'utf8');
    await namespace.pull(`${real.host}/signed:1`, {...PULL, verifyKeys: [key]});
    await assert.rejects(namespace.pull(`${real.host}/signed:1`, {...PULL, verifyKeys: [SIGNER.publicPEM]}), refused);

    // A signature that we have put beside the image is found by the same tag, with keys of every kind that skopeo knows.
    const {registry: registries} = client;
    for (const [i, kind] of ['P-256', 'P-384 with SHA-256', 'RSA', 'Ed25519'].entries()) {
      const signer = newSigner(kind);
      const payload = Buffer.from(JSON.stringify(payloadFor(image.digest, `${real.host}/app:latest`)));
      writeFileSync(join(work, 'payload'), payload);
      const signature = signer.sign(payload).toString('base64');
      const attached = (): Promise<Descriptor> =>
        registries.attach(`${real.host}/app:latest`, SIMPLE_SIGNING, [{path: join(work, 'payload')}], {signature});
      // Those of before stay, and the same one again changes nothing.
      assert.deepEqual(await attached(), await attached());
      // And a copy of both, by us.
      await registries.copy(`${real.host}/app:latest`, `${real.host}/copied${i}:latest`, {referrers: true});
      for (const [pem, status] of [
        [signer.publicPEM, 0],
        [newSigner(kind).publicPEM, 1],
      ] as const)
        for (const repository of ['app', `copied${i}`]) {
          writeFileSync(join(work, 'pub.pem'), pem);
          const signedIdentity = {type: 'exactRepository', dockerRepository: `${real.host}/app`};
          const requirement = {type: 'sigstoreSigned', keyPath: join(work, 'pub.pem'), signedIdentity};
          writeFileSync(join(work, 'policy.json'), JSON.stringify({default: [requirement]}));
          const from = `docker://${real.host}/${repository}:latest`;
          const result = skopeo(
            '--policy',
            join(work, 'policy.json'),
            'copy',
            '--src-tls-verify=false',
            from,
            `dir:${mkdtempSync(join(work, 'out'))}`,
          );
          assert.equal(result.status, status, `${kind}, ${repository}: ${result.stderr}`);
          if (repository !== 'app') continue;
          if (findProgram('cosign') !== undefined && kind !== 'P-384 with SHA-256') {
            const verify: readonly string[] = [
              'verify',
              '--key',
              join(work, 'pub.pem'),
              '--insecure-ignore-tlog=true',
              '--allow-http-registry',
              `${real.host}/app:latest`,
            ];
            const {status: verdict, stderr}: {status: number | null; stderr: string} = spawnSync('cosign', verify, {
              encoding: 'utf8',
              env: {PATH: process.env.PATH, HOME: work},
            });
            assert.equal(verdict === 0, status === 0, `${kind}: ${stderr}`);
          }
          const pull = client.namespace(`keys-${i}-${status}`).pull(`${real.host}/app:latest`, {...PULL, verifyKeys: [pem]});
          await (status === 0 ? pull : assert.rejects(pull, refused));
        }
    }
  });
});

describe('cosign', () => {
  interface Cosign {
    readonly work: string;
    readonly host: string;
    readonly image: Descriptor;
    /** @returns whether it succeeded, and what it printed */
    run(...args: readonly string[]): Promise<{readonly ok: boolean; readonly output: string}>;
    /** Makes a key pair. */
    key(prefix: string): Promise<{readonly secret: string; readonly pem: string; readonly path: string}>;
  }
  const SIGN_TYPE = 'https://sigstore.dev/cosign/sign/v1';
  const UNLOGGED = ['--tlog-upload=false', '--allow-http-registry', '--yes'];
  const LOOSE = ['another media type', 'another size'];
  const UNCHECKED = ['--insecure-ignore-tlog=true', '--allow-http-registry'];

  async function cosign(t: TestContext, ...repositories: readonly string[]): Promise<Cosign | undefined> {
    if (!requiresProgram(t, 'cosign')) return undefined;
    const real = await registry(t);
    if (real === undefined) return undefined;
    const work = temporaryDirectory(t);
    const layout = join(work, 'layout');
    const image = setTarget(layout, addImage(layout, {layers: [LAYER]}));
    await Promise.all(repositories.map((name) => pushImage(real, `${name}:latest`, layout)));
    const run: Cosign['run'] = (...args) =>
      new Promise((resolve) => {
        const env = {PATH: process.env.PATH, HOME: work, COSIGN_PASSWORD: 'secret'};
        execFile('cosign', args, {cwd: work, env}, (err, stdout, stderr) => resolve({ok: err === null, output: stdout + stderr}));
      });
    const key: Cosign['key'] = async (prefix) => {
      const {ok, output} = await run('generate-key-pair', '--output-key-prefix', prefix);
      assert.ok(ok, output);
      const path = join(work, `${prefix}.pub`);
      return {secret: `${prefix}.key`, pem: readFileSync(path, 'utf8'), path};
    };
    return {work, host: real.host, image, run, key};
  }

  const done = ({ok, output}: Awaited<ReturnType<Cosign['run']>>): void => assert.ok(ok, output);

  it('signs what we verify, in each form', async (t) => {
    const c = await cosign(t, 'team/simple', 'team/bundle', 'team/blob');
    if (c === undefined) return;
    const {secret, pem} = await c.key('own');
    const [simple, bundled, blob] = ['simple', 'bundle', 'blob'].map((name) => `${c.host}/team/${name}`) as [string, string, string];
    const {namespace, registry: registries} = await newClient(t);
    done(await c.run('sign', '--key', secret, ...UNLOGGED, `${simple}@${c.image.digest}`));
    writeFileSync(join(c.work, 'predicate'), '{}');
    const attestation = ['--new-bundle-format', '--type', SIGN_TYPE, '--predicate', 'predicate'];
    done(await c.run('attest', '--key', secret, ...attestation, ...UNLOGGED, `${bundled}@${c.image.digest}`));
    // Of the manifest's bytes, attached by us.
    const {bytes} = await registries.fetchObject(`${blob}:latest`);
    writeFileSync(join(c.work, 'manifest'), bytes);
    done(
      await c.run('sign-blob', '--key', secret, '--new-bundle-format', '--bundle', 'bundle', '--tlog-upload=false', '--yes', 'manifest'),
    );
    await registries.attach(`${blob}:latest`, BUNDLE, [{path: join(c.work, 'bundle'), mediaType: BUNDLE}]);
    for (const [i, repository] of [simple, blob].entries()) {
      await namespace(`right${i}`).pull(`${repository}:latest`, {...PULL, verifyKeys: [pem]});
      await assert.rejects(namespace(`wrong${i}`).pull(`${repository}:latest`, {...PULL, verifyKeys: [SIGNER.publicPEM]}), refused);
    }
    // It is found, under the type that cosign lists it with, and read: a statement v0.1 is no signature of an image.
    const found = namespace('bundled').pull(`${bundled}:latest`, {...PULL, verifyKeys: [pem]});
    await assert.rejects(found, (err: Error) => refused(err) && /the statement is of another type/.test(err.message));
  });

  it('signs with an imported key what we verify', async (t) => {
    const c = await cosign(t, 'team/ed25519');
    if (c === undefined) return;
    const {publicKey, privateKey} = generateKeyPairSync('ed25519');
    writeFileSync(join(c.work, 'ed25519.pem'), privateKey.export({format: 'pem', type: 'pkcs8'}));
    done(await c.run('import-key-pair', '--key', 'ed25519.pem', '--output-key-prefix', 'imported'));
    const ref = `${c.host}/team/ed25519`;
    done(await c.run('sign', '--key', 'imported.key', ...UNLOGGED, `${ref}@${c.image.digest}`));
    const {namespace} = await newClient(t);
    const pem = publicKey.export({format: 'pem', type: 'spki'}) as string;
    await namespace('right').pull(`${ref}:latest`, {...PULL, verifyKeys: [pem]});
    await assert.rejects(namespace('wrong').pull(`${ref}:latest`, {...PULL, verifyKeys: [newSigner('Ed25519').publicPEM]}), refused);
  });

  it('counts no bundle less than we do', async (t) => {
    const c = await cosign(t);
    if (c === undefined) return;
    const {secret, pem, path} = await c.key('own');
    writeFileSync(join(c.work, 'manifest'), IMAGE);
    done(
      await c.run('sign-blob', '--key', secret, '--new-bundle-format', '--bundle', 'bundle', '--tlog-upload=false', '--yes', 'manifest'),
    );
    const good = JSON.parse(readFileSync(join(c.work, 'bundle'), 'utf8')) as object;
    // Without one it asks the internet.
    writeFileSync(join(c.work, 'root'), '{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}');
    const key = parseKey(pem);
    const verdicts = async (value: object): Promise<readonly [ours: boolean, theirs: boolean]> => {
      writeFileSync(join(c.work, 'damaged'), JSON.stringify(value));
      const args = ['--key', path, '--bundle', 'damaged', '--new-bundle-format', '--insecure-ignore-tlog=true'];
      return [
        verifyEvidence(SIGNED, [bundle(value)], [key]).verified !== undefined,
        (await c.run('verify-blob', ...args, '--trusted-root', 'root', 'manifest')).ok,
      ];
    };
    assert.deepEqual(await verdicts(good), [true, true]);
    const cases = [...[...variants(good)].map((value, i) => [`variant ${i}`, value] as const), ...damagedBytes(good)];
    for (const [what, value] of TORTURE ? cases : sample(cases, 8, SAMPLE)) {
      const [ours, theirs] = await verdicts(value);
      if (ours && !isOnlyMore(good, value)) assert.ok(theirs, `${what}: ${JSON.stringify(value)}`);
    }
  });

  it('refuses a damaged signature as we do, whatever the damage', async (t) => {
    const c = await cosign(t, 'team/damaged');
    if (c === undefined) return;
    const {secret, pem, path} = await c.key('own');
    const other = await c.key('other');
    const {namespace, registry: registries} = await newClient(t);
    const origin = `${c.host}/team/damaged`;
    // Where a damaged one can be put.
    const fake = await startFakeRegistry(t);
    const repository = `${fake.host}/team/simple`;
    done(await c.run('sign', '--key', secret, '--sign-container-identity', repository, ...UNLOGGED, `${origin}@${c.image.digest}`));
    await registries.copy(`${origin}:latest`, `${repository}:latest`, {referrers: true});
    const tag = `${c.image.digest.replace(':', '-')}.sig`;
    const manifest = JSON.parse(fake.manifestIn('team/simple', tag)!.toString()) as {layers: [Descriptor]};
    const [layer] = manifest.layers;
    const payload = fake.blobIn('team/simple', layer.digest)!;
    const name = 'dev.cosignproject.cosign/signature';
    const signature = Buffer.from(layer.annotations![name]!, 'base64');
    const publish = (bytes: Buffer, signed: string | undefined, over: object = {}): void => {
      const {[name]: _, ...annotations} = layer.annotations!;
      const layers = [
        {
          ...layer,
          ...fake.addBlob(bytes, SIMPLE_SIGNING),
          annotations: signed === undefined ? annotations : {...annotations, [name]: signed},
          ...over,
        },
      ];
      fake.addManifest('team/simple', {...manifest, layers}, OCI_MANIFEST, tag);
    };
    const flipped = (bytes: Buffer, i: number): Buffer => Buffer.from(bytes.map((byte, at) => (at === i ? byte ^ 1 : byte)));
    const right = signature.toString('base64');
    const cases: readonly (readonly [what: string, publish: () => void, keyPath?: string, keyPEM?: string])[] = [
      ...[...variants(JSON.parse(payload.toString()) as object)].map(
        (value, i) => [`payload ${i}`, () => publish(Buffer.from(JSON.stringify(value)), right)] as const,
      ),
      ...Array.from(payload, (_, i) => [`byte ${i} of the payload`, () => publish(flipped(payload, i), right)] as const),
      ...Array.from(
        signature,
        (_, i) => [`byte ${i} of the signature`, () => publish(payload, flipped(signature, i).toString('base64'))] as const,
      ),
      ['no signature', () => publish(payload, undefined)],
      ['an empty signature', () => publish(payload, '')],
      ['another media type', () => publish(payload, right, {mediaType: 'application/json'})],
      ['another size', () => publish(payload, right, {size: payload.length + 1})],
      ['another digest', () => publish(payload, right, {digest: digestOf(Buffer.from('other'))})],
      ['another key', () => publish(payload, right), other.path, other.pem],
    ];
    const tried = TORTURE ? cases : [...sample(cases.slice(0, -6), 6, SAMPLE), ...cases.slice(-6)];
    const verdicts = async (i: number, keyPath = path, keyPEM = pem): Promise<readonly [ours: boolean, theirs: boolean]> => {
      const pulled = await namespace(`case${i}`)
        .pull(`${repository}:latest`, {...PULL, verifyKeys: [keyPEM]})
        .then(
          () => true,
          (err: unknown) => !refused(err),
        );
      return [pulled, (await c.run('verify', '--key', keyPath, ...UNCHECKED, `${repository}:latest`)).ok];
    };
    publish(payload, right);
    assert.deepEqual(await verdicts(0), [true, true]);
    for (const [i, [what, damage, keyPath, keyPEM]] of tried.entries()) {
      damage();
      const [ours, theirs] = await verdicts(i + 1, keyPath, keyPEM);
      assert.equal(ours, false, `${what}: ours`);
      // cosign does not look at these.
      if (!LOOSE.includes(what)) assert.equal(theirs, false, `${what}: theirs`);
    }
    publish(payload, right);
    assert.deepEqual(await verdicts(tried.length + 1), [true, true]);
  });
});
