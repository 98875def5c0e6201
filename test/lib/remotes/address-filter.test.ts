/**
 * Addresses that no registry may lead us to: every spelling of them by every way there, against a network that leads nowhere. Which
 * addresses those are is checked against node's own block list.
 */
import assert from 'node:assert/strict';
import {randomBytes} from 'node:crypto';
import {BlockList} from 'node:net';
import {describe, it, type TestContext} from 'node:test';
import {DOCKER_FOREIGN_LAYER} from '../../../src/lib/oci/mediatypes.ts';
import {canonicalAddress, isLinkLocal} from '../../../src/lib/remotes/address-filter.ts';
import {type HostSource, openRemote} from '../../../src/lib/remotes/index.ts';
import {type FakeNetwork, fakeNetwork} from '../../fakes/fake-addresses.ts';
import {type FakeRegistry, startFakeRegistry} from '../../fakes/registry.ts';
import {randomNumbers} from '../../fuzz/seeded-random.ts';
import {streamed} from '../../suites/resolver.ts';
import {is, onEnd, SAMPLE, TORTURE} from '../../support/helpers.ts';

/** The same numbers for the same seed, from 0 to below `n`. */
function dice(seed: number): (n: number) => number {
  const next = randomNumbers(seed);
  return (n) => Math.floor(next() * n);
}

describe('link-local addresses', () => {
  const list = new BlockList();
  list.addSubnet('169.254.0.0', 16, 'ipv4');
  list.addSubnet('fe80::', 10, 'ipv6');

  it('are those of the ranges, IPv4 in IPv6 included', (t) => {
    const seed = SAMPLE;
    t.diagnostic(`seed ${seed}`);
    const roll = dice(seed);
    const some = (...values: number[]): number => values[roll(values.length)]!;
    for (let i = 0; i < (TORTURE ? 200_000 : 5000); i++) {
      const v4 = [some(169, 168, roll(256)), some(254, 253, 255, roll(256)), roll(256), roll(256)].join('.');
      assert.equal(isLinkLocal(v4), list.check(v4, 'ipv4'), v4);
      assert.equal(isLinkLocal(`[::ffff:${v4}]`), list.check(v4, 'ipv4'), v4);
      const zeroes = roll(7);
      const groups = Array.from({length: 8}, (_, n) =>
        n > 0 && n <= zeroes ? 0 : some(0xfe80, 0xfebf, 0xfec0, 0xfe7f, 0x2001, roll(65536)),
      );
      const v6 = groups.map((group) => group.toString(16)).join(':');
      // NAT64 and 6to4 carry IPv4 addresses, which node's list does not look into.
      if (groups[0] !== 0 && groups[0] !== 0x64 && groups[0] !== 0x2002) assert.equal(isLinkLocal(`[${v6}]`), list.check(v6, 'ipv6'), v6);
    }
  });
  it('are known however they are written', () => {
    for (const text of [
      ...['169.254.169.254', '2852039166', '0xa9fea9fe', '0xa9.0xfe.0xa9.0xfe', '0251.0376.0251.0376', '169.16689662', '169.254.43518'],
      ...['[::ffff:169.254.169.254]', '[::ffff:a9fe:a9fe]', '[::169.254.169.254]', '[64:ff9b::a9fe:a9fe]', '[2002:a9fe:a9fe::1]'],
      ...['[::ffff:0:169.254.1.1]', '[fe80::1]', '[FEBF::1]', 'fe80::1%eth0', '１６９.254.169.254'],
      ...['[fd00:ec2::254]', '[fd20:ce::254]', '100.100.100.200'],
    ])
      assert.ok(isLinkLocal(text), text);
    for (const text of [
      '169.253.0.1',
      '169.254.example',
      '169.254.1.1.example',
      '[fec0::1]',
      '[fd00::1]',
      '[::1]',
      '127.0.0.1',
      'fe80',
      'localhost',
    ])
      assert.ok(!isLinkLocal(text), text);
  });
  it('have one form each', () => {
    for (const [text, expected] of [
      ['[::FFFF:127.0.0.1]', '127.0.0.1'],
      ['0x7f.1', '127.0.0.1'],
      ['[::1]', '::1'],
      ['[2001:DB8:0::1]', '2001:db8::1'],
      ['registry.example', undefined],
    ] as const)
      assert.equal(canonicalAddress(text), expected, text);
  });
});

