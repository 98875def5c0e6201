/**
 * Published attacks by a registry or a manifest, by the command. Credentials must not reach other hosts, ambiguous documents must be
 * rejected, and the canary beside the store must not change. `registry-*.test.ts` have the details.
 */
import assert from 'node:assert/strict';
import {it, type TestContext} from 'node:test';
import {CLASSES, type Code, type ErrorJSON} from '../../src/lib/errdefs.ts';
import type {Descriptor} from '../../src/lib/oci/descriptor.ts';
import {MAX_MANIFEST_BYTES} from '../../src/lib/oci/manifest.ts';
import {DOCKER_FOREIGN_LAYER, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST} from '../../src/lib/oci/mediatypes.ts';
import type {Engine} from '../cli/harness.ts';
import {selfSigned} from '../fakes/certificate.ts';
import {digestOf, type FakeOptions, type FakeRegistry, startFakeRegistry} from '../fakes/registry.ts';
import {ARCHITECTURE} from '../support/layouts.ts';
import {file, tar} from '../support/tartest.ts';
import {type AttackSetup, describeOnEngines, setUpAttack} from './hostile-registry.ts';

const login = {username: 'victim', password: 'canary-password'};
const AS_VICTIM = {flags: ['--user', 'victim:canary-password', '--skip-verify']};
const BASIC = {auth: {kind: 'basic', login}} as const;

/** Sets up an attack on a user with credentials, and a second registry that must not receive them. */
async function open(
  t: TestContext,
  engine: Engine,
  options: FakeOptions = BASIC,
): Promise<(AttackSetup & {readonly attacker: FakeRegistry}) | undefined> {
  const attack = await setUpAttack(t, engine, options);
  return attack && {...attack, attacker: await startFakeRegistry(t)};
}

/** Asserts that no received header, form or URL has the password. */
function learntNothing({requests}: FakeRegistry): void {
  for (const {authorization, body, path} of requests) {
    assert.equal(authorization, undefined);
    for (const secret of [login.password, Buffer.from(`victim:${login.password}`).toString('base64')])
      assert.ok(!(body + path).includes(secret));
  }
}

const publish = ({registry}: AttackSetup, document: Buffer | object, mediaType: string): string => {
  registry.addManifest('image', document, mediaType, 'document');
  return `${registry.host}/image:document`;
};

const LAYER = tar(file('f', 'x'));

function manifest(attack: AttackSetup, layer: Partial<Descriptor> = {}): object {
  const config = attack.registry.addBlob(
    Buffer.from(JSON.stringify({architecture: ARCHITECTURE, os: 'linux', rootfs: {type: 'layers', diff_ids: [digestOf(LAYER)]}})),
    OCI_CONFIG,
  );
  return {schemaVersion: 2, mediaType: OCI_MANIFEST, config, layers: [{...attack.registry.addBlob(LAYER, OCI_LAYER), ...layer}]};
}

