/** The built command behind proxies: HTTP and HTTPS, to registries of either kind, on each engine. */
import assert from 'node:assert/strict';
import {it} from 'node:test';
import {selfSigned} from '../fakes/certificate.ts';
import {startFakeProxy} from '../fakes/proxy.ts';
import {startFakeRegistry} from '../fakes/registry.ts';
import {commandLine, forEachEngine} from './harness.ts';

const CERTIFICATE = selfSigned('registry.example', '127.0.0.1');

forEachEngine('a proxy of the environment', (engine) => {
  for (const proxyTLS of [undefined, CERTIFICATE])
    for (const tls of [undefined, CERTIFICATE])
      it(`by ${proxyTLS ? 'HTTPS' : 'HTTP'} leads to a registry with ${tls ? 'HTTPS' : 'HTTP'}`, async (t) => {
        const registry = await startFakeRegistry(t, tls && {tls});
        const proxy = await startFakeProxy(t, registry.host, {login: 'a:b', ...(proxyTLS && {tls: proxyTLS})});
        const url = proxy.url.replace('//', '//a:b@');
        const words = ['ping', '--skip-verify', ...(tls ? [] : ['--plain-http']), 'registry.example/team/app'];
        const {status, stdout, stderr} = await commandLine(t, engine)(words, {
          env: {HTTPS_PROXY: url, HTTP_PROXY: url, NO_PROXY: '10.0.0.0/8'},
        });
        assert.equal(status, 0, stdout + stderr);
        assert.ok(registry.requests.length > 0);
        assert.deepEqual(
          [...new Set(proxy.requests.map(({method, target}) => `${method} ${target}`))],
          [tls ? 'CONNECT registry.example:443' : 'GET http://registry.example/v2/'],
        );
      });
});
