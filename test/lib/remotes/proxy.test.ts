/** Proxies: which one a request has, and what goes through it. */
import assert from 'node:assert/strict';
import {describe, it, type TestContext} from 'node:test';
import fc from 'fast-check';
import {openRemote, type RemoteOptions} from '../../../src/lib/remotes/index.ts';
import {parseProxy, proxyRules} from '../../../src/lib/remotes/proxy.ts';
import {selfSigned} from '../../fakes/certificate.ts';
import {type FakeProxyOptions, startFakeProxy} from '../../fakes/proxy.ts';
import {type FakeOptions, startFakeRegistry} from '../../fakes/registry.ts';
import {streamed} from '../../suites/resolver.ts';
import {is, onEnd, TORTURE} from '../../support/helpers.ts';

type Env = Readonly<Record<string, string>>;

/** The proxy for a URL and the variable it is from; `direct` without one. */
function chosen(env: Env, url: string): string {
  const proxy = proxyRules(env)(new URL(url));
  return proxy === undefined ? 'direct' : `${proxy.source} ${proxy.url.href}`;
}

describe('the proxy of the environment', () => {
  const P = 'http://proxy.example:3128';
  for (const [env, url, expected] of [
    [{}, 'https://r.example/', 'direct'],
    [{HTTPS_PROXY: P}, 'https://r.example/', `HTTPS_PROXY ${P}/`],
    [{https_proxy: P}, 'https://r.example/', `https_proxy ${P}/`],
    [{HTTPS_PROXY: '', https_proxy: P}, 'https://r.example/', `https_proxy ${P}/`],
    [{HTTPS_PROXY: P, https_proxy: 'http://other'}, 'https://r.example/', `HTTPS_PROXY ${P}/`],
    [{HTTPS_PROXY: P}, 'http://r.example/', 'direct'],
    [{HTTP_PROXY: P}, 'https://r.example/', 'direct'],
    [{ALL_PROXY: P}, 'https://r.example/', `ALL_PROXY ${P}/`],
    [{ALL_PROXY: P}, 'http://r.example/', `ALL_PROXY ${P}/`],
    [{ALL_PROXY: 'http://other', HTTP_PROXY: P}, 'http://r.example/', `HTTP_PROXY ${P}/`],
    [{HTTPS_PROXY: 'proxy.example:3128'}, 'https://r.example/', `HTTPS_PROXY ${P}/`],
    [{HTTPS_PROXY: 'proxy.example'}, 'https://r.example/', 'HTTPS_PROXY http://proxy.example/'],
    [{HTTPS_PROXY: 'https://proxy.example'}, 'https://r.example/', 'HTTPS_PROXY https://proxy.example/'],
    [{HTTPS_PROXY: '10.0.0.1:3128'}, 'https://r.example/', 'HTTPS_PROXY http://10.0.0.1:3128/'],
    [{HTTPS_PROXY: P}, 'https://localhost/', 'direct'],
    [{HTTPS_PROXY: P}, 'https://localhost:5000/', 'direct'],
    [{HTTPS_PROXY: P}, 'https://127.0.0.1/', 'direct'],
    [{HTTPS_PROXY: P}, 'https://127.3.2.1:5000/', 'direct'],
    [{HTTPS_PROXY: P}, 'https://[::1]/', 'direct'],
    [{HTTPS_PROXY: P}, 'https://[::ffff:127.0.0.1]/', 'direct'],
    [{HTTPS_PROXY: P, NO_PROXY: '*'}, 'https://r.example/', 'direct'],
    [{HTTPS_PROXY: P, NO_PROXY: ' x.example , R.Example '}, 'https://r.example/', 'direct'],
    [{HTTPS_PROXY: P, no_proxy: 'r.example'}, 'https://r.example/', 'direct'],
    [{HTTPS_PROXY: P, NO_PROXY: 'r.example:443'}, 'https://r.example/', 'direct'],
    [{HTTPS_PROXY: P, NO_PROXY: 'r.example:5000'}, 'https://r.example/', `HTTPS_PROXY ${P}/`],
    [{HTTPS_PROXY: P, NO_PROXY: 'r.example:'}, 'https://r.example/', 'direct'],
    [{HTTPS_PROXY: P, NO_PROXY: 'example'}, 'https://r.example/', 'direct'],
    [{HTTPS_PROXY: P, NO_PROXY: 'xample'}, 'https://r.example/', `HTTPS_PROXY ${P}/`],
    [{HTTPS_PROXY: P, NO_PROXY: '.r.example'}, 'https://r.example/', `HTTPS_PROXY ${P}/`],
    [{HTTPS_PROXY: P, NO_PROXY: '.r.example'}, 'https://a.r.example/', 'direct'],
    [{HTTPS_PROXY: P, NO_PROXY: '*.r.example'}, 'https://a.b.r.example/', 'direct'],
    [{HTTPS_PROXY: P, NO_PROXY: '*.r.example'}, 'https://r.example/', `HTTPS_PROXY ${P}/`],
    [{HTTPS_PROXY: P, NO_PROXY: 'bücher.example'}, 'https://bücher.example/', 'direct'],
    [{HTTPS_PROXY: P, NO_PROXY: ':443,,.,*.'}, 'https://r.example/', `HTTPS_PROXY ${P}/`],
    [{HTTPS_PROXY: P, NO_PROXY: '10.0.0.0/8'}, 'https://10.9.8.7/', 'direct'],
    [{HTTPS_PROXY: P, NO_PROXY: '10.0.0.0/8'}, 'https://11.9.8.7/', `HTTPS_PROXY ${P}/`],
    [{HTTPS_PROXY: P, NO_PROXY: '10.0.0.0/8'}, 'https://[::ffff:10.1.2.3]/', 'direct'],
    [{HTTPS_PROXY: P, NO_PROXY: '0.0.0.0/0'}, 'https://[2001:db8::1]/', `HTTPS_PROXY ${P}/`],
    [{HTTPS_PROXY: P, NO_PROXY: '0.0.0.0/0'}, 'https://r.example/', `HTTPS_PROXY ${P}/`],
    [{HTTPS_PROXY: P, NO_PROXY: '2001:db8::/32'}, 'https://[2001:db8::1]/', 'direct'],
    [{HTTPS_PROXY: P, NO_PROXY: '10.0.0.0/33'}, 'https://10.0.0.0/', `HTTPS_PROXY ${P}/`],
    [{HTTPS_PROXY: P, NO_PROXY: '10.0.0.1'}, 'https://10.0.0.1:5000/', 'direct'],
    [{HTTPS_PROXY: P, NO_PROXY: '10.0.0.1:5000'}, 'https://10.0.0.1/', `HTTPS_PROXY ${P}/`],
    [{HTTPS_PROXY: P, NO_PROXY: '2001:db8:0::1'}, 'https://[2001:db8::1]/', 'direct'],
    [{HTTPS_PROXY: P, NO_PROXY: '[2001:db8::1]:443'}, 'https://[2001:db8::1]/', 'direct'],
    [{HTTPS_PROXY: P, NO_PROXY: '[2001:db8::1]'}, 'https://[2001:db8::1]/', `HTTPS_PROXY ${P}/`],
    [{HTTPS_PROXY: P, NO_PROXY: '0.0.1'}, 'https://10.0.0.1/', `HTTPS_PROXY ${P}/`],
    [{HTTPS_PROXY: P, REQUEST_METHOD: 'GET'}, 'https://r.example/', `HTTPS_PROXY ${P}/`],
    [{ALL_PROXY: P, REQUEST_METHOD: 'GET'}, 'http://r.example/', `ALL_PROXY ${P}/`],
  ] as const satisfies readonly (readonly [Env, string, string])[])
    it(`is ${expected} for ${url} with ${JSON.stringify(env)}`, () => assert.equal(chosen(env, url), expected));

  it('is not one that a request to a CGI program may have set', () =>
    assert.throws(() => chosen({HTTP_PROXY: P, REQUEST_METHOD: 'GET'}, 'http://r.example/'), is('failed_precondition')));
  for (const wrong of ['socks5://proxy.example:1080', 'http://', 'http://[', 'ftp://x', 'http:// x'])
    it(`is an error where it is ${wrong}, without its text`, () => {
      const secret = wrong.replace('//', '//me:s3cret@');
      assert.throws(
        () => chosen({HTTPS_PROXY: secret}, 'https://r.example/'),
        (err: Error) => is('invalid_argument')(err) === undefined || !err.message.includes('s3cret'),
      );
    });

  // Each entry is made from the host that it is to match, or from one that differs where it counts.
  it('is passed over for the hosts of NO_PROXY only, whatever else is in it', () => {
    const label = fc.stringMatching(/^[a-z]([a-z0-9-]{0,4}[a-z0-9])?$/);
    const names = fc.array(label, {minLength: 2, maxLength: 4}).filter((parts) => parts.join('.') !== 'localhost');
    const ports = fc.constantFrom('', '443', '5000');
    const cases = fc.record({names, port: ports, other: label, kind: fc.nat(7), only: ports});
    fc.assert(
      fc.property(
        cases,
        fc.array(fc.constantFrom('z.invalid', '.z.invalid', '192.0.2.0/24', '[', ':1', ''), {maxLength: 3}),
        (c, noise) => {
          const host = c.names.join('.');
          const parent = c.names.slice(1).join('.');
          const suffix = c.only === '' ? '' : `:${c.only}`;
          const isPort = c.only === '' || c.only === (c.port || '443');
          const [entry, matches] = (
            [
              [host, true],
              [`.${host}`, false],
              [`*.${host}`, false],
              [parent, true],
              [`.${parent}`, true],
              [`*.${parent}`, true],
              [`${c.other}q.${host}`, false],
              [`q${host}`, false],
            ] as const
          )[c.kind]!;
          const list = [...noise, entry.toUpperCase() + suffix, ...noise].join(' , ');
          const got = chosen({HTTPS_PROXY: P, NO_PROXY: list}, `https://${host}${c.port === '' ? '' : `:${c.port}`}/`);
          assert.equal(got === 'direct', matches && isPort, list);
        },
      ),
      {seed: 1, numRuns: TORTURE ? 50_000 : 1000},
    );
  });
  it('is passed over for networks of NO_PROXY by their leading bits', () => {
    const quad = fc.tuple(fc.integer({min: 1, max: 126}), fc.nat(255), fc.nat(255), fc.nat(255));
    const bits = (ip: readonly number[]): string => ip.map((byte) => byte.toString(2).padStart(8, '0')).join('');
    fc.assert(
      fc.property(quad, quad, fc.integer({min: 0, max: 32}), fc.boolean(), (base, other, prefix, isNear) => {
        const ip = isNear ? ([...base.slice(0, 3), other[3]] as const) : other;
        const expected = bits(base).slice(0, prefix) === bits(ip as readonly number[]).slice(0, prefix);
        assert.equal(chosen({HTTPS_PROXY: P, NO_PROXY: `${base.join('.')}/${prefix}`}, `https://${ip.join('.')}/`) === 'direct', expected);
      }),
      {seed: 1, numRuns: TORTURE ? 50_000 : 1000},
    );
  });
  it('may have credentials, with any characters in percent encoding', () => {
    const url = parseProxy('http://me:p%40ss@proxy.example:3128')!;
    assert.deepEqual([url.username, url.password, url.host], ['me', 'p%40ss', 'proxy.example:3128']);
  });
  for (const login of ['me:100%', 'me:50%off', '%:secret', 'me:%ff'])
    it(`has no credentials that cannot be decoded: ${login}`, () => {
      assert.equal(parseProxy(`http://${login}@proxy.example:3128`), undefined);
      assert.throws(
        () => chosen({HTTPS_PROXY: `http://${login}@proxy.example:3128`}, 'https://r.example/'),
        (err: Error & {hint?: string}) => is('invalid_argument')(err) && !err.message.includes(login) && /%25/.test(err.hint ?? ''),
      );
    });
});