describeOnEngines('credentials stay with their registry', (engine) => {
  for (const challenge of ['Basic realm="x"', 'Bearer realm="ATTACKER/token",service="x"'])
    it(`CVE-2020-15157: the URL of a foreign layer asks with ${challenge.split(' ')[0]}`, async (t) => {
      const attack = await open(t, engine);
      if (attack === undefined) return;
      const {attacker} = attack;
      attacker.fault({status: 401, headers: {'www-authenticate': challenge.replace('ATTACKER', attacker.url)}});
      const layer = {mediaType: DOCKER_FOREIGN_LAYER, urls: [`${attacker.url}/v2/x/blobs/y`]};
      attack.registry.fault({path: new RegExp(digestOf(LAYER)), status: 404});
      const ref = publish(attack, manifest(attack, layer), OCI_MANIFEST);
      await attack.refused(ref, 'failed_precondition', AS_VICTIM);
      assert.deepEqual(attacker.requests, [], 'nothing asks there unless the user allows it');
      await attack.refused(ref, 'unauthenticated', {flags: [...AS_VICTIM.flags, '--allow-foreign']});
      assert.equal(attacker.requests.length, 1);
      learntNothing(attacker);
    });

  it('GHSA-vh4v: a blob redirects to the same host on another port', async (t) => {
    const attack = await open(t, engine);
    if (attack === undefined) return;
    attack.attacker.addBlob(LAYER);
    attack.registry.fault({path: new RegExp(digestOf(LAYER)), redirect: ({url}) => `${attack.attacker.url}${url}`});
    await attack.harmless(publish(attack, manifest(attack), OCI_MANIFEST), AS_VICTIM);
    assert.ok(attack.attacker.requests.length > 0);
    learntNothing(attack.attacker);
  });

  it('opa#6580, c/image#641: the target of a redirect asks for credentials', async (t) => {
    const attack = await open(t, engine);
    if (attack === undefined) return;
    attack.registry.fault({path: new RegExp(digestOf(LAYER)), redirect: ({url}) => `${attack.attacker.url}${url}`});
    attack.attacker.fault({status: 401, headers: {'www-authenticate': 'Basic realm="x"'}});
    await attack.refused(publish(attack, manifest(attack), OCI_MANIFEST), 'unauthenticated', AS_VICTIM);
    learntNothing(attack.attacker);
  });

  it('CVE-2019-10214: HTTPS fails, and plain HTTP would work', async (t) => {
    const attack = await open(t, engine);
    if (attack === undefined) return;
    const ref = attack.publish([[file('f')]]).replace('127.0.0.1', '0.0.0.0');
    await attack.refused(ref, 'failed_precondition', AS_VICTIM);
    assert.deepEqual(attack.registry.requests, []);
  });

  it('CVE-2026-48978: the token server of an HTTPS registry has plain HTTP', async (t) => {
    const attack = await open(t, engine, {...BASIC, tls: selfSigned('127.0.0.1')});
    if (attack === undefined) return;
    const {attacker, registry} = attack;
    registry.fault({status: 401, headers: {'www-authenticate': `Bearer realm="${attacker.url}/token",service="x"`}});
    await attack.refused(attack.publish([[file('f')]]), 'failed_precondition', AS_VICTIM);
    assert.deepEqual(attacker.requests, []);
  });

  for (const realm of ['https://169.254.169.254/latest/meta-data/', 'https://10.0.0.1/token'])
    it(`GHSA-28r5: the token server is ${realm}`, async (t) => {
      const attack = await open(t, engine);
      if (attack === undefined) return;
      attack.registry.fault({status: 401, headers: {'www-authenticate': `Bearer realm="${realm}",service="x"`}});
      const started = performance.now();
      await attack.refused(attack.publish([[file('f')]]), 'failed_precondition', AS_VICTIM);
      assert.ok(performance.now() - started < 15_000, 'nobody was asked');
    });

  it('CVE-2026-50151: a token server redirects the password elsewhere', async (t) => {
    const attack = await open(t, engine, {auth: {kind: 'token', login}});
    if (attack === undefined) return;
    attack.registry.fault({path: /^\/token/, redirect: `${attack.attacker.url}/token`, status: 308});
    const {status} = await attack.pull(attack.publish([[file('f')]]), AS_VICTIM);
    assert.notEqual(status, 0);
    learntNothing(attack.attacker);
  });
});

