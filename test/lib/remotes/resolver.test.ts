import {randomBytes} from 'node:crypto';
import {mkdirSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import type {TestContext} from 'node:test';
import {digestParts} from '../../../src/lib/oci/descriptor.ts';
import {openRemote, type RemoteOptions} from '../../../src/lib/remotes/index.ts';
import {digestOf, type FakeOptions, type Fault, startFakeRegistry} from '../../fakes/registry.ts';
import {type Content, type Opened, REPOSITORY, resolverSuite} from '../../suites/resolver.ts';
import {temporaryDirectory} from '../../support/helpers.ts';
import {pushImage, type Registry, sharedRegistry} from '../../support/registry.ts';

const registry = sharedRegistry();
const pushed = new Map<Content, Promise<void>>();

/** Through OCI layouts, one for each document, as a registry's test helper takes them. */
async function push(t: TestContext, to: Registry, {blobs, documents}: Content): Promise<void> {
  for (const {bytes, mediaType, tag} of documents) {
    const dir = temporaryDirectory(t);
    for (const blob of [...blobs, ...documents.map((d) => d.bytes)]) {
      const [algorithm, hex] = digestParts(digestOf(blob));
      mkdirSync(join(dir, 'blobs', algorithm), {recursive: true});
      writeFileSync(join(dir, 'blobs', algorithm, hex), blob);
    }
    writeFileSync(join(dir, 'index.json'), JSON.stringify({manifests: [{mediaType, digest: digestOf(bytes), size: bytes.length}]}));
    await pushImage(to, `${REPOSITORY}:${tag}`, dir);
  }
}

resolverSuite('docker-registry', async (t, content) => {
  const running = await registry(t);
  if (running === undefined) return undefined;
  if (!pushed.has(content)) pushed.set(content, push(t, running, content));
  await pushed.get(content);
  return {remote: openRemote(), domain: running.host};
});

const fake =
  (options: FakeOptions, remote: RemoteOptions = {}, fault?: Fault) =>
  async (t: TestContext, {blobs, documents}: Content): Promise<Opened> => {
    const running = await startFakeRegistry(t, options);
    for (const blob of blobs) running.addBlob(blob);
    for (const {bytes, mediaType, tag} of documents) running.addManifest(REPOSITORY, bytes, mediaType, tag);
    if (fault !== undefined) running.fault(fault);
    return {remote: openRemote({backoffMs: 1, ...remote}), domain: running.host};
  };

const login = {username: 'me', password: randomBytes(8).toString('hex')};
resolverSuite('plain', fake({}));
resolverSuite('anonymous tokens', fake({auth: {kind: 'token'}}));
resolverSuite('tokens for a login', fake({auth: {kind: 'token', login}}, {credentials: login}));
resolverSuite('basic authentication', fake({auth: {kind: 'basic', login}}, {credentials: login}));
resolverSuite('truncating each body at 500 kB', fake({}, {}, {method: 'GET', path: /blobs/, truncateAt: 500_000}));
resolverSuite('resetting each connection at 500 kB', fake({}, {}, {method: 'GET', path: /blobs/, resetAt: 500_000}));
resolverSuite('without HEAD', fake({}, {}, {method: 'HEAD', status: 405, code: 'UNSUPPORTED'}));
resolverSuite('without Docker-Content-Digest', fake({}, {}, {headers: {'docker-content-digest': null}}));
resolverSuite('without lengths', fake({}, {}, {chunked: true}));
resolverSuite('without ranges', fake({}, {}, {ignoreRange: true}));
resolverSuite('without types', fake({}, {}, {path: /manifests/, headers: {'content-type': 'application/json'}}));