const NAME = 'registry.example';
const CERTIFICATE = selfSigned(NAME, '127.0.0.1');

interface World {
  readonly registry?: FakeOptions;
  readonly proxy?: FakeProxyOptions;
  readonly remote?: RemoteOptions;
  /** User and password in the proxy's URL. */
  readonly userInfo?: string;
}

/** A registry that only the proxy reaches, and a client. */
async function behindProxy(t: TestContext, {registry: fake = {}, proxy: options = {}, remote: more = {}, userInfo = ''}: World) {
  const registry = await startFakeRegistry(t, fake);
  const image = registry.addImage('team/app', 'v1', [Buffer.alloc(100_000, 1)]);
  const proxy = await startFakeProxy(t, registry.host, options);
  const url = proxy.url.replace('//', `//${userInfo}`);
  const remote = openRemote({
    backoffMs: 1,
    skipVerify: true,
    env: {HTTPS_PROXY: url, HTTP_PROXY: url},
    plainHTTP: fake.tls === undefined,
    ...more,
  });
  onEnd(t, () => remote.close());
  const ref = {domain: NAME, path: 'team/app', tag: 'v1'};
  return {registry, image, proxy, remote, ref, fetcher: remote.fetcher(ref)};
}

describe('through a proxy', () => {
  const login = {username: 'me', password: 'registry-secret'};
  for (const tls of [undefined, CERTIFICATE])
    for (const proxyTLS of [undefined, CERTIFICATE])
      it(`goes ${tls ? 'HTTPS' : 'HTTP'} by ${proxyTLS ? 'HTTPS' : 'HTTP'}, and each gets its own credentials only`, async (t) => {
        const {registry, image, proxy, remote, ref, fetcher} = await behindProxy(t, {
          registry: {auth: {kind: 'basic', login}, ...(tls && {tls})},
          proxy: {login: 'pröxy:s3cret', ...(proxyTLS && {tls: proxyTLS})},
          remote: {credentials: login},
          userInfo: 'pr%C3%B6xy:s3cret@',
        });
        await remote.resolve(ref);
        assert.equal((await streamed(fetcher, image.layers[0]!)).length, 100_000);
        assert.ok(registry.requests.length > 0 && proxy.requests.length > 0);
        for (const {headers} of registry.requests) assert.equal(headers['proxy-authorization'], undefined);
        for (const {method, target, authorization} of proxy.requests) {
          if (tls === undefined) assert.match(target, /^http:\/\/registry\.example\/v2\/team\/app\//);
          else assert.deepEqual([method, target, authorization], ['CONNECT', 'registry.example:443', undefined]);
        }
        assert.ok(registry.requests.every(({headers}) => headers.host === NAME));
      });

  for (const [options, tls, code, text] of [
    [{login: 'a:b'}, CERTIFICATE, 'unauthenticated', /proxy 127\.0\.0\.1:\d+: the proxy requires other credentials/],
    [{login: 'a:b'}, undefined, 'unauthenticated', /proxy 127\.0\.0\.1:\d+: the proxy requires other credentials/],
    [{status: 403}, CERTIFICATE, 'permission_denied', /proxy 127\.0\.0\.1:\d+: the proxy does not permit this connection/],
    [{status: 503}, CERTIFICATE, 'unavailable', /proxy 127\.0\.0\.1:\d+: the proxy did not reach the host/],
    [{status: 302}, CERTIFICATE, 'unavailable', /proxy 127\.0\.0\.1:\d+: the response is not HTTP/],
  ] as const)
    it(`is ${code} where the proxy answers ${JSON.stringify(options)} to ${tls ? 'CONNECT' : 'a request'}`, async (t) => {
      const {remote, ref} = await behindProxy(t, {registry: tls ? {tls} : {}, proxy: options, userInfo: 'me:s3cret@'});
      await assert.rejects(remote.resolve(ref), (err: Error & {hint?: string}) => {
        is(code)(err);
        assert.match(err.message, text);
        assert.doesNotMatch(JSON.stringify([err, err.message, err.hint]), /s3cret/);
        return true;
      });
    });
  it('is unavailable, by its name, if nothing listens at its address', async (t) => {
    const {remote, ref} = await behindProxy(t, {
      registry: {tls: CERTIFICATE},
      remote: {env: {HTTPS_PROXY: 'http://me:s3cret@127.0.0.1:1'}},
    });
    await assert.rejects(remote.resolve(ref), (err: Error) => {
      is('unavailable')(err);
      assert.match(err.message, /registry\.example: proxy 127\.0\.0\.1:1: connection refused/);
      return true;
    });
  });
  it('verifies the certificate of the registry, and of the proxy', async (t) => {
    const other = selfSigned('other.example');
    for (const [registryTLS, proxyTLS, text] of [
      [CERTIFICATE, undefined, /: resolve \S+: registry\.example: the certificate is signed by/],
      [CERTIFICATE, other, /registry\.example: proxy 127\.0\.0\.1:\d+: the certificate is (?:signed by|for another name)/],
    ] as const) {
      const {remote, ref, registry} = await behindProxy(t, {
        registry: {tls: registryTLS},
        proxy: proxyTLS === undefined ? {} : {tls: proxyTLS},
        remote: {skipVerify: false},
      });
      await assert.rejects(remote.resolve(ref), text);
      assert.deepEqual(registry.requests, []);
    }
  });
  it('does not lead to link-local addresses either', async (t) => {
    const {registry, image, remote, ref, fetcher, proxy} = await behindProxy(t, {registry: {tls: CERTIFICATE}});
    await remote.resolve(ref);
    const before = proxy.requests.length;
    for (const target of ['https://169.254.169.254/x', 'http://[fe80::1]/x']) {
      registry.fault({path: /blobs/, redirect: target, times: 1});
      await assert.rejects(streamed(fetcher, image.layers[0]!), is('failed_precondition'));
    }
    assert.ok(proxy.requests.slice(before).every(({target}) => target === 'registry.example:443'));
  });
  it('closes pending connections', async (t) => {
    const {remote, ref} = await behindProxy(t, {registry: {tls: CERTIFICATE}});
    const going = assert.rejects(remote.resolve(ref), is('canceled'));
    await new Promise(setImmediate);
    await remote.close();
    await going;
  });
});