describeOnEngines('ambiguous and malformed documents are rejected', (engine) => {
  const refusals = async (
    t: TestContext,
    document: (attack: AttackSetup) => Buffer | object,
    mediaType: string,
    codes: readonly Code[],
  ): Promise<void> => {
    const attack = await setUpAttack(t, engine);
    if (attack === undefined) return;
    const {status, stderr} = await attack.pull(publish(attack, document(attack), mediaType));
    const {error} = JSON.parse(stderr) as {error: ErrorJSON};
    assert.ok(codes.includes(error.kind), stderr);
    assert.equal(status, CLASSES[error.kind].exit);
    await attack.assertUnharmed();
  };

  for (const mediaType of [OCI_INDEX, OCI_MANIFEST, 'application/json'])
    it(`CVE-2021-41190: both an index and a manifest, as ${mediaType}`, (t) =>
      refusals(t, (attack) => ({...manifest(attack), mediaType: undefined, manifests: []}), mediaType, ['invalid_argument']));

  it('CVE-2021-41190: the media type of a document differs from the Content-Type', (t) =>
    refusals(t, () => ({schemaVersion: 2, mediaType: OCI_INDEX, manifests: []}), OCI_MANIFEST, ['invalid_argument']));

  for (const digest of [
    'sha256:../../../../etc/passwd',
    'sha256:abc',
    `md5:${'0'.repeat(32)}`,
    `sha256:${'A'.repeat(64)}`,
    `sha256:${'0'.repeat(64)}/../x`,
  ])
    it(`CVE-2024-3727: a layer ${JSON.stringify(digest.slice(0, 40))}`, async (t) => {
      await refusals(t, (attack) => manifest(attack, {digest: digest as never}), OCI_MANIFEST, ['invalid_argument']);
      const attack = await setUpAttack(t, engine);
      if (attack === undefined) return;
      // A wrong digest in the header is harmless, because the body is hashed.
      attack.registry.fault({headers: {'docker-content-digest': digest}});
      await attack.harmless(publish(attack, manifest(attack), OCI_MANIFEST));
    });

  it('CVE-2024-3727: a Location with another digest', async (t) => {
    const attack = await setUpAttack(t, engine);
    if (attack === undefined) return;
    const other = attack.registry.addBlob(tar(file('f', 'other')));
    attack.registry.fault({path: new RegExp(digestOf(LAYER)), redirect: `/v2/image/blobs/${other.digest}`});
    await attack.refused(publish(attack, manifest(attack), OCI_MANIFEST), 'failed_precondition');
  });

  const deep = (opening: string, closing: string): Buffer => Buffer.from(opening.repeat(100_000) + closing.repeat(100_000));
  for (const [name, bytes] of [
    ['nothing', ''],
    ['null', 'null'],
    ['a list', '[]'],
    ['half of a document', '{"schemaVersion":2,"layers":['],
    ['nulls', '{"schemaVersion":null,"mediaType":null,"config":null,"layers":[null],"manifests":[null]}'],
    ['deep lists', deep('[', ']')],
    ['deep objects', Buffer.concat([deep('{"a":', ''), Buffer.from('1'), deep('', '}')])],
    ['a prototype', '{"__proto__":{"mediaType":"x","layers":[]},"constructor":{"prototype":{"manifests":[]}}}'],
    ['keys twice', '{"schemaVersion":2,"layers":[],"layers":[],"config":{}}'],
  ] as const)
    it(`CVE-2021-21285: ${name} for a manifest`, (t) =>
      refusals(t, () => Buffer.from(bytes as string), OCI_MANIFEST, ['invalid_argument', 'failed_precondition']));

  it('CVE-2023-25153: an endless manifest', async (t) => {
    const attack = await setUpAttack(t, engine);
    if (attack === undefined) return;
    attack.registry.fault({method: 'HEAD', status: 405});
    attack.registry.fault({method: 'GET', chunked: true, body: () => Buffer.alloc(64 << 20, ' '), trickle: {bytes: 1 << 20, everyMs: 2}});
    await attack.refused(attack.publish([[file('f')]]), 'failed_precondition');
    assert.ok(attack.registry.bytesSent() < 8 * MAX_MANIFEST_BYTES);
  });

  it('GHSA-f36w: a layer of nearly a tebibyte', async (t) => {
    const attack = await setUpAttack(t, engine);
    if (attack === undefined) return;
    await attack.refused(publish(attack, manifest(attack, {size: 2 ** 40 - 1}), OCI_MANIFEST), 'resource_exhausted');
    await attack.refused(publish(attack, manifest(attack, {size: 2 ** 40}), OCI_MANIFEST), 'invalid_argument');
  });

  for (const size of [LAYER.length - 1, LAYER.length + 1])
    it(`a layer with the right digest and the size ${size}`, async (t) => {
      const attack = await setUpAttack(t, engine);
      if (attack === undefined) return;
      const ref = publish(attack, manifest(attack, {size}), OCI_MANIFEST);
      const {status} = await attack.pull(ref);
      assert.notEqual(status, 0);
      await attack.assertUnharmed();
      // The blob stays valid in the store.
      await attack.harmless(attack.publish([LAYER]));
      const error = await attack.refused(publish(attack, manifest(attack, {size}), OCI_MANIFEST), 'failed_precondition');
      assert.match(error.message, /has \d+ B, but the descriptor says \d+ B/);
      assert.doesNotMatch(error.hint ?? '', /remove the file/);
    });

  it('an index with contradicting descriptors of one digest breaks no listing', async (t) => {
    const attack = await setUpAttack(t, engine);
    if (attack === undefined) return;
    const chosen = attack.registry.addManifest('image', manifest(attack), OCI_MANIFEST);
    const platform = {os: 'linux', architecture: ARCHITECTURE};
    const other = {os: 'plan9', architecture: 'mips'};
    const layer = attack.registry.addBlob(LAYER, OCI_LAYER);
    const large = {...attack.registry.addBlob(tar(file('f', Buffer.alloc(9 << 20, 1))), OCI_LAYER), size: 5};
    await attack.harmless(attack.publish([tar(file('f', Buffer.alloc(9 << 20, 1)))]));
    const wrong = [layer, large, {...chosen, mediaType: OCI_INDEX}, {...chosen, size: 7}].map((desc) => ({
      ...desc,
      mediaType: desc.mediaType === OCI_INDEX ? OCI_INDEX : OCI_MANIFEST,
      platform: other,
    }));
    attack.registry.addIndex('image', 'wrong', [...wrong, {...chosen, platform}]);
    const ref = `${attack.registry.host}/image:wrong`;
    await attack.harmless(ref);
    for (const args of [
      ['images', 'ls'],
      ['images', 'check'],
      ['images', 'inspect', '--content', ref],
      ['df'],
      ['prune', '--dry-run'],
      ['check', '--deep', '--progress', 'none'],
    ])
      await attack.ctr.ok(args);
    await attack
      .refused(ref, 'failed_precondition', {flags: ['--platform', 'plan9/mips']})
      .catch(() => attack.refused(ref, 'invalid_argument', {flags: ['--platform', 'plan9/mips']}));
  });

  it("a registry's messages are escaped for the terminal", async (t) => {
    const attack = await setUpAttack(t, engine);
    if (attack === undefined) return;
    const evil = '\u001b]0;owned\u0007\u001b[2J\u009b31m\r\nctr: all is well';
    attack.registry.fault({status: 403, code: evil, message: evil});
    const {stderr} = await attack.ctr(['pull', '--progress', 'none', attack.publish([[file('f')]])]);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
    assert.doesNotMatch(stderr, /[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/);
    assert.doesNotMatch(stderr, /^ctr: all is well/m);
  });
});

describeOnEngines('unverifiable content is rejected', (engine) => {
  for (const status of [429, 503])
    it(`GHSA-2v5f: ${status} to the request that verifies`, async (t) => {
      const attack = await setUpAttack(t, engine);
      if (attack === undefined) return;
      attack.registry.fault({method: 'HEAD', headers: {'docker-content-digest': null}});
      attack.registry.fault({method: 'GET', status, headers: {'retry-after': '3600'}});
      await attack.refused(attack.publish([[file('f')]]), status === 429 ? 'resource_exhausted' : 'unavailable');
    });

  it('kitops#290: a truncated layer is rejected', async (t) => {
    const attack = await setUpAttack(t, engine);
    if (attack === undefined) return;
    attack.registry.fault({path: /blobs/, chunked: true, ignoreRange: true, body: (right) => right.subarray(0, right.length - 1)});
    const {status} = await attack.pull(attack.publish([[file('f', 'x'.repeat(5000))]]), {flags: ['--timeout', '20s']});
    assert.ok(status === 14 || status === 9, String(status));
    await attack.assertUnharmed();
  });
});
