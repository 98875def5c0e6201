/**
 * Mirrors that fail, generated: faults × the requests that they befall, at one mirror or at two, in front of a sound registry. The pull
 * succeeds with the right bytes; a mirror that fails is asked a bounded number of times, however many blobs there are; and a byte is fetched
 * again only where it came wrong.
 *
 * By default a sample, with `BERTH_TEST_TORTURE=1` all of one mirror, and a larger one of two.
 */
import assert from 'node:assert/strict';
import {randomBytes} from 'node:crypto';
import {mkdirSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {selfSigned} from '../../fakes/certificate.ts';
import {digestOf, type FakeImage, type FakeRegistry, type Fault, startFakeRegistry} from '../../fakes/registry.ts';
import {newClient, SAMPLE, TORTURE, temporaryDirectory} from '../../support/helpers.ts';
import {checkStore} from '../../support/invariants.ts';
import {ARCHITECTURE} from '../../support/layouts.ts';

const LAYERS = 10;
const SIZE = 30_000;
const MIDDLE = 10_000;
const STALL_MS = 400;
/** Most requests at a mirror that fails: two attempts of each of three downloads at once, and those for documents before. */
const MOST_REQUESTS = 12;

const flip =
  (at: (length: number) => number) =>
  (right: Buffer): Buffer => {
    const bytes = Buffer.from(right);
    const i = Math.min(Math.max(at(bytes.length), 0), bytes.length - 1);
    if (bytes.length > 0) bytes[i]! ^= 1;
    return bytes;
  };

interface Kind {
  readonly fault: Fault;
  /** Fails for one object at a time: the others are asked for as well. */
  readonly ofObject?: boolean;
  /** Sends bytes that are not the blob's. */
  readonly isWrong?: boolean;
}

const KINDS: Readonly<Record<string, Kind>> = {
  'another first byte': {fault: {body: flip(() => 0)}, isWrong: true},
  'another last byte': {fault: {body: flip((length) => length - 1)}, isWrong: true},
  'a wrong beginning, then a cut': {fault: {body: flip(() => 0), truncateAt: MIDDLE}, isWrong: true},
  cut: {fault: {truncateAt: MIDDLE}},
  'cut at once': {fault: {truncateAt: 0}},
  stalled: {fault: {stallAt: MIDDLE}},
  silent: {fault: {stallAt: -1}},
  reset: {fault: {resetAt: -1}},
  '401': {fault: {status: 401}},
  '403': {fault: {status: 403, code: 'DENIED'}},
  '404': {fault: {status: 404, code: 'BLOB_UNKNOWN'}, ofObject: true},
  '429': {fault: {status: 429, headers: {'retry-after': '30'}}},
  '500': {fault: {status: 500}},
  longer: {fault: {body: (right) => Buffer.concat([right, right]), headers: {'content-length': null}, chunked: true}, isWrong: true},
  'a page': {fault: {headers: {'content-type': 'text/html', 'content-length': '5'}, body: () => Buffer.from('hello')}, isWrong: true},
  'another encoding': {fault: {headers: {'content-encoding': 'br'}}, isWrong: true},
};

const PHASES: Readonly<Record<string, Fault>> = {
  everything: {},
  HEAD: {method: 'HEAD'},
  'the manifest': {method: 'GET', path: /manifests/},
  'all blobs': {path: /blobs/},
  'one blob': {path: /blobs/, times: 1},
};

/** What a mirror says of a tag that its bytes do not keep. */
const LIES: Readonly<Record<string, Fault>> = {
  'a digest that nobody has': {method: 'HEAD', headers: {'docker-content-digest': digestOf(Buffer.from('nobody'))}},
  'another size': {method: 'HEAD', headers: {'content-length': '77'}},
};

interface Mirror {
  readonly name: string;
  readonly kind?: Kind;
  readonly start: (t: TestContext) => Promise<{readonly registry?: FakeRegistry; readonly url: string}>;
}

const content = Array.from({length: LAYERS}, () => randomBytes(SIZE));
/** @param layers of the image; these are all that a mirror has */
function add(registry: FakeRegistry, layers: readonly Buffer[] = content): FakeImage {
  const rootfs = {type: 'layers', diff_ids: layers.map((bytes) => digestOf(bytes))};
  return registry.addImage('team/app', 'v1', layers, {architecture: ARCHITECTURE, os: 'linux', rootfs});
}

const failing = (name: string, fault: Fault, kind?: Kind): Mirror => ({
  name,
  ...(kind === undefined ? {} : {kind}),
  start: async (t) => {
    const registry = await startFakeRegistry(t);
    add(registry);
    registry.fault(fault);
    return {registry, url: registry.url};
  },
});

const MIRRORS: readonly Mirror[] = [
  ...Object.entries(KINDS).flatMap(([kindName, kind]) =>
    Object.entries(PHASES).map(([phase, where]) => failing(`${kindName} at ${phase}`, {...kind.fault, ...where}, kind)),
  ),
  ...Object.entries(LIES).map(([name, fault]) => failing(name, fault)),
  {
    name: 'nobody there',
    start: async (t) => {
      const registry = await startFakeRegistry(t);
      const {url} = registry;
      await registry.close();
      return {url};
    },
  },
  {
    name: 'an unknown certificate',
    start: async (t) => {
      const registry = await startFakeRegistry(t, {tls: selfSigned('127.0.0.1')});
      return {registry, url: registry.url};
    },
  },
];

/** One mirror, and two of them. */
const CASES: readonly (readonly Mirror[])[] = [
  ...MIRRORS.map((mirror) => [mirror]),
  ...MIRRORS.flatMap((first) => MIRRORS.map((second) => [first, second])),
];

const nameOf = (mirrors: readonly Mirror[]): string => mirrors.map(({name}) => name).join(', then ');

/** Tried always: they failed once. */
const ALWAYS: readonly string[] = ['another size, then 429 at everything'];

/** Of one mirror and of two, every n-th is tried; in torture all of one, and of two others every day. */
const [ONE, TWO] = TORTURE ? [1, 17] : [17, 1501];
const isTried = (mirrors: readonly Mirror[], i: number): boolean =>
  (i + SAMPLE) % (mirrors.length === 1 ? ONE : TWO) === 0 || ALWAYS.includes(nameOf(mirrors));

async function tryPull(t: TestContext, mirrors: readonly Mirror[]): Promise<void> {
  const registry = await startFakeRegistry(t);
  const image = add(registry);
  const started = await Promise.all(mirrors.map(({start}) => start(t)));
  const dir = temporaryDirectory(t);
  mkdirSync(join(dir, registry.host));
  writeFileSync(join(dir, registry.host, 'hosts.toml'), started.map(({url}) => `[host."${url}"]\n`).join(''));
  const client = await newClient(t);
  const ns = client.namespace('default');
  const isSilent = mirrors.some(({kind}) => kind?.fault.stallAt !== undefined);
  const stallTimeoutMs = isSilent ? STALL_MS : 60_000;
  const {image: pulled} = await ns.pull(`${registry.host}/team/app:v1`, {unpack: false, hostsDir: dir, stallTimeoutMs});
  assert.equal(pulled.target.digest, image.manifest.digest);
  for (const [i, {digest}] of image.layers.entries()) {
    const chunks: Uint8Array[] = [];
    for await (const chunk of await ns.content.open(digest)) chunks.push(chunk);
    assert.ok(Buffer.concat(chunks).equals(content[i]!), `layer ${i}`);
  }
  assert.deepEqual(checkStore(client.root), []);

  for (const [i, {registry: mirror}] of started.entries()) {
    const isBounded = mirrors[i]!.kind?.ofObject !== true && mirror !== undefined && mirror.faulted > 1;
    if (isBounded)
      assert.ok(
        mirror.faulted <= MOST_REQUESTS,
        `${mirrors[i]!.name}: ${mirror.faulted} requests failed:\n${mirror.requests.map(({method, path, status}) => `${method} ${path} ${status}`).join('\n')}`,
      );
  }
  // On a busy machine a sound connection may stall, too.
  if (isSilent) return;
  const wrong = mirrors.filter(({kind}) => kind?.isWrong === true).length;
  for (const {digest} of image.layers) {
    const all = [registry, ...started.flatMap(({registry: mirror}) => mirror ?? [])];
    const bytes = all.reduce((sum, one) => sum + one.bytesSent(new RegExp(`/blobs/${digest}`)), 0);
    // A fault may double a body; error bodies are a few bytes.
    assert.ok(bytes <= SIZE * (1 + 2 * wrong) + 2000, `${digest}: ${bytes} B for ${SIZE} B`);
    assert.ok(registry.bytesSent(new RegExp(`/blobs/${digest}`)) <= SIZE, 'no byte comes twice from the registry');
  }
}

describe('mirrors that fail', () => {
  for (const [i, mirrors] of CASES.entries())
    if (isTried(mirrors, i)) it(`are passed over: ${nameOf(mirrors)}`, (t) => tryPull(t, mirrors));

  it('are passed over for a blob only, where they had a part in it and others another', async (t) => {
    const registry = await startFakeRegistry(t);
    const [first, second] = [await startFakeRegistry(t), await startFakeRegistry(t)];
    const image = add(registry, content.slice(0, 1));
    for (const mirror of [first, second]) add(mirror, content.slice(0, 1));
    // Nobody can tell which of both was wrong.
    first.fault({path: new RegExp(image.layers[0]!.digest), truncateAt: MIDDLE, body: flip(() => 0)});
    const dir = temporaryDirectory(t);
    mkdirSync(join(dir, registry.host));
    writeFileSync(join(dir, registry.host, 'hosts.toml'), `[host."${first.url}"]\n[host."${second.url}"]\n`);
    const ns = (await newClient(t)).namespace('default');
    await ns.pull(`${registry.host}/team/app:v1`, {unpack: false, hostsDir: dir});
    assert.deepEqual(
      registry.requests.map(({path, range}) => [path.includes('/blobs/'), range]),
      [[true, undefined]],
      'the registry sends the blob from its first byte',
    );
    assert.equal(second.requests.filter(({range}) => range !== undefined).length, 1);
  });

  it('are asked again when no other host is left', async (t) => {
    const registry = await startFakeRegistry(t);
    const mirror = await startFakeRegistry(t);
    const image = add(mirror, content.slice(0, 1));
    add(registry, content.slice(0, 1));
    // Once: it is set aside, and well again.
    mirror.fault({method: 'HEAD', status: 503, times: 1});
    registry.fault({method: 'GET', path: /blobs/, status: 429, headers: {'retry-after': '3600'}});
    const dir = temporaryDirectory(t);
    mkdirSync(join(dir, registry.host));
    writeFileSync(join(dir, registry.host, 'hosts.toml'), `[host."${mirror.url}"]\n`);
    const ns = (await newClient(t)).namespace('default');
    await ns.pull(`${registry.host}/team/app:v1`, {unpack: false, hostsDir: dir});
    assert.equal(mirror.count('GET', new RegExp(image.layers[0]!.digest)), 1);
  });
});