const BYTES = randomBytes(5000);

interface Way {
  /** Has the registry lead to a URL at this host; a pull that goes there. */
  go(t: TestContext, host: string, network: (registry: FakeRegistry) => FakeNetwork, hosts?: HostSource): Promise<Led>;
}

interface Led {
  readonly network: FakeNetwork;
  readonly registry: FakeRegistry;
  readonly pull: Promise<unknown>;
}

/** A remote that knows a registry on loopback, by its address. */
async function rig(t: TestContext, makeNetwork: (registry: FakeRegistry) => FakeNetwork, hosts?: HostSource) {
  const registry = await startFakeRegistry(t);
  const network = makeNetwork(registry);
  const remote = openRemote({backoffMs: 1, connectTimeoutMs: 2000, allowForeign: true}, {network, ...(hosts && {hosts})});
  onEnd(t, () => remote.close());
  const image = registry.addImage('team/app', 'v1', [BYTES]);
  const ref = {domain: registry.host, path: 'team/app', tag: 'v1'};
  return {registry, network, remote, image, ref, fetcher: remote.fetcher(ref)};
}

/** Where a redirect leads it is served, so that nothing but the rule keeps it from succeeding. */
const WAYS: Readonly<Record<string, Way>> = {
  'a redirect of a blob': {
    async go(t, host, makeNetwork, hosts) {
      const {registry, network, image, fetcher} = await rig(t, makeNetwork, hosts);
      const path = `/v2/team/app/blobs/${image.layers[0]!.digest}`;
      registry.fault({path: /blobs/, times: 1, redirect: `http://${host}${path}`});
      return {registry, network, pull: streamed(fetcher, image.layers[0]!)};
    },
  },
  'a redirect of a manifest': {
    async go(t, host, makeNetwork, hosts) {
      const {registry, network, remote, ref} = await rig(t, makeNetwork, hosts);
      registry.fault({times: 1, redirect: `http://${host}/v2/team/app/manifests/v1`});
      return {registry, network, pull: remote.resolve(ref)};
    },
  },
  'a token server': {
    async go(t, host, makeNetwork, hosts) {
      const {registry, network, remote, ref} = await rig(t, makeNetwork, hosts);
      registry.fault({times: 1, status: 401, headers: {'www-authenticate': `Bearer realm="http://${host}/token",service="x"`}});
      registry.fault({path: /^\/token/, body: () => Buffer.from('{"token":"t"}'), status: 200, headers: {'content-length': null}});
      return {registry, network, pull: remote.resolve(ref)};
    },
  },
  'a redirect of a token server': {
    async go(t, host, makeNetwork, hosts) {
      const {registry, network, remote, ref} = await rig(t, makeNetwork, hosts);
      registry.fault({times: 1, status: 401, headers: {'www-authenticate': `Bearer realm="${registry.url}/token",service="x"`}});
      registry.fault({path: /^\/token/, times: 1, redirect: `http://${host}/token`});
      registry.fault({path: /^\/token/, body: () => Buffer.from('{"token":"t"}'), status: 200, headers: {'content-length': null}});
      return {registry, network, pull: remote.resolve(ref)};
    },
  },
  'the URL of a foreign layer': {
    async go(t, host, makeNetwork, hosts) {
      const {registry, network, fetcher} = await rig(t, makeNetwork, hosts);
      const desc = registry.addBlob(BYTES, DOCKER_FOREIGN_LAYER);
      // All hosts say that they do not have it, so that the URL decides.
      registry.fault({path: /team\/app\/blobs/, times: hosts === undefined ? 1 : 2, status: 404});
      const urls = [`http://${host}/v2/x/blobs/${desc.digest}`];
      return {registry, network, pull: streamed(fetcher, {...desc, urls})};
    },
  },
};

/** Never the registry's own: none of these is a way by itself. */
const SPELLINGS = [
  '169.254.169.254',
  '2852039166',
  '0xa9fea9fe',
  '0251.0376.0251.0376',
  '[::ffff:a9fe:a9fe]',
  '[fe80::1]',
  '[fd00:ec2::254]',
];

for (const [way, {go}] of Object.entries(WAYS))
  describe(`${way} to an address of the link`, () => {
    for (const host of SPELLINGS)
      it(`is refused as ${host}`, async (t) => {
        const {network, pull} = await go(t, host, (registry) => fakeNetwork(registry.host));
        await assert.rejects(pull, is('failed_precondition'));
        assert.deepEqual(network.reached, []);
      });
    for (const address of ['169.254.169.254', 'fe80::1', '::ffff:169.254.169.254'])
      it(`is refused as a name that resolves to ${address}`, async (t) => {
        const {network, pull} = await go(t, 'meta.example', ({host}) => fakeNetwork(host, {'meta.example': [[address]]}));
        await assert.rejects(pull, is('failed_precondition'));
        assert.deepEqual(network.reached, []);
      });
    it('is refused as a name that resolves to it later, and to another address before', async (t) => {
      const names = {'meta.example': [['203.0.113.1'], ['169.254.169.254']]};
      const {network, pull} = await go(t, 'meta.example', ({host}) => fakeNetwork(host, names));
      await pull.catch(() => undefined);
      assert.deepEqual(network.reached, ['203.0.113.1']);
    });
    it('is taken at the other addresses that its name has', async (t) => {
      const names = {'meta.example': [['fe80::7', '203.0.113.1']]};
      const {network, pull} = await go(t, 'meta.example', ({host}) => fakeNetwork(host, names));
      await pull;
      assert.deepEqual(network.reached, ['203.0.113.1']);
    });
    it('is followed where the hosts name that address', async (t) => {
      const hosts: HostSource = async (domain) => [
        {domain, origin: `http://${domain}`, path: '/v2'},
        {domain, origin: 'http://[::ffff:169.254.7.7]:5000', path: '/v2'},
      ];
      const {network, pull} = await go(t, '169.254.7.7', ({host}) => fakeNetwork(host), hosts);
      await pull;
      assert.equal(network.reached.at(-1), '169.254.7.7');
    });
  });

describe('a registry', () => {
  it('that a reference names by its address is asked there', async (t) => {
    const {network, remote, image} = await rig(t, ({host}) => fakeNetwork(host));
    const {descriptor} = await remote.resolve({domain: '169.254.7.7:5000', path: 'team/app', tag: 'v1'});
    assert.deepEqual([descriptor, network.reached], [image.manifest, ['169.254.7.7']]);
  });
  it('whose name resolves to an address of the link is not asked', async (t) => {
    const {network, remote} = await rig(t, ({host}) => fakeNetwork(host, {'registry.example': [['169.254.169.254']]}));
    await assert.rejects(remote.resolve({domain: 'registry.example', path: 'a', tag: 'b'}), (err: Error & {hint?: string}) => {
      is('failed_precondition')(err);
      assert.match(`${err.message}\n${err.hint}`, /registry\.example: link-local addresses .*\n.*hosts\.toml/);
      return true;
    });
    assert.deepEqual(network.reached, []);
  });
});

describe('the words of an answer', () => {
  it('from where a registry led are not shown', async (t) => {
    const {registry, image, fetcher} = await rig(t, ({host}) => fakeNetwork(host));
    registry.fault({path: /blobs/, times: 1, redirect: 'http://203.0.113.1/secret'});
    registry.fault({path: /secret/, status: 403, code: 'DENIED', message: 'the-secret-of-the-place'});
    await assert.rejects(streamed(fetcher, image.layers[0]!), (err: Error & {hint?: string; details?: object}) => {
      is('permission_denied')(err);
      assert.doesNotMatch(`${err.message} ${err.hint} ${JSON.stringify(err.details)}`, /the-secret|DENIED/);
      return true;
    });
  });
  it('of a token server at an address of its own are not shown, those of one with a name are', async (t) => {
    for (const [host, isShown] of [
      ['203.0.113.1', false],
      ['auth.example', true],
    ] as const) {
      const {registry, remote, ref} = await rig(t, (r) => fakeNetwork(r.host, {'auth.example': [['203.0.113.1']]}));
      registry.fault({times: 1, status: 401, headers: {'www-authenticate': `Bearer realm="http://${host}/token",service="x"`}});
      registry.fault({path: /^\/token/, status: 403, code: 'DENIED', message: 'the-words-of-the-place'});
      await assert.rejects(remote.resolve(ref), (err: Error & {details?: object}) => {
        is('permission_denied')(err);
        assert.equal(/the-words/.test(`${err.message} ${JSON.stringify(err.details)}`), isShown, host);
        return true;
      });
    }
  });
});
